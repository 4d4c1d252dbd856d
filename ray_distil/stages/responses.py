"""The teachers' responses to the training instructions: one row for each instruction, teacher and sample.

They are generated, or imported where `responses` of a teacher names a file of them.
"""

import json
from collections import Counter
from collections.abc import Container, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from ray_distil.chat.prompts import instruction_messages
from ray_distil.chat.reasoning_marks import split_reasoning
from ray_distil.config import StagesConfig
from ray_distil.config.models import responses_of
from ray_distil.errors import UserError
from ray_distil.generate import generators
from ray_distil.generate.generator import Generator
from ray_distil.generate.question import Question
from ray_distil.judge import gates
from ray_distil.judge.answers import extract_answer
from ray_distil.records import sources
from ray_distil.records.sources import Source
from ray_distil.runner.reuse import is_the_same
from ray_distil.runner.runs import Run
from ray_distil.runner.stage import GeneratingStage, Made, Row, of_split, required, where
from ray_distil.runner.stage_settings import StageSettings, text_marks, with_earlier
from ray_distil.stages import imports
from ray_distil.stages.asking import by_pass_rate, is_asked, num_finished, num_requests
from ray_distil.stages.imports import request_columns
from ray_distil.store.artifact import Artifact
from ray_distil.store.ids import IdSet
from ray_distil.store.schemas import RESPONSES, stable_id
from ray_distil.store.shards import reject_failed, table_of

if TYPE_CHECKING:
    from ray.data import Dataset

    from ray_distil.generate.generation import Generate

NAME = "teacher"  # in fingerprints
VERSION = 5
REQUEST_VERSION = 1  # of the requests: with another version all texts are generated again
IMPORTED_ROWS = 1000  # in a shard: chains of thought are long


class Responses(GeneratingStage):
    """The responses of each teacher."""

    artifact, fingerprint_name, version = "responses", NAME, VERSION
    schema, unit = RESPONSES, "responses"
    part_of, source_key = "teacher", "instruction_id"
    unsettled: set[str]

    def __init__(self, run: Run, problems: Artifact) -> None:
        self.run, self.problems = run, problems
        self.teachers = required(run.config.teachers).sections
        self.files = {
            name: responses_of(section, f"teachers.{name}")
            for name, section in self.teachers.items()
            if section.responses is not None
        }
        self.generators = generators.teachers(run.config, run.models, run.date)
        self.questions = {
            name: generator.question(self.teachers[name].num_samples, self.teachers[name].fraction)
            for name, generator in self.generators.items()
        }

        # How they are asked.
        self.parallel = run.config.run.parallel_engines
        self.imports = tuple({module for generator in self.generators.values() for module in generator.imports})
        self.num_requests = Counter[str]()  # of each teacher
        self.unsettled = {name for name, section in self.teachers.items() if section.pass_rate is not None}
        self.settled = dict[str, IdSet]()  # the problems that a teacher with a pass rate is asked
        self.settings, self.inputs = settings_of(run.config, self.generators), [problems.content()]

    def make(self, artifact: Artifact) -> Made:
        # How many responses there are to be of each teacher that waits for no other.
        waiting = list(self.unsettled)
        for table in self.problems.tables(["instruction_id", "split"]):
            train = where(table, "split", "train")["instruction_id"].to_pylist()
            for name, section in self.teachers.items():
                if name not in waiting:
                    self.num_requests[name] += num_requests(train, name, section.fraction, section.num_samples)
        rows_in = self.num_requests.total() + (num_finished(artifact, waiting) if waiting else 0)
        artifact.tell.expect(rows_in)

        # Those of files come first; then the teachers are asked.
        unused: Counter[str] = Counter()
        for name, source in self.files.items():
            unused += self._import(artifact, name, source)
        self.run.generate(self, artifact, rows_in)

        # A teacher with a pass rate is asked when the other one has answered.
        for name in waiting:
            self.settled[name], line = by_pass_rate(self.problems, artifact, name, self.run.config)
            self.run.display.say(f"{self.artifact}: {line}")
            self.num_requests[name] = len(self.settled[name]) * self.teachers[name].num_samples
            self.unsettled.discard(name)
            artifact.num_failed_before = 0
            self.run.carry(self, artifact)
            self.run.generate(self, artifact, self.num_requests.total())
        rows_in = self.num_requests.total()
        if not self.files:
            return rows_in, {}
        num_unused = unused.pop(imports.UNUSED, 0)
        return rows_in, {"num_unused_records": num_unused, "bad_records": dict(sorted(unused.items()))}

    def datasets(self, done: IdSet, num_missing: int) -> list["Dataset"]:
        return [
            responses(
                self.problems.read(),
                generator.generate(min(num_missing, self.num_requests[name])),
                name,
                generator.model,
                self.questions[name],
                done,
                self.run.config.answers.judge,
                self.settled.get(name),
            )
            for name, generator in self.generators.items()
            if name not in self.unsettled
        ]

    def sources(self) -> Iterable[pa.Table]:
        return of_split(self.problems, "train", ["instruction_id", "reference_answer"])

    def reread(self, row: Row, source: Row | None, has_same_limits: bool) -> Row | None:
        teacher = self.teachers[row["teacher"]]
        is_wanted = row["sample_index"] < teacher.num_samples and is_asked(
            row["instruction_id"], row["teacher"], teacher.fraction, self.settled.get(row["teacher"])
        )
        has_ended = row["finish_reason"] == "stop"
        if source is None or not is_wanted:
            return None
        if not is_the_same(row, has_ended, teacher.sampling_params.max_tokens, has_same_limits):
            return None
        reread = row | _read(row["response"]) | {"reference_answer": source["reference_answer"]}
        return reread | gates.verdict(reread, self.run.config.answers.judge)

    def summarise(self, artifact: Artifact) -> dict[str, Any]:
        of_teachers = verdicts(artifact.tables(["teacher", "verdict", "reference_answer"]))
        return {"verdicts": of_teachers} if of_teachers else {}

    def _import(self, artifact: Artifact, teacher: str, source: Source) -> Counter[str]:
        """Write the rows of a teacher whose responses are in a file; returns the number of unused records by reason.

        Raises UserError where no record has a response to an instruction of this run.
        """
        section, counts, details = self.teachers[teacher], Counter[str](), dict[str, str]()
        rows = imports.matched(
            imports.by_text(self._instructions_of(teacher)),
            sources.records(source),
            teacher,
            section.num_samples,
            counts,
            details,
        )
        done = artifact.done_ids()
        while chunk := list(islice(rows, IMPORTED_ROWS)):
            if not counts[imports.MATCHED]:
                bad = "; ".join(f"{counts[reason]:,} records are {reason} ({text})" for reason, text in details.items())
                raise UserError(
                    f"{source.key}: {source.path!r} has no response to any training instruction of this run"
                    + (f": {bad}" if bad else "")
                )
            missing = [row for row in chunk if row["response_id"] not in done]
            artifact.write_table(table_of(missing, RESPONSES), self.artifact)
            artifact.tell.advance(len(chunk))

        num_matched = counts.pop(imports.MATCHED, 0)
        if counts:
            why = ", ".join(f"{reason} {number:,}" for reason, number in sorted(counts.items()))
            meaning = ""
            if counts[imports.UNUSED]:
                meaning = "; unused ones belong to held-out problems, to problems not asked (fraction), or to none of this run"
            self.run.display.say(f"{source.key}: {num_matched:,} records used; not used: {why}{meaning}")
        return counts

    def _instructions_of(self, teacher: str) -> Iterator[Row]:
        """The instructions to which a teacher has responses."""
        fraction = self.teachers[teacher].fraction
        for table in of_split(self.problems, "train", ["instruction_id", "instruction", "reference_answer"]):
            yield from (row for row in table.to_pylist() if is_asked(row["instruction_id"], teacher, fraction))


class ImportedResponses(imports.ImportedRows):
    """Responses of a slow teacher that another system has made."""

    artifact, fingerprint_name, version = "responses", NAME, VERSION
    schema, unit = RESPONSES, "responses"

    def row(self, record: Any, row_id: str, number: int) -> Row:
        columns = {"response_id": row_id, "instruction_id": row_id, "teacher": "slow", "sample_index": number}
        return imports.imported_response(record, columns)


def settings_of(config: StagesConfig, generators: dict[str, Generator]) -> StageSettings:
    """`generators`: the teachers that generate, by name; the others' responses are imported."""
    return with_earlier(lambda by_earlier_rules: _settings(config, generators, by_earlier_rules))


def _settings(config: StagesConfig, generators: dict[str, Generator], by_earlier_rules: bool) -> StageSettings:
    values: dict[str, Any] = {}
    marks = {}
    for name, section in required(config.teachers).sections.items():
        values[name] = section.model_dump(mode="json", include={"fraction", "num_samples"})
        values[name] |= {"pass_rate": section.pass_rate} if section.pass_rate is not None else {}
        if section.responses is not None:
            source = responses_of(section, f"teachers.{name}")
            values[name] |= {"responses": sources.fingerprint(source), "columns": section.columns}
            values[name] |= {"drop_system": section.drop_system}
            continue
        texts = generators[name].texts(by_earlier_rules)
        marks[name] = text_marks(NAME, REQUEST_VERSION, texts, generators[name].limits)
        values[name] |= {"asked": list(marks[name])}
    texts_of = {name: generator.texts(by_earlier_rules) for name, generator in generators.items()}
    max_tokens: dict[str, int | None] = {name: generator.sampling.max_tokens for name, generator in generators.items()}
    return StageSettings(values, marks, texts_of, max_tokens)


def requests(
    row: dict[str, Any],
    teacher: str,
    question: Question,
    done: Container[str] = (),
    settled: Container[str] | None = None,
) -> list[dict[str, Any]]:
    """The requests to one teacher for an INSTRUCTIONS row: none, or one for each sample, each with its own seed.

    The seeds of an instruction are consecutive numbers, as vLLM uses them for n samples of one request. Requests whose
    ids are in `done` are left out. settled: see `is_asked`.
    """
    if row["split"] != "train" or not is_asked(row["instruction_id"], teacher, question.fraction, settled):
        return []
    requests = []
    first_seed = int(stable_id(question.seed, row["instruction_id"], teacher), 16) % 2**31
    for sample_index in range(question.num_samples):
        columns = request_columns(row, teacher, sample_index)
        response_id = columns.pop("response_id")
        if response_id in done:
            continue
        row_seed = first_seed + sample_index
        requests.append({
            "id": response_id,
            **columns,
            "messages": instruction_messages(row["instruction"], question.suffix, question.system_prompt),
            "sampling_params": question.sampling_params | {"seed": row_seed},
            "seed": row_seed,
        })  # fmt: skip
    return requests


def response_row(
    row: dict[str, Any], model: str, sampling_params: dict[str, Any], judge: str | None = None
) -> dict[str, Any]:
    """A generated row as a RESPONSES row with its verdict. A text that was cut is kept: its verdict is "incomplete"."""
    columns = row | {"response_id": row["id"], "model": model}
    if row["error"]:
        return reject_failed(columns, row["error"])
    counts = {
        "num_prompt_tokens": row["num_prompt_tokens"] or None,  # 0: not counted
        "num_generated_tokens": row["num_generated_tokens"] or None,
        "sampling_params": json.dumps(sampling_params | {"seed": row["seed"]}, sort_keys=True),
    }
    response = columns | _read(row["generated_text"]) | counts
    return response | gates.verdict(response, judge)


def _read(text: str) -> dict[str, Any]:
    """The columns of a RESPONSES row that are read from a generated text."""
    reasoning, conclusion = split_reasoning(text)
    return {"response": text, "reasoning": reasoning, "answer": extract_answer(conclusion)}


def responses(
    instructions: "Dataset",
    generate: "Generate",
    teacher: str,
    model: str,
    question: Question,
    done: Container[str] = (),
    judge: str | None = None,
    settled: Container[str] | None = None,
) -> "Dataset":
    """One teacher's responses, without those whose ids are in `done`. judge: of the gate `correct`. settled: see `is_asked`."""
    keywords = {"teacher": teacher, "question": question, "done": done, "settled": settled}
    pending = instructions.flat_map(requests, fn_kwargs=keywords)
    options = {"model": model, "sampling_params": question.sampling_params, "judge": judge}
    return generate(pending).map_batches(response_batch, batch_size=None, batch_format="pyarrow", fn_kwargs=options)


def response_batch(table: pa.Table, **options: Any) -> pa.Table:
    return table_of([response_row(row, **options) for row in table.to_pylist()], RESPONSES)


def verdicts(tables: Iterable[pa.Table]) -> dict[str, dict[str, int]]:
    """Teacher -> how many of its responses to problems with a reference have each verdict; without those of no verdict."""
    counts: dict[str, Counter[str]] = {}
    for table in tables:
        judged = table.filter(pc.and_(pc.is_valid(table["verdict"]), pc.is_valid(table["reference_answer"])))
        pairs = judged.group_by(["teacher", "verdict"]).aggregate([("verdict", "count")]).to_pylist()
        for pair in pairs:
            counts.setdefault(pair["teacher"], Counter())[pair["verdict"]] += pair["verdict_count"]
    return {teacher: dict(of_teacher.most_common()) for teacher, of_teacher in sorted(counts.items())}
