"""Each stage, built from the configuration: what it depends on, and how it is made.

The row functions take plain values, not the configuration. Only `stages/instructions.py` and `stages/benchmarks.py`
take their own section of it.
"""

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from ray_distil.chat.chat_templates import chat_settings
from ray_distil.config import StagesConfig
from ray_distil.config.models import responses_of
from ray_distil.errors import StageError
from ray_distil.generate import engine, generators
from ray_distil.generate.generator import Generator
from ray_distil.runner import remaking
from ray_distil.runner.runs import Run
from ray_distil.runner.stage import GeneratingStage, Made, Row, Stage, given, of_split, renewed, where
from ray_distil.stages import curation, importing, instructions, long2short, made_of, packing, same_texts, teacher
from ray_distil.stages.made_of import enabled_gates
from ray_distil.stages.problems import Problems, StoredProblems
from ray_distil.stages.question import Question
from ray_distil.store import schemas
from ray_distil.store.artifact import Artifact
from ray_distil.store.ids import IdSet
from ray_distil.store.manifest import Manifest, fingerprint, most_common, why_none
from ray_distil.store.rejecting import reject_rows
from ray_distil.store.reuse import Known, Renew, Reuse

if TYPE_CHECKING:
    from ray.data import Dataset

BEFORE_PACKING = ("sft_examples", "rewrites", "responses")


class Instructions(Stage):
    rows, artifact, schema, unit = instructions, "instructions", schemas.INSTRUCTIONS, "instructions"

    def __init__(self, run: Run, records: Problems | StoredProblems) -> None:
        self.run, self.records = run, records
        self.settings = made_of.of_instructions(run.config).settings
        self.inputs = [*instructions.source_fingerprint(run.config.instructions)]

    def loss(self, artifact: Artifact) -> str:
        return remaking.lost_ids(artifact, self.settings)

    def make(self, artifact: Artifact) -> Made:
        records = self.records
        if isinstance(records, StoredProblems):  # they are gone meanwhile
            records = _collected(self.run.config)
        for table in records.tables():
            artifact.write_table(table, instructions.STAGE)
        return records.facts.num_rows, {}


class Responses(GeneratingStage):
    """The responses of each teacher: generated, or imported where `responses` names a file of them."""

    rows, artifact, schema, unit = teacher, "responses", schemas.RESPONSES, "responses"

    def __init__(self, run: Run, problems: Artifact) -> None:
        self.run, self.problems = run, problems
        self.teachers = given(run.config.teachers).given
        self.imported = {
            name: responses_of(one, f"teachers.{name}")
            for name, one in self.teachers.items()
            if one.responses is not None
        }
        self.generators = generators.teachers(run.config, run.models, run.date)
        self.questions = {name: self._question(name, generator) for name, generator in self.generators.items()}
        self.parallel = run.config.run.parallel_engines
        self.imports = tuple({module for generator in self.generators.values() for module in generator.imports})
        self.num_requests = Counter[str]()  # of each teacher
        self.made = made = made_of.of_responses(run.config, self.generators)
        self.settings, self.inputs = made.settings, [problems.content()]
        self.reuse = Reuse(made.asked, "teacher", self._renewer, made.earlier_marks)

    def _question(self, name: str, generator: Generator) -> Question:
        teacher_config = self.teachers[name]
        return Question(
            generator.sampling_params,
            num_samples=teacher_config.num_samples,
            seed=generator.seed,
            fraction=teacher_config.fraction,
            suffix=generator.suffix,
            system_prompt=generator.system_prompt,
        )

    def make(self, artifact: Artifact) -> Made:
        for table in self.problems.tables(["instruction_id", "split"]):
            train = where(table, "split", "train")["instruction_id"].to_pylist()
            for name, one in self.teachers.items():
                self.num_requests[name] += teacher.num_requests(train, name, one.fraction, one.num_samples)
        rows_in = self.num_requests.total()
        artifact.tell.expect(rows_in)
        left: Counter[str] = Counter()
        for name, source in self.imported.items():
            left += importing.import_teacher(self.run, artifact, self.problems, name, self.teachers[name], source)
        self.run.generate(self, artifact, rows_in)
        if not self.imported:
            return rows_in, {}
        unused = left.pop(teacher.UNUSED, 0)
        return rows_in, {"num_unused_records": unused, "bad_records": dict(sorted(left.items()))}

    def datasets(self, done: IdSet, num_missing: int) -> list["Dataset"]:
        return [
            teacher.responses(
                self.problems.read(),
                generator.generate(min(num_missing, self.num_requests[name])),
                name,
                generator.model,
                self.questions[name],
                done,
            )
            for name, generator in self.generators.items()
        ]

    def _renewer(self) -> Renew:
        rows = of_split(self.problems, "train", ["instruction_id", "reference_answer"])
        return renewed(Known(rows, "instruction_id"), "instruction_id", self._renew)

    def _renew(self, row: Row, alike: bool, problem: Row | None) -> Row | None:
        asked = self.teachers[row["teacher"]]
        is_asked = teacher.is_asked(row["instruction_id"], row["teacher"], asked.fraction)
        if problem is None or not is_asked or row["sample_index"] >= asked.num_samples:
            return None
        return teacher.renewed(row, problem["reference_answer"], asked.sampling_params.max_tokens, alike)


class Rewrites(GeneratingStage):
    """The slow responses that pass the gates, rewritten by the slow teacher or by long2short's own model."""

    rows, artifact, schema, unit = long2short, "rewrites", schemas.REWRITES, "slow responses"
    tokens = "original_tokens"

    def __init__(self, run: Run, responses: Artifact, rewriter: Generator) -> None:
        self.run, self.responses, self.rewriter = run, responses, rewriter
        self.gates = enabled_gates(run.config)
        self.question = Question(rewriter.sampling_params, seed=rewriter.seed, system_prompt=rewriter.system_prompt)
        self.imports = rewriter.imports
        self.made = made = made_of.of_rewrites(run.config, rewriter)
        self.settings, self.inputs = made.settings, [responses.content()]
        self.reuse = Reuse(made.asked, None, self._renewer, made.earlier_marks)

    def make(self, artifact: Artifact) -> Made:
        rows_in = self.responses.count("teacher", "slow")
        self.run.generate(self, artifact, rows_in)
        return rows_in, {}

    def summarise(self, artifact: Artifact) -> dict[str, Any]:
        return long2short.shortened(artifact.tables(["original_tokens", "rewritten_tokens"]))

    def datasets(self, done: IdSet, num_missing: int) -> list["Dataset"]:
        sources = self.responses.read().filter(lambda row: row["teacher"] == "slow")
        generate = self.rewriter.generate(num_missing)
        return long2short.rewrites(sources, generate, self.rewriter.model, self.gates, self.question, done)

    def _renewer(self) -> Renew:
        rows = long2short.sources(self.responses.tables(schemas.RESPONSES.names), self.gates)
        return renewed(Known(rows, "rewrite_id"), "rewrite_id", self._renew)

    def _renew(self, row: Row, alike: bool, source: Row | None) -> Row | None:
        limit = self.rewriter.sampling.max_tokens
        return None if source is None else long2short.renewed(row, source, limit, alike)


class Examples(Stage):
    """The texts that pass the gates. Where there are rewrites, they take the place of the slow responses."""

    rows, artifact, schema, unit = curation, "sft_examples", schemas.SFT_EXAMPLES, "candidates"
    tokens = "num_tokens"

    def __init__(self, run: Run, responses: Artifact, rewrites: Artifact | None) -> None:
        self.run, self.responses, self.rewrites = run, responses, rewrites
        self.made = made_of.of_examples(run.config)
        self.settings = self.made.settings
        self.inputs = [responses.content()] + ([rewrites.content()] if rewrites else [])

    def make(self, artifact: Artifact) -> Made:
        self.run.start_ray()
        candidates = self.run.config.candidates
        rows_in = sum(self.responses.count("teacher", kind) for kind in candidates if kind != "rewrite")
        rows_in += self.rewrites.count("rewrite_id") if self.rewrites is not None else 0
        rewrites = self.rewrites.read() if self.rewrites is not None else None
        artifact.tell.expect(rows_in)
        how = {name: self.settings[name] for name in ("gates", "suffix", "direct_thoughts")}
        artifact.write(curation.curate(self.responses.read(), rewrites, candidates, **how), curation.STAGE)

        # Which texts repeat another one is known when all are there.
        repeats = curation.repeats(artifact.read(same_texts.COLUMNS))
        if len(repeats):
            reject_rows(artifact, curation.STAGE, partial(same_texts.marked, repeats=repeats))
        return rows_in, {}


class Packed(Stage):
    """Examples in sequences of fixed length."""

    rows, artifact, schema, unit, counted = packing, "packed", schemas.PACKED, "examples", "example_ids"

    def __init__(self, run: Run, examples: Artifact) -> None:
        self.run, self.examples, self.student = run, examples, run.models["training.student"]
        self.settings = made_of.of_packed(run, self.student, given(run.config.training)).settings
        self.inputs = [examples.content()]

    def make(self, artifact: Artifact) -> Made:
        self.run.start_ray()
        config, trained = self.run.config.packing, given(self.run.config.training)
        starts = packing.chunk_starts(packing.all_sizes(self.examples.read(list(packing.SIZED))))
        if not len(starts):
            why = why_none(self.run.folder, BEFORE_PACKING)
            raise StageError(f"{packing.STAGE}: no example passed the gates: {why}")
        max_length = config.max_length or engine.model_length(self.student)
        windows = packing.pack(
            lambda: self.examples.read(list(packing.COLUMNS)),
            starts,
            model=self.student,
            max_length=max_length,
            enabled=config.enabled,
            template=config.template,
            system_prompt=trained.system_prompt,
            chat=chat_settings(self.student, trained.chat_template_kwargs, self.run.date),
        )
        for window in windows:
            artifact.write([window], packing.STAGE)
        num_sequences = num_tokens = 0
        for table in artifact.tables(["lengths"]):
            num_sequences += table.num_rows
            num_tokens += pc.sum(pc.list_flatten(table["lengths"])).as_py() or 0
        filled = round(packing.fill(num_tokens, num_sequences, max_length), 4) if config.enabled else 1.0
        summary = {"num_sequences": num_sequences, "max_length": max_length, "fill": filled}
        return self.examples.count("example_id"), summary


def read_problems(config: StagesConfig) -> Problems | StoredProblems:
    """The problems of a run, from its artifact where this is complete and of the same source, else from the source.

    Raises UserError where the source cannot be used.
    """
    made = made_of.of_instructions(config).settings, [*instructions.source_fingerprint(config.instructions)]
    mark = fingerprint(instructions.STAGE, instructions.VERSION, *made)
    stored = Artifact(config.run_folder, Instructions.artifact, schemas.INSTRUCTIONS, mark)
    if stored.is_complete():
        return StoredProblems(stored)
    return _collected(config)


def _collected(config: StagesConfig) -> Problems:
    by_source = made_of.ids_by_source(config.run_folder, Instructions.artifact)
    return instructions.collect(config.instructions, config.run.seed, by_source)


def make_instructions(run: Run, records: Problems | StoredProblems) -> Artifact:
    made_of.keep_ids_by_source(run.folder, Instructions.artifact)
    return run.make(Instructions(run, records))


def make_responses(run: Run, problems: Artifact) -> Artifact:
    return run.make(Responses(run, problems))


def make_rewrites(run: Run, responses: Artifact) -> Artifact | None:
    """None where nobody rewrites (`generators.rewriter`)."""
    rewriter = generators.rewriter(run.config, run.models, run.date)
    return None if rewriter is None else run.make(Rewrites(run, responses, rewriter))


def make_examples(run: Run, responses: Artifact, rewrites: Artifact | None) -> Artifact:
    """The examples. Prints a line where fewer than a tenth of the candidates, or of the rewrites, pass the gates."""
    made = run.make(Examples(run, responses, rewrites))
    manifest, rewritten = made.manifest(), rewrites.manifest() if rewrites is not None else None
    of_rewrites = (made.count("origin", "rewrite"), rewritten.rows_out) if rewritten is not None else (0, 0)
    if manifest is not None and (told := few_kept(manifest, *of_rewrites)):
        run.display.say(f"{curation.STAGE}: {told}")
    return made


def few_kept(examples: Manifest, num_kept_rewrites: int, num_rewrites: int) -> str:
    """E.g. "kept 0 of 60 rewrites, less than a tenth; rejected candidates: not_shorter 60"; "" where enough are kept."""
    counts = {"candidates": (examples.rows_out, examples.rows_in), "rewrites": (num_kept_rewrites, num_rewrites)}
    for what, (kept, total) in counts.items():
        if kept < total / 10:
            why = most_common(examples.rejects)
            return f"kept {kept:,} of {total:,} {what}, less than a tenth; rejected candidates: {why}"
    return ""


def make_packed(run: Run, examples: Artifact) -> Artifact:
    return run.make(Packed(run, examples))
