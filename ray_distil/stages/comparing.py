"""The stage of evaluation, built from the configuration: one artifact for each model on each benchmark.

    benchmarks/aime24         the problems of a declared benchmark; held-out problems are in `instructions`
    eval/fast/aime24          one model's answers to these problems
    timing/fast/aime24        the model's seconds for some of them, with `evaluation.num_timed`

A distillation run and `jobs/eval.py` make the same artifacts by the same functions.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from heapq import nsmallest
from typing import TYPE_CHECKING, Any

from ray_distil.config import TRAINED, EvaluatedModel
from ray_distil.config.evaluation_config import HELD_OUT, BenchmarkConfig, folder_of
from ray_distil.errors import UserError
from ray_distil.generate import generators
from ray_distil.generate.generation import TIMES
from ray_distil.generate.generator import Generator
from ray_distil.judge import scorers, scores
from ray_distil.judge.scores import COLUMNS
from ray_distil.runner.runs import Run
from ray_distil.runner.stage import GeneratingStage, Made, Row, Stage, of_split, renewed
from ray_distil.stages import benchmarks, evaluation, made_of, timing
from ray_distil.stages.problems import EVAL
from ray_distil.stages.question import Question
from ray_distil.store import schemas
from ray_distil.store.artifact import Artifact
from ray_distil.store.ids import IdSet
from ray_distil.store.manifest import STUDENT, model_fingerprint
from ray_distil.store.reuse import Known, Renew, Reuse
from ray_distil.store.schemas import stable_id
from ray_distil.store.shards import table_of
from ray_distil.store.superseded import saved_made_of

if TYPE_CHECKING:
    from ray.data import Dataset

Asks = list[tuple[BenchmarkConfig, Artifact]]  # benchmarks, each with its problems


def make_benchmarks(run: Run, held_out: Artifact | None = None) -> Asks:
    """The problems of each benchmark of the configuration. `held_out`: the run's own held-out problems, if any."""
    made: Asks = []
    for benchmark in run.config.evaluation.benchmarks:
        if benchmark.name == HELD_OUT:
            if held_out is not None:
                made.append((benchmark, held_out))
        elif run.config.evaluation.models:
            made.append((benchmark, run.make(BenchmarkProblems(run, benchmark))))
    return made


class BenchmarkProblems(Stage):
    """The problems of one benchmark."""

    rows, schema, unit = benchmarks, schemas.BENCHMARK, "problems"

    def __init__(self, run: Run, benchmark: BenchmarkConfig) -> None:
        self.run, self.benchmark, self.artifact = run, benchmark, f"benchmarks/{benchmark.name}"
        self.settings = made_of.of_benchmark(benchmark).settings
        self.inputs = [benchmarks.content(benchmark)]

    def make(self, artifact: Artifact) -> Made:
        rows = benchmarks.problems(self.benchmark)
        if not rows:
            self.run.display.say(f"{self.benchmark.name}: {self.benchmark.path!r} holds no problem")
        artifact.write_table(table_of(rows, schemas.BENCHMARK), benchmarks.STAGE)
        return len(rows), {"limit": self.benchmark.limit}


class Evaluation(GeneratingStage):
    """One model's answers to one benchmark.

    `model_mark` identifies the model: its own fingerprint, or for the trained student the fingerprint of its training.
    """

    rows, schema, unit = evaluation, schemas.EVAL, "answers"

    def __init__(
        self,
        run: Run,
        problems: Artifact,
        benchmark: BenchmarkConfig,
        evaluated: EvaluatedModel,
        model: str,
        model_mark: str,
    ) -> None:
        self.run, self.problems = run, problems
        self.name, self.kind, self.label = evaluated.name, benchmark.answer, run.config.evaluation.label(benchmark)
        self.artifact = f"eval/{self.name}/{folder_of(self.label)}"
        self.generator = generator = generator_of(run, evaluated, benchmark, model)
        self.imports = generator.imports
        self.question = Question(
            generator.sampling_params,
            num_samples=run.config.evaluation.samples_of(benchmark),
            seed=generator.seed,
            suffix=generator.suffix,
            system_prompt=generator.system_prompt,
        )
        self.is_of_student = evaluated.model_source == TRAINED
        self.made = made = made_of.of_evaluation(run.config.evaluation, self.name, benchmark, generator, model_mark)
        self.settings, self.inputs = made.settings, [problems.content(), model_mark]
        self.reuse = Reuse(made.asked, None, self._renewer, made.earlier_marks, self._refused)

    def make(self, artifact: Artifact) -> Made:
        rows_in = self.problems.count("split", EVAL) * self.question.num_samples
        self.run.generate(self, artifact, rows_in)
        return rows_in, {}

    def loss(self, artifact: Artifact) -> str:
        """A student that was trained anew has no answers that could be lost."""
        before = saved_made_of(artifact.folder).get("settings")
        if before is None:  # an earlier version did not say
            return super().loss(artifact)
        changed = {key for key, value in self.readable.items() if before.get(key) != value}
        return "" if self.is_of_student and "model" in changed else super().loss(artifact)

    def summarise(self, artifact: Artifact) -> dict[str, Any]:
        answers = artifact.read_table(["eval_id", *TIMES, *COLUMNS])
        made = scores.summarise(answers, artifact.rejected(), self.name, self.label)
        made["tokens_per_s"] = timing.tokens_per_s(answers)
        return made | {"scored_by": scorers.scored_by(self.kind), "engine": self.generator.label}

    def datasets(self, done: IdSet, num_missing: int) -> list["Dataset"]:
        generate = self.generator.generate(num_missing)
        return [
            evaluation.evaluate(self.problems.read(), generate, self.kind, self.name, self.label, self.question, done)
        ]

    @cached_property
    def _known(self) -> Known:
        """The problems by their ids, with the columns that are needed to judge an answer."""
        columns = [c for c in ("instruction_id", *evaluation.OF_A_PROBLEM) if c in self.problems.schema.names]
        return Known(of_split(self.problems, EVAL, columns), "instruction_id")

    def _refused(self, row: Row, reason: str) -> bool:
        """Whether a row stays rejected: a prompt that was too long is too long again under the same limits."""
        if reason != "prompt_too_long" or row["sample_index"] >= self.question.num_samples:
            return False
        return self._known.rows([row["instruction_id"]]) != [None]

    def _renewer(self) -> Renew:
        return renewed(self._known, "instruction_id", self._renew)

    def _renew(self, row: Row, alike: bool, problem: Row | None) -> Row | None:
        if problem is None or row["sample_index"] >= self.question.num_samples:
            return None
        return evaluation.renewed(row, problem, self.kind, self.generator.sampling.max_tokens, alike)


class Timing(GeneratingStage):
    """The time that one model takes for some problems of a benchmark, which are asked one at a time."""

    rows, schema, unit = timing, schemas.TIMING, "problems"

    def __init__(self, evaluation: Evaluation) -> None:
        self.run, self.evaluation = evaluation.run, evaluation
        self.num_timed = self.run.config.evaluation.num_timed
        self.artifact = evaluation.artifact.replace("eval/", "timing/", 1)
        self.imports = evaluation.imports
        self.settings = self._settings(evaluation.settings)
        of_answers = evaluation.made
        if of_answers is not None:
            before = of_answers.by_earlier_rules
            earlier = replace(before, settings=self._settings(before.settings)) if before is not None else None
            self.made = replace(of_answers, settings=self.settings, by_earlier_rules=earlier)
        self.inputs = evaluation.inputs

    def _settings(self, of_answers: dict[str, Any]) -> dict[str, Any]:
        return {"asked": of_answers["asked"], "num_timed": self.num_timed}

    @cached_property
    def _chosen(self) -> list[Row]:
        """The `num_timed` problems with the smallest ids."""
        problems = self.evaluation.problems
        tables = of_split(problems, EVAL, [name for name in problems.schema.names if name not in ("source", "split")])
        rows = (row | {"split": EVAL} for table in tables for row in table.to_pylist())
        return nsmallest(self.num_timed, rows, key=lambda row: row["instruction_id"])

    def make(self, artifact: Artifact) -> Made:
        self.run.generate(self, artifact, len(self._chosen))
        return len(self._chosen), {}

    def summarise(self, artifact: Artifact) -> dict[str, Any]:
        return timing.summarise(
            artifact.read_table(["timing_id", "seconds"]), self.evaluation.name, self.evaluation.label
        )

    def datasets(self, done: IdSet, num_missing: int) -> list["Dataset"]:
        import ray.data

        timed, problems = self.evaluation, ray.data.from_items(self._chosen)
        generate = timed.generator.one_at_a_time().generate(num_missing)
        return [timing.timed(problems, generate, timed.name, timed.label, timed.question, done)]


def make_evaluation(
    run: Run, problems: Artifact, benchmark: BenchmarkConfig, evaluated: EvaluatedModel, model: str, model_mark: str
) -> Artifact:
    return run.make(Evaluation(run, problems, benchmark, evaluated, model, model_mark))


def generator_of(run: Run, evaluated: EvaluatedModel, benchmark: BenchmarkConfig, model: str) -> Generator:
    """How a run asks a compared model. `model`: its folder, hub name, or the endpoint's name for it.

    Training changes neither the chat template nor the generation config: the marks have those of the untrained student.
    """
    generator = generators.evaluated(run.config, evaluated, benchmark, model, run.date)
    is_of_student = evaluated.model_source == TRAINED
    return replace(generator, untrained=run.models["training.student"]) if is_of_student else generator


def ask_about_evaluations(run: Run, asks: Asks) -> None:
    """Ask at once what `make_given_evaluations`, which may work in a thread beside other stages, would ask late.

    A model that is not there yet has no answers that could be lost.
    """
    for model in models_before_training(run):
        for benchmark, problems in asks:
            try:
                stage = Evaluation(run, problems, benchmark, *model)
            except (UserError, OSError):
                continue
            run.ask(stage)


def make_given_evaluations(run: Run, asks: Asks) -> None:
    """Evaluate the models that exist before training."""
    for model in models_before_training(run):
        for benchmark, problems in asks:
            make_evaluation(run, problems, benchmark, *model)


def make_student_evaluations(run: Run, asks: Asks, checkpoint: Artifact) -> None:
    """Evaluate the student that the run has trained."""
    for model in _trained(run, checkpoint):
        for benchmark, problems in asks:
            make_evaluation(run, problems, benchmark, *model)


def make_timings(run: Run, asks: Asks, checkpoint: Artifact | None = None) -> None:
    """Time all models, if `num_timed` asks for it. This is the last stage: nothing else of the run works beside it."""
    for model in (*models_before_training(run), *(_trained(run, checkpoint) if checkpoint else ())):
        for benchmark, problems in asks if run.config.evaluation.num_timed else ():
            run.make(Timing(Evaluation(run, problems, benchmark, *model)))


Compared = tuple[EvaluatedModel, str, str]  # its declaration; its folder or hub name; its `model_mark`


def models_before_training(run: Run) -> Iterator[Compared]:
    """The compared models that exist before the student is trained."""
    for index, model in enumerate(run.config.evaluation.models):
        source = run.models.get(f"evaluation.models.{index}.model_source")
        if source is not None:
            mark = model_fingerprint(source) if model.endpoint is None else stable_id("endpoint", source)
            yield model, source, mark


def _trained(run: Run, checkpoint: Artifact) -> Iterator[Compared]:
    for model in run.config.evaluation.models:
        if model.model_source == TRAINED:
            yield model, (checkpoint.folder / STUDENT).uri, checkpoint.fingerprint
