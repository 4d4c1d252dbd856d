"""The stages of a run in their order: each function makes one artifact of those before it.

    from ray_distil import stages
    problems = stages.make_instructions(run, stages.read_problems(config))
    responses = stages.make_responses(run, problems)

A stage is one file: its class, what its artifact depends on, and its row functions. Stages do not import each other, but for timing, which asks as the evaluation does.
"""

from collections.abc import Iterator

from ray_distil.config import TRAINED, EvaluatedModel, StagesConfig
from ray_distil.config.evaluation_config import HELD_OUT, BenchmarkConfig
from ray_distil.errors import UserError
from ray_distil.generate import generators
from ray_distil.records.problem_facts import StoredProblems
from ray_distil.records.problems import Problems
from ray_distil.runner.runs import Run
from ray_distil.stages.benchmarks import Benchmarks
from ray_distil.stages.checkpoint import Checkpoint
from ray_distil.stages.eval import Eval
from ray_distil.stages.instructions import Instructions, read_problems
from ray_distil.stages.packed import Packed
from ray_distil.stages.responses import Responses
from ray_distil.stages.rewrites import Rewrites
from ray_distil.stages.sft_examples import SftExamples
from ray_distil.stages.timing import Timing
from ray_distil.store.artifact import Artifact
from ray_distil.store.manifest import STUDENT, model_fingerprint
from ray_distil.store.schemas import stable_id

__all__ = [
    "compared_models", "enabled_gates", "make_benchmarks", "make_checkpoint", "make_examples", "make_given_evaluations", "make_instructions",
    "make_packed", "make_responses", "make_rewrites", "make_student_evaluations", "make_timings", "models_before_training",
    "read_problems", "refuse_lost_answers",
]  # fmt: skip

WithProblems = list[tuple[BenchmarkConfig, Artifact]]  # benchmarks, each with its problems
Compared = tuple[EvaluatedModel, str, str]  # a model's declaration; its folder or hub name; its `model_mark`


def enabled_gates(config: StagesConfig) -> list[str]:
    """The names of the gates that are on, in their order, and the import paths of those of the user's own."""
    return config.gates.enabled


def make_instructions(run: Run, records: Problems | StoredProblems) -> Artifact:
    return run.make(Instructions(run, records))


def make_responses(run: Run, problems: Artifact) -> Artifact:
    return run.make(Responses(run, problems))


def make_rewrites(run: Run, responses: Artifact) -> Artifact | None:
    """None where nobody rewrites (`generators.rewriter`)."""
    rewriter = generators.rewriter(run.config, run.models, run.date)
    return None if rewriter is None else run.make(Rewrites(run, responses, rewriter))


def make_examples(run: Run, responses: Artifact, rewrites: Artifact | None) -> Artifact:
    return run.make(SftExamples(run, responses, rewrites))


def make_packed(run: Run, examples: Artifact) -> Artifact:
    return run.make(Packed(run, examples))


def make_checkpoint(run: Run, packed: Artifact) -> Artifact:
    return run.make(Checkpoint(run, packed))


def make_benchmarks(run: Run, held_out: Artifact | None = None) -> WithProblems:
    """The problems of each benchmark of the configuration. `held_out`: the run's own held-out problems, if any."""
    with_problems: WithProblems = []
    for benchmark in run.config.evaluation.benchmarks:
        if benchmark.name == HELD_OUT:
            if held_out is not None:
                with_problems.append((benchmark, held_out))
        elif run.config.evaluation.models:
            with_problems.append((benchmark, run.make(Benchmarks(run, benchmark))))
    return with_problems


def refuse_lost_answers(run: Run, benchmarks: WithProblems) -> None:
    """Raise at once what `make_given_evaluations`, which may work in a thread beside other stages, would raise late.

    A model that is not there yet has no answers that could be lost.
    """
    for model in models_before_training(run):
        for benchmark, problems in benchmarks:
            try:
                stage = Eval(run, problems, benchmark, *model)
            except (UserError, OSError):
                continue
            run.refuse_loss(stage)


def make_given_evaluations(run: Run, benchmarks: WithProblems) -> None:
    """Evaluate the models that exist before training."""
    for model in models_before_training(run):
        for benchmark, problems in benchmarks:
            run.make(Eval(run, problems, benchmark, *model))


def make_student_evaluations(run: Run, benchmarks: WithProblems, checkpoint: Artifact) -> None:
    """Evaluate the student that the run has trained."""
    for model in _trained(run, checkpoint):
        for benchmark, problems in benchmarks:
            run.make(Eval(run, problems, benchmark, *model))


def make_timings(run: Run, benchmarks: WithProblems, checkpoint: Artifact | None = None) -> None:
    """Time all models, if `num_timed` asks for it. This is the last stage: nothing else of the run works beside it."""
    if not run.config.evaluation.num_timed:
        return
    for model in (*models_before_training(run), *(_trained(run, checkpoint) if checkpoint else ())):
        for benchmark, problems in benchmarks:
            run.make(Timing(Eval(run, problems, benchmark, *model)))


def models_before_training(run: Run) -> Iterator[Compared]:
    """The compared models that exist before the student is trained."""
    for index, model in enumerate(run.config.evaluation.models):
        source = run.models.get(f"evaluation.models.{index}.model_source")
        if source is not None:
            mark = model_fingerprint(source) if model.endpoint is None else stable_id("endpoint", source)
            yield model, source, mark


def compared_models(run: Run, checkpoint: Artifact) -> Iterator[Compared]:
    """The compared models that exist: also the trained student, if its training has a fingerprint."""
    yield from models_before_training(run)
    if checkpoint.fingerprint:
        yield from _trained(run, checkpoint)


def _trained(run: Run, checkpoint: Artifact) -> Iterator[Compared]:
    for model in run.config.evaluation.models:
        if model.model_source == TRAINED:
            yield model, (checkpoint.folder / STUDENT).uri, checkpoint.fingerprint
