"""Evaluation as a stage: one artifact for each model that is compared."""

from typing import TYPE_CHECKING

from ray_distil.config import TRAINED, EvaluatedModel
from ray_distil.config.engine_config import Asked
from ray_distil.rows import evaluation
from ray_distil.rows.scores import COLUMNS
from ray_distil.run import asking, made_of
from ray_distil.run.runs import Run
from ray_distil.run.stage import GeneratingStage, Made, Row, of_split, renewed
from ray_distil.store import schemas
from ray_distil.store.artifact import Artifact
from ray_distil.store.ids import IdSet
from ray_distil.store.manifest import STUDENT, model_fingerprint
from ray_distil.store.reuse import Renew, Reuse
from ray_distil.store.shards import StageError

if TYPE_CHECKING:
    from ray.data import Dataset


class Evaluation(GeneratingStage):
    """One model's answers. `model_mark` tells it from others: its own fingerprint, or that of its training."""

    rows, schema, unit = evaluation, schemas.EVAL, "answers"

    def __init__(self, run: Run, problems: Artifact, evaluated: EvaluatedModel, model: str, model_mark: str) -> None:
        self.run, self.problems, self.name, self.model = run, problems, evaluated.name, model
        self.artifact = f"eval/{evaluated.name}"
        system_prompt, variables = run.config.asked_with(evaluated)
        config = self.config = run.config.evaluation
        if config.engine is None:
            raise StageError(f"{evaluation.STAGE}: evaluation.engine is missing")
        self.asked = Asked(engine=config.engine.model_copy(update={"chat_template_kwargs": variables}))
        self.question = {
            "name": self.name,
            "benchmark": config.benchmark,
            "num_samples": config.num_samples,
            "sampling_params": asking.params(config.sampling_params, self.asked, model),
            "seed": run.config.run.seed,
            "suffix": run.config.instructions.suffix,
            "system_prompt": system_prompt,
        }
        made = made_of.of_evaluation(run, evaluated, model, model_mark)
        self.settings, self.inputs = made.settings, [problems.content(), model_mark]
        self.reuse = Reuse(made.asked, None, self._renewer)

    def make(self, artifact: Artifact) -> Made:
        rows_in = self.problems.count("split", "eval") * self.config.num_samples
        self.run.generate(
            artifact, rows_in, evaluation.STAGE, self.datasets, parallel=True, imports=asking.imports(self.asked)
        )
        answers = artifact.read_table(["eval_id", *COLUMNS])
        return rows_in, evaluation.summarise(answers, artifact.rejected(), self.name, self.config.benchmark)

    def datasets(self, done: IdSet) -> list["Dataset"]:
        generate = asking.generate(self.run, self.asked, self.model)
        return [evaluation.evaluate(self.problems.read(), generate, done=done, **self.question)]

    def _renewer(self) -> Renew:
        rows = of_split(self.problems, "eval", ["instruction_id", "reference_answer"])
        return renewed(rows, "instruction_id", self._renew)

    def _renew(self, row: Row, alike: bool, problem: Row | None) -> Row | None:
        if problem is None or row["sample_index"] >= self.config.num_samples:
            return None
        most = self.config.sampling_params.max_tokens
        return evaluation.renewed(row, problem["reference_answer"], most, alike)


def make_evaluation(run: Run, problems: Artifact, evaluated: EvaluatedModel, model: str, model_mark: str) -> Artifact:
    return run.make(Evaluation(run, problems, evaluated, model, model_mark))


def make_given_evaluations(run: Run, problems: Artifact) -> None:
    """Evaluation of the models that are there before training."""
    for index, model in enumerate(run.config.evaluation.models):
        source = run.models.get(f"evaluation.models.{index}.model_source")
        if source is not None:
            make_evaluation(run, problems, model, source, model_fingerprint(source))


def make_student_evaluations(run: Run, problems: Artifact, checkpoint: Artifact) -> None:
    """Evaluation of the student that the run has trained."""
    for model in run.config.evaluation.models:
        if model.model_source == TRAINED:
            make_evaluation(run, problems, model, (checkpoint.folder / STUDENT).uri, checkpoint.fingerprint)
