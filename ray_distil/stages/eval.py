"""Models on the held-out problems and on benchmarks: accuracy, tokens, whether answers ended by themselves.

There is one artifact for each model and benchmark, eval/MODEL/BENCHMARK, so a new student, benchmark or number of
samples remakes no other artifact. Answers are judged by `scorers.py` from the stored texts.
"""

from collections.abc import Container, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ray_distil.chat.prompts import instruction_messages
from ray_distil.config import TRAINED, EvaluatedModel, StagesConfig
from ray_distil.config.evaluation_config import HELD_OUT, BenchmarkConfig, folder_of
from ray_distil.evaluation import scores
from ray_distil.evaluation.scores import COLUMNS
from ray_distil.generate import generators
from ray_distil.generate.generation import TIMES
from ray_distil.generate.generator import Generator
from ray_distil.generate.question import Question
from ray_distil.judge import scorers
from ray_distil.judge.agreement import JUDGE
from ray_distil.records.problem_facts import EVAL
from ray_distil.runner.reuse import is_the_same
from ray_distil.runner.runs import Run
from ray_distil.runner.stage import GeneratingStage, Made, Row, of_split
from ray_distil.runner.stage_settings import StageSettings, of_one_generator, with_earlier
from ray_distil.runtime.user_code import current_mark
from ray_distil.store import schemas
from ray_distil.store.artifact import Artifact
from ray_distil.store.ids import IdSet
from ray_distil.store.schemas import stable_id
from ray_distil.store.shards import reject_failed, table_of
from ray_distil.store.superseded import saved_made_of

if TYPE_CHECKING:
    from ray.data import Dataset

    from ray_distil.generate.generation import Generate

NAME = "evaluation"  # in fingerprints
VERSION = 8
REQUEST_VERSION = 1  # of the requests: with another version all texts are generated again
OF_A_PROBLEM = ("reference_answer", "category", "num_choices")  # needed to judge an answer


class Eval(GeneratingStage):
    """One model's answers to one benchmark.

    `model`: its folder, hub name, or the endpoint's name for it. `model_mark` identifies it: its own fingerprint, or for
    the trained student the fingerprint of its training.
    """

    fingerprint_name, version = NAME, VERSION
    schema, unit = schemas.EVAL, "answers"
    source_key, lasting_rejects = "instruction_id", ("prompt_too_long",)

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
        self.name, self.kind, self.label = evaluated.name, benchmark.kind, run.config.evaluation.label(benchmark)
        self.artifact = artifact_of(run, evaluated, benchmark)
        self.generator = generator_of(run, evaluated, benchmark, model)
        self.imports = self.generator.imports
        self.question = self.generator.question(run.config.evaluation.samples_of(benchmark))
        self.is_of_student = evaluated.model_source == TRAINED
        self.judge = scorers.judge_of(benchmark.kind, run.config.answers.judge)
        self.settings = settings_of(run.config, self.name, benchmark, self.generator, model_mark)
        self.inputs = [problems.content(), model_mark]

    def make(self, artifact: Artifact) -> Made:
        tables = of_split(self.problems, EVAL, ["reference_answer"])
        scorers.check_scorer(self.kind, (text for table in tables for text in table["reference_answer"].to_pylist()))
        rows_in = self.problems.count("split", EVAL) * self.question.num_samples
        tables = of_split(self.problems, EVAL, ["instruction", "reference_answer"])
        scorers.check_judge(self.judge, (row for table in tables for row in table.to_pylist()))
        self.run.generate(self, artifact, rows_in)
        return rows_in, {}

    def loss(self, artifact: Artifact) -> str:
        """A student that was trained anew has no answers that could be lost."""
        saved_settings = saved_made_of(artifact.folder).get("settings")
        if saved_settings is None:  # an earlier version did not say
            return super().loss(artifact)
        changed = {key for key, value in self.settings.readable.items() if saved_settings.get(key) != value}
        return "" if self.is_of_student and "model" in changed else super().loss(artifact)

    def summarise(self, artifact: Artifact) -> dict[str, Any]:
        answers = artifact.read_table(["eval_id", *TIMES, *COLUMNS])
        summary = scores.summarise(answers, artifact.rejected(), self.name, self.label)
        summary["tokens_per_s"] = tokens_per_s(answers)
        return summary | {"scored_by": scorers.scored_by(self.kind, self.judge), "engine": self.generator.label}

    def datasets(self, done: IdSet, num_missing: int) -> list["Dataset"]:
        generate = self.generator.generate(num_missing)
        scoring = (self.kind, self.name, self.label, self.question, done, self.judge)
        return [evaluate(self.problems.read(), generate, *scoring)]

    def sources(self) -> Iterable[pa.Table]:
        columns = [c for c in ("instruction_id", *OF_A_PROBLEM) if c in self.problems.schema.names]
        return of_split(self.problems, EVAL, columns)

    def reread(self, row: Row, source: Row | None, has_same_limits: bool) -> Row | None:
        if source is None or row["sample_index"] >= self.question.num_samples:
            return None
        if not is_the_same(row, row["complete"], self.generator.sampling.max_tokens, has_same_limits):
            return None
        return scorers.judged(row | {column: source.get(column) for column in OF_A_PROBLEM}, self.kind, self.judge)

    def fails_again(self, row: Row, source: Row | None) -> bool:
        """A prompt that was too long is too long again."""
        return source is not None and row["sample_index"] < self.question.num_samples


def artifact_of(run: Run, evaluated: EvaluatedModel, benchmark: BenchmarkConfig) -> str:
    return f"eval/{evaluated.name}/{folder_of(run.config.evaluation.label(benchmark))}"


def generator_of(run: Run, evaluated: EvaluatedModel, benchmark: BenchmarkConfig, model: str) -> Generator:
    """How a run asks a compared model. `model`: its folder, hub name, or the endpoint's name for it.

    Training changes neither the chat template nor the generation config: the marks have those of the untrained student.
    """
    generator = generators.evaluated(run.config, evaluated, benchmark, model, run.date)
    is_of_student = evaluated.model_source == TRAINED
    return replace(generator, untrained=run.models["training.student"]) if is_of_student else generator


def settings_of(
    config: StagesConfig, name: str, benchmark: BenchmarkConfig, generator: Generator, model_mark: str
) -> StageSettings:
    """`name`: of the compared model. `model_mark` identifies it: its own fingerprint, or for the student its training's.

    The scorer is in the values, but not in the marks: another scorer judges the stored texts, and asks no model.
    """
    return with_earlier(
        lambda by_earlier_rules: _settings(config, name, benchmark, generator, model_mark, by_earlier_rules)
    )


def _settings(
    config: StagesConfig,
    name: str,
    benchmark: BenchmarkConfig,
    generator: Generator,
    model_mark: str,
    by_earlier_rules: bool,
) -> StageSettings:
    texts = generator.texts(by_earlier_rules)
    texts |= {"model": model_mark, "name": name, "benchmark": config.evaluation.label(benchmark)}
    if benchmark.name != HELD_OUT:  # a benchmark's prompts are complete; its template stands here in the suffix's place
        texts["suffix"] = benchmark.template
    values = {"num_samples": config.evaluation.samples_of(benchmark), "scored_by": _scored_by(benchmark, config)}
    return of_one_generator(NAME, REQUEST_VERSION, generator, texts, values)


def _scored_by(benchmark: BenchmarkConfig, config: StagesConfig) -> str:
    if benchmark.scorer is not None:
        return current_mark(benchmark.scorer, scorers.SCORER)
    judge = scorers.judge_of(benchmark.kind, config.answers.judge)
    if judge is not None:
        current_mark(judge, JUDGE)  # raises UserError where its source has changed
    return scorers.scored_by(benchmark.kind, judge)


def requests(
    row: dict[str, Any], name: str, benchmark: str, question: Question, done: Container[str] = ()
) -> list[dict[str, Any]]:
    """The requests to one model for a row of INSTRUCTIONS or BENCHMARK: one for each sample whose id is not in `done`.

    A problem of the split "train" gets no request.
    """
    if row["split"] != "eval":
        return []

    requests = []
    for sample_index in range(question.num_samples):
        eval_id = stable_id(name, benchmark, row["instruction_id"], sample_index)
        if eval_id in done:
            continue

        requests.append({
            "id": eval_id,
            "model_name": name,
            "benchmark": benchmark,
            "instruction_id": row["instruction_id"],
            "instruction": row["instruction"],
            **{column: row.get(column) for column in OF_A_PROBLEM},
            "sample_index": sample_index,
            **dict.fromkeys(TIMES, 0.0),  # generation fills them in
            "messages": instruction_messages(row["instruction"], question.suffix, question.system_prompt),
            "sampling_params": question.sampling_params | {"seed": int(stable_id(question.seed, eval_id), 16) % 2**31},
        })  # fmt: skip
    return requests


def answer_row(row: dict[str, Any], kind: str = "math", judge: str | None = None) -> dict[str, Any]:
    """A generated row as an EVAL row, judged by the benchmark's kind of answer; or as a reject."""
    columns = row | {"eval_id": row["id"], "model": row["model_name"]}
    if row["error"]:
        return reject_failed(columns, row["error"])
    columns |= {name: row[name] or None for name in ("num_prompt_tokens", "num_generated_tokens")}  # 0: not counted
    if columns["num_generated_tokens"] is None:
        columns["num_thinking_tokens"] = None
    columns |= {name: row.get(name) or None for name in TIMES}
    answer = columns | {"response": row["generated_text"], "complete": row["finish_reason"] == "stop"}
    return scorers.judged(answer, kind, judge)


def answer_batch(table: pa.Table, kind: str = "math", judge: str | None = None) -> pa.Table:
    return table_of([answer_row(row, kind, judge) for row in table.to_pylist()], schemas.EVAL)


def evaluate(
    problems: "Dataset",
    generate: "Generate",
    kind: str,
    name: str,
    benchmark: str,
    question: Question,
    done: Container[str] = (),
    judge: str | None = None,
) -> "Dataset":
    """The answers of the model `name` to problems, judged by the benchmark's `kind` of answer, or the user's judge."""
    request = {"name": name, "benchmark": benchmark, "question": question, "done": done}
    pending = problems.flat_map(requests, fn_kwargs=request)
    options = {"batch_size": None, "batch_format": "pyarrow", "fn_kwargs": {"kind": kind, "judge": judge}}
    return generate(pending).map_batches(answer_batch, **options)


def tokens_per_s(answers: pa.Table) -> float | None:
    """Generated tokens of EVAL rows with known times, divided by the seconds in which at least one request was at work.

    answers: num_generated_tokens, seconds (that the request took) and finished_at (seconds since 1970). A pause between
    two makings of an artifact does not count.
    """
    counted = answers.select(["num_generated_tokens", "seconds", "finished_at"]).drop_null().to_pylist()
    spans = sorted((row["finished_at"] - row["seconds"], row["finished_at"]) for row in counted)
    busy = _length(spans)
    return sum(row["num_generated_tokens"] for row in counted) / busy if busy else None


def _length(spans: Iterable[tuple[float, float]]) -> float:
    """The length of the union of time spans (start, end), which are sorted by start."""
    total, until = 0.0, float("-inf")
    for start, end in spans:
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total
