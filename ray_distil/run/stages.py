"""Each stage put together from the configuration: what it depends on, and how it is made.

Configuration stops here: the stages themselves take plain values.
"""

from collections import Counter
from collections.abc import Iterator
from math import ceil
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from ray_distil.config.models import responses_of
from ray_distil.config.section import SectionT
from ray_distil.generate import engine
from ray_distil.rows import curation, instructions, long2short, packing, teacher
from ray_distil.rows.problems import Problems
from ray_distil.run import asking, importing, made_of
from ray_distil.run.made_of import enabled_gates
from ray_distil.run.runs import Run
from ray_distil.store import schemas
from ray_distil.store.artifact import Artifact
from ray_distil.store.ids import IdSet
from ray_distil.store.manifest import most_common, why_none
from ray_distil.store.reuse import Known, Renew, Reuse
from ray_distil.store.shards import StageError
from ray_distil.train import sft, states
from ray_distil.train.deepspeed_config import BatchArithmetic
from ray_distil.train.sequence_file import is_held_out

if TYPE_CHECKING:
    from ray.data import Dataset

Made = tuple[int, dict[str, Any]]
Row = dict[str, Any]
BEFORE_PACKING = ("sft_examples", "rewrites", "responses")
BATCH_KEYS = ("num_workers", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "num_train_epochs")


def make_instructions(run: Run, records: Problems) -> Artifact:
    def make(artifact: Artifact) -> Made:
        for table in records.tables():
            artifact.write_table(table, instructions.STAGE)
        return records.facts.num_rows, {}

    settings = made_of.of_instructions(run.config).settings
    inputs = instructions.source_fingerprint(run.config.instructions)
    return run.stage(instructions, "instructions", schemas.INSTRUCTIONS, "instructions", settings, inputs, make)


def make_responses(run: Run, problems: Artifact) -> Artifact:
    teachers, seed, suffix = _given(run.config.teachers).given, run.config.run.seed, run.config.instructions.suffix
    given = {name: responses_of(a, f"teachers.{name}") for name, a in teachers.items() if a.responses is not None}
    model_of = {name: run.models[f"teachers.{name}"] for name in teachers.keys() - given.keys()}

    def make(artifact: Artifact) -> Made:
        rows_in = 0
        for table in problems.tables(["instruction_id", "split"]):
            train = _where(table, "split", "train")["instruction_id"].to_pylist()
            rows_in += sum(teacher.num_requests(train, n, a.fraction, a.num_samples) for n, a in teachers.items())

        def parts(done: IdSet) -> list["Dataset"]:
            return [
                teacher.responses(
                    problems.read(),
                    asking.generate(run, asked, model_of[name]),
                    name,
                    model_of[name],
                    fraction=asked.fraction,
                    num_samples=asked.num_samples,
                    sampling_params=asking.params(asked.sampling_params, asked, model_of[name]),
                    seed=seed,
                    suffix=suffix,
                    system_prompt=asked.system_prompt,
                    done=done,
                )
                for name, asked in teachers.items()
                if name not in given
            ]

        artifact.tell.expect(rows_in)
        left: Counter[str] = Counter()
        for name, source in given.items():
            left += importing.import_teacher(run, artifact, problems, name, teachers[name], source)
        imports = asking.imports(*teachers.values())
        run.generate(artifact, rows_in, teacher.STAGE, parts, run.config.run.parallel_engines, imports)
        unused = left.pop(teacher.UNUSED, 0)
        return rows_in, {"num_unused_records": unused, "bad_records": dict(sorted(left.items()))} if given else {}

    def renewer() -> Renew:
        known = Known(_of_split(problems, "train", ["instruction_id", "reference_answer"]), "instruction_id")

        def renew(row: Row, alike: bool, problem: Row | None) -> Row | None:
            asked = teachers[row["teacher"]]
            is_asked = teacher.is_asked(row["instruction_id"], row["teacher"], asked.fraction)
            if problem is None or not is_asked or row["sample_index"] >= asked.num_samples:
                return None
            return teacher.renewed(row, problem["reference_answer"], asked.sampling_params.max_tokens, alike)

        return lambda rows, alike: list(map(renew, rows, alike, known.rows([row["instruction_id"] for row in rows])))

    made = made_of.of_responses(run)
    how = {"reuse": Reuse(made.asked, "teacher", renewer), "resume": True}
    inputs = [problems.content()]
    return run.stage(teacher, "responses", schemas.RESPONSES, "responses", made.settings, inputs, make, **how)


def make_rewrites(run: Run, responses: Artifact) -> Artifact | None:
    config, seed = run.config.long2short, run.config.run.seed
    slow = run.config.teachers.slow if run.config.teachers is not None else None
    asked = config if config.engine or config.endpoint else slow
    if not config.enabled or asked is None:
        return None
    model = run.models["teachers.slow" if asked is slow else "long2short"]
    gates, params = enabled_gates(run.config), asking.params(config.sampling_params, asked, model)

    def make(artifact: Artifact) -> Made:
        rows_in = responses.count("teacher", "slow")

        def parts(done: IdSet) -> list["Dataset"]:
            sources = responses.read().filter(lambda row: row["teacher"] == "slow")
            generate = asking.generate(run, asked, model)
            return long2short.rewrites(sources, generate, model, gates, params, seed, done, config.system_prompt)

        run.generate(artifact, rows_in, long2short.STAGE, parts, parallel=True, imports=asking.imports(asked))
        return rows_in, {}

    def renewer() -> Renew:
        known = Known(long2short.sources(responses.tables(schemas.RESPONSES.names), gates), "rewrite_id")

        def renew(row: Row, alike: bool, source: Row | None) -> Row | None:
            most = config.sampling_params.max_tokens
            return None if source is None else long2short.renewed(row, source, most, alike)

        return lambda rows, alike: list(map(renew, rows, alike, known.rows([row["rewrite_id"] for row in rows])))

    made, inputs = made_of.of_rewrites(run, asked, model), [responses.content()]
    how = {"reuse": Reuse(made.asked, None, renewer), "resume": True}
    return run.stage(long2short, "rewrites", schemas.REWRITES, "slow responses", made.settings, inputs, make, **how)


def make_examples(run: Run, responses: Artifact, rewrites: Artifact | None) -> Artifact:
    settings = made_of.of_examples(run.config).settings
    inputs = [responses.content()] + ([rewrites.content()] if rewrites else [])

    def make(artifact: Artifact) -> Made:
        run.start_ray()
        rows_in = responses.count("teacher")
        if rewrites is not None:  # they stand for the slow responses
            rows_in += rewrites.count("rewrite_id") - responses.count("teacher", "slow")
        parts = curation.curate(responses.read(), rewrites.read() if rewrites is not None else None, **settings)
        artifact.tell.expect(rows_in)
        artifact.write(parts, curation.STAGE)
        return rows_in, {}

    made = run.stage(curation, "sft_examples", schemas.SFT_EXAMPLES, "candidates", settings, inputs, make)
    manifest = made.manifest()
    if manifest is not None and manifest.rows_out < manifest.rows_in / 10:
        kept = f"kept {manifest.rows_out:,} of {manifest.rows_in:,} candidates"
        run.display.say(f"{curation.STAGE}: {kept}, less than a tenth; rejected: {most_common(manifest.rejects)}")
    return made


def make_packed(run: Run, examples: Artifact) -> Artifact:
    student, config, trained = run.models["training.student"], run.config.packing, _given(run.config.training)
    chat = asking.chat_settings(run, student, trained.chat_template_kwargs)

    def make(artifact: Artifact) -> Made:
        run.start_ray()
        starts = packing.chunk_starts(table["example_id"].to_pylist() for table in examples.tables(["example_id"]))
        if not len(starts):
            raise StageError(f"{packing.STAGE}: no example passed the gates: {why_none(run.folder, BEFORE_PACKING)}")
        max_length = config.max_length or engine.model_length(student)
        packed = packing.pack(
            lambda: examples.read(list(packing.COLUMNS)),
            starts,
            model=student,
            max_length=max_length,
            enabled=config.enabled,
            template=config.template,
            system_prompt=trained.system_prompt,
            chat=chat,
        )
        for window in packed:
            artifact.write([window], packing.STAGE)
        num_sequences = num_tokens = 0
        for table in artifact.tables(["lengths"]):
            num_sequences += table.num_rows
            num_tokens += pc.sum(pc.list_flatten(table["lengths"])).as_py() or 0
        filled = round(packing.fill(num_tokens, num_sequences, max_length), 4) if config.enabled else 1.0
        rows_in = examples.count("example_id")
        return rows_in, {"num_sequences": num_sequences, "max_length": max_length, "fill": filled}

    settings, inputs = made_of.of_packed(run, student, trained).settings, [examples.content()]
    return run.stage(packing, "packed", schemas.PACKED, "examples", settings, inputs, make, "example_ids")


def make_checkpoint(run: Run, packed: Artifact) -> Artifact:
    config, student = _given(run.config.training), run.models["training.student"]
    read = {"student", "resources_per_worker", *made_of.ASKED_WITH}
    trained = config.model_dump(mode="json", exclude=read) | {"seed": run.config.run.seed}

    def make(artifact: Artifact) -> Made:
        saved = artifact.folder / states.STATES
        if (state := states.find(saved, artifact.fingerprint).newest) is not None:
            states.check_workers(saved, state, config.num_workers)
        run.start_ray()
        num_sequences = packed.count("sequence_id")
        if not num_sequences:
            raise StageError(f"{sft.STAGE}: every example was too long; raise packing.max_length")
        ids = (name for table in packed.tables(["sequence_id"]) for name in table["sequence_id"].to_pylist())
        num_held_out = sum(is_held_out(name, config.eval_fraction) for name in ids)
        if config.eval_fraction and not 0 < num_held_out < num_sequences:
            what = "raise" if not num_held_out else "lower"
            raise StageError(
                f"{sft.STAGE}: training.eval_fraction={config.eval_fraction:g} holds {num_held_out} of {num_sequences} "
                f"sequences out; {what} it"
            )
        batch = BatchArithmetic(num_sequences - num_held_out, **{name: trained[name] for name in BATCH_KEYS})
        if trained["warmup_ratio"] and batch.num_steps * trained["warmup_ratio"] < 1:
            run.display.say(
                f"{sft.STAGE}: {batch.num_steps} optimiser steps are fewer than the {ceil(1 / trained['warmup_ratio'])} "
                f"that training.warmup_ratio={trained['warmup_ratio']:g} needs; the first has learning rate 0"
            )
        if artifact.replaced is not None and (step := states.last_step(artifact.replaced / states.STATES)) is not None:
            run.display.say(
                f"{sft.STAGE}: the training states up to step {step} are of other data, other settings or another "
                f"student; they are in {artifact.replaced}, and training begins anew"
            )
        result = sft.train(
            packed.folder,
            student,
            artifact.folder,
            resources_per_worker=config.resources_per_worker,
            run=run.folder.name,
            made_of=artifact.fingerprint,
            attempt=artifact.attempt,
            tell=artifact.tell,
            say=run.display.say,
            **trained,
        )
        losses = {"first_loss": result.first_loss, "last_loss": result.last_loss}
        return num_sequences, {"num_steps": result.num_steps, "num_held_out": num_held_out, **losses}

    settings = made_of.of_checkpoint(run, student, config).settings
    how = {"resume": True}
    checkpoint = run.stage(sft, "checkpoint", None, "sequences", settings, [packed.content()], make, **how)
    if not config.keep_states:  # the student is there, and its manifest
        (checkpoint.folder / states.STATES).remove_all()
    return checkpoint


def _given(section: SectionT | None) -> SectionT:
    if section is None:
        raise StageError("the configuration has no section for this stage")
    return section


def _where(table: pa.Table, column: str, value: str) -> pa.Table:
    return table.filter(pc.equal(table[column], value))


def _of_split(problems: Artifact, split: str, columns: list[str]) -> Iterator[pa.Table]:
    for table in problems.tables([*columns, "split"]):
        yield _where(table, "split", split).select(columns)
