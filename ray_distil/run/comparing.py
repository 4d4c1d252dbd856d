"""The stage of evaluation put together from the configuration: each model on each benchmark, an artifact of its own.

    benchmarks/aime24         the problems of a declared benchmark; the held-out ones are in `instructions`
    eval/fast/aime24          one model's answers to them

A distillation run and `jobs/eval.py` make the same artifacts by the same functions.
"""

from functools import cache
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from ray_distil.config import TRAINED, EvaluatedModel
from ray_distil.config.engine_config import Asked
from ray_distil.config.evaluation_config import HELD_OUT, BenchmarkConfig, folder_of
from ray_distil.rows import benchmarks, evaluation, scorers
from ray_distil.rows.problems import EVAL
from ray_distil.rows.scores import COLUMNS
from ray_distil.run import asking, made_of
from ray_distil.run.runs import Run
from ray_distil.store import schemas
from ray_distil.store.artifact import Artifact
from ray_distil.store.ids import IdSet
from ray_distil.store.manifest import STUDENT, model_fingerprint, versions
from ray_distil.store.reuse import Known, Renew, Reuse
from ray_distil.store.schemas import stable_id
from ray_distil.store.shards import table_of

if TYPE_CHECKING:
    from ray.data import Dataset

Row = dict[str, Any]
Asks = list[tuple[BenchmarkConfig, Artifact]]  # benchmarks, each with its problems


def make_benchmarks(run: Run, held_out: Artifact | None = None) -> Asks:
    """The problems of each benchmark of the configuration. `held_out`: the run's own, if it has some."""
    made: Asks = []
    for benchmark in run.config.evaluation.benchmarks:
        if benchmark.name == HELD_OUT:
            if held_out is not None:
                made.append((benchmark, held_out))
        elif run.config.evaluation.models:
            made.append((benchmark, _problems(run, benchmark)))
    return made


def _problems(run: Run, benchmark: BenchmarkConfig) -> Artifact:
    def make(artifact: Artifact) -> tuple[int, Row]:
        rows = benchmarks.problems(benchmark)
        if not rows:
            run.display.say(f"{benchmark.name}: {benchmark.path!r} holds no problem")
        artifact.write_table(table_of(rows, schemas.BENCHMARK), benchmarks.STAGE)
        return len(rows), {"limit": benchmark.limit}

    settings, name = made_of.of_benchmark(benchmark).settings, f"benchmarks/{benchmark.name}"
    inputs = [benchmarks.content(benchmark)]
    return run.stage(benchmarks, name, schemas.BENCHMARK, "problems", settings, inputs, make)


def make_evaluation(
    run: Run, problems: Artifact, benchmark: BenchmarkConfig, evaluated: EvaluatedModel, model: str, model_mark: str
) -> Artifact:
    """One model's answers. `model_mark` tells it from others: its own fingerprint, or that of its training."""
    config = run.config.evaluation
    name, label, kind = evaluated.name, config.label(benchmark), benchmark.answer
    (system_prompt, _), who = run.config.asked_with(evaluated), run.config.asked_by(evaluated)
    num_samples, sampling = config.samples_of(benchmark), config.sampling_of(benchmark)

    def make(artifact: Artifact) -> tuple[int, Row]:
        rows_in = problems.count("split", EVAL) * num_samples
        asked = {
            "name": name,
            "benchmark": label,
            "num_samples": num_samples,
            "sampling_params": asking.params(sampling, who, model),
            "seed": run.config.run.seed,
            "suffix": run.config.instructions.suffix if benchmark.name == HELD_OUT else "",
            "system_prompt": system_prompt,
        }

        def parts(done: IdSet) -> list["Dataset"]:
            generate = asking.generate(run, who, model)
            return [evaluation.evaluate(problems.read(), generate, kind, done=done, **asked)]

        run.generate(artifact, rows_in, evaluation.STAGE, parts, parallel=True, imports=asking.imports(who))
        answers = artifact.read_table(["eval_id", *COLUMNS])
        made = evaluation.summarise(answers, artifact.rejected(), name, label)
        return rows_in, made | {"scored_by": scorers.scored_by(kind), "engine": _engine(who)}

    @cache
    def known_problems() -> Known:
        columns = [c for c in ("instruction_id", *evaluation.OF_A_PROBLEM) if c in problems.schema.names]
        tables = (table.filter(pc.equal(table["split"], EVAL)) for table in problems.tables([*columns, "split"]))
        return Known((table.select(columns) for table in tables), "instruction_id")

    def refused(row: Row, reason: str) -> bool:
        """A problem that did not fit into the context does not under the same limits."""
        if reason != "prompt_too_long" or row["sample_index"] >= num_samples:
            return False
        return known_problems().rows([row["instruction_id"]]) != [None]

    def renewer() -> Renew:
        known = known_problems()

        def renew(row: Row, alike: bool, problem: Row | None) -> Row | None:
            if problem is None or row["sample_index"] >= num_samples:
                return None
            return evaluation.renewed(row, problem, kind, sampling.max_tokens, alike)

        return lambda rows, alike: list(map(renew, rows, alike, known.rows([row["instruction_id"] for row in rows])))

    made = made_of.of_evaluation(run, evaluated, benchmark, model, model_mark)
    inputs, how = [problems.content(), model_mark], {"reuse": Reuse(made.asked, None, renewer, refused), "resume": True}
    artifact = f"eval/{name}/{folder_of(label)}"
    return run.stage(evaluation, artifact, schemas.EVAL, "answers", made.settings, inputs, make, **how)


def _engine(who: Asked) -> str:
    """Who answers, with its version, as the report says it."""
    if who.endpoint is not None:
        return f"endpoint {who.endpoint.model}"
    return next((f"{name} {number}" for name, number in versions().items() if name.startswith("vllm")), "vllm")


def make_given_evaluations(run: Run, asks: Asks) -> None:
    """Evaluation of the models that are there before training."""
    for index, model in enumerate(run.config.evaluation.models):
        source = run.models.get(f"evaluation.models.{index}.model_source")
        if source is None:
            continue
        mark = model_fingerprint(source) if model.endpoint is None else stable_id("endpoint", source)
        for benchmark, problems in asks:
            make_evaluation(run, problems, benchmark, model, source, mark)


def make_student_evaluations(run: Run, asks: Asks, checkpoint: Artifact) -> None:
    """Evaluation of the student that the run has trained."""
    for model in run.config.evaluation.models:
        for benchmark, problems in asks if model.model_source == TRAINED else ():
            student = (checkpoint.folder / STUDENT).uri
            make_evaluation(run, problems, benchmark, model, student, checkpoint.fingerprint)
