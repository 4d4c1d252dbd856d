"""Instructions, from the tiny world or from the user's own source.

All records are read and checked before Ray starts, so that a mistake shows at once.
"""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from ray_distil.config import TINY, InstructionsConfig, StagesConfig
from ray_distil.config.findings import Finding, remark
from ray_distil.curation.contamination import BenchmarkProblem
from ray_distil.errors import BadRecord, UserError
from ray_distil.problems.benchmark_rows import problems_mark, test_problems
from ray_distil.problems.benchmark_rows import source_of as source_of_benchmark
from ray_distil.records import sources
from ray_distil.records.conversations import instruction_of, reference_of
from ray_distil.records.problem_facts import (
    CONTAMINATED,
    EVAL,
    NEAR_DUPLICATE,
    TRAIN,
    Facts,
    StoredProblems,
    likeness_summary,
)
from ray_distil.records.problems import Limit, Problems
from ray_distil.records.sources import Source
from ray_distil.runner import remaking
from ray_distil.runner.id_rule import ids_by_source, keep_ids_by_source
from ray_distil.runner.runs import Run
from ray_distil.runner.stage import Made, Stage
from ray_distil.runner.stage_settings import StageSettings, values_of
from ray_distil.store.artifact import Artifact
from ray_distil.store.manifest import fingerprint
from ray_distil.store.schemas import INSTRUCTIONS, instruction_id, stable_id
from ray_distil.store.shards import reject

NUM_TINY = 2000
TINY_SEED = 50_000
FIRST_KEYS = (  # of `instructions`; later ones count where they are set
    "dataset_split", "dataset_name", "drop_system", "columns", "num_train", "eval_split", "num_eval",
)  # fmt: skip


class Instructions(Stage):
    """All records as rows, accepted or rejected."""

    artifact = fingerprint_name = "instructions"
    version, schema, unit = 2, INSTRUCTIONS, "instructions"

    def __init__(self, run: Run, records: Problems | StoredProblems) -> None:
        keep_ids_by_source(run.folder, self.artifact)
        self.run, self.records = run, records
        self.settings = settings_of(run.config)
        self.inputs = source_fingerprints(run.config.instructions)

    def loss(self, artifact: Artifact) -> str:
        lost = remaking.lost_ids(artifact, self.settings.values)
        if lost or not artifact.is_of_other_settings() or isinstance(self.records, StoredProblems):
            return lost
        number = remaking.num_with_texts(artifact, self.records.ids_alike())
        names = ", ".join(benchmark.name for benchmark in self.run.config.test_sets) or "held-out"
        if not number:
            return ""
        return (
            f"{number:,} problems with texts that were paid for are like an earlier one, or hold a problem of {names}, and "
            "would be left out (instructions.near_duplicates, instructions.decontamination.benchmarks)"
        )

    def make(self, artifact: Artifact) -> Made:
        records = self.records
        if isinstance(records, StoredProblems):  # they are gone meanwhile
            records = collected(self.run.config)
        for table in records.tables():
            artifact.write_table(table, self.artifact)
        return records.facts.num_rows, likeness_summary(records.facts)


def settings_of(config: StagesConfig) -> StageSettings:
    """Without the paths of the sources: another name or place of a file changes nothing.

    What the sources hold is an input of the stage (`source_fingerprints`). A run of an earlier version, which looked for no
    near-duplicates and contaminated problems, keeps its problems until a key of them is set.
    """
    section = config.instructions
    of_likeness = ("near_duplicates", "decontamination")
    values = values_of(section, FIRST_KEYS, without=("suffix", "path", "eval_path", *of_likeness))
    sources_ = sources_of(config.instructions)
    source_settings: dict[str, Any] = {
        "ids": "text",
        "sources": ["tiny" if source is None else "own" for source in sources_],
    }
    if ids_by_source(config.run_folder, Instructions.artifact):
        source_settings = {"sources": [source.label if source is not None else None for source in sources_]}
    values |= source_settings | {"seed": config.run.seed}
    likeness = _likeness_settings(config)
    is_default = all(getattr(section, key) == getattr(InstructionsConfig(), key) for key in of_likeness)
    return StageSettings(values | likeness, earlier=StageSettings(values) if is_default else None)


def _likeness_settings(config: StagesConfig) -> dict[str, Any]:
    section, settings = config.instructions, dict[str, Any]()
    if section.near_duplicates is not None:
        settings["near_duplicates"] = section.near_duplicates
    if section.decontamination.coverage is not None:
        settings["decontamination"] = section.decontamination.model_dump(mode="json", exclude={"benchmarks"}) | {
            "benchmarks": {benchmark.name: problems_mark(benchmark) for benchmark in config.test_sets}
        }
    return settings


def read_problems(config: StagesConfig) -> Problems | StoredProblems:
    """The problems of a run, from its artifact where this is complete and of the same source, else from the source.

    Raises UserError where the source cannot be used.
    """
    inputs = source_fingerprints(config.instructions)
    for rules in settings_of(config).all_rules():
        mark = fingerprint(Instructions.fingerprint_name, Instructions.version, rules.values, inputs)
        stored = Artifact(config.run_folder, Instructions.artifact, INSTRUCTIONS, mark)
        if stored.is_complete():
            return StoredProblems(stored)
    return collected(config)


def collected(config: StagesConfig, remarks: list[str] | None = None) -> Problems:
    """All records of a run's source, without those that hold a test problem.

    remarks: gets a line for each benchmark that is not there. Without it, such a benchmark raises UserError.
    """
    section = config.instructions
    by_source = ids_by_source(config.run_folder, Instructions.artifact)
    problems = collect(section, config.run.seed, by_source)
    if (coverage := section.decontamination.coverage) is None:
        return problems

    # The test problems are read last: a mistake in the problems' own file shows before a hub is asked.
    tests: list[BenchmarkProblem] = []
    for benchmark in config.test_sets:
        source = source_of_benchmark(benchmark)
        if remarks is not None and source is not None and (absence := sources.absence(source)):
            text = "problems that hold one of its are counted as training problems"
            remarks.append(f"{benchmark.name}: {absence}: {text}")
            continue
        try:
            tests += test_problems(benchmark)
        except UserError as error:
            remedy = "or leave it out of instructions.decontamination.benchmarks, and its problems may be learnt"
            raise UserError(f"{error}; {remedy}") from error
    problems.reject_contaminated(tests, coverage, section.decontamination.ignore_numbers)
    _refuse_empty(section, problems.facts)
    return problems


def sources_of(config: InstructionsConfig) -> tuple[Source | None, Source | None]:
    """(source of training problems, source of held-out problems).

    The first is None for the tiny world. The second is None where no `eval_path` is set: the held-out problems then
    come from the tiny world, or are a part of the first source.
    """
    dataset_name, columns = config.dataset_name, {str(name): column for name, column in config.columns.items()}
    train = eval_ = None
    if config.path != TINY:
        split = config.dataset_split
        train = Source(
            config.path, "instructions.path", split, "dataset_split", dataset_name, columns, config.drop_system
        )
    if config.eval_path is not None:
        split = config.eval_split or config.dataset_split
        eval_ = Source(
            config.eval_path, "instructions.eval_path", split, "eval_split", dataset_name, columns, config.drop_system
        )
    return train, eval_


def tiny_records(config: InstructionsConfig, seed: int) -> tuple[list[Any], list[Any]]:
    """Training and held-out problems of the tiny world. The seed changes only the training problems."""
    from ray_distil.tiny import world

    def record(problem: world.Problem) -> dict[str, str]:
        return {"instruction": problem.question, "answer": str(problem.answer)}

    train = itertools.islice(world.training_problems(TINY_SEED + seed), config.num_train or NUM_TINY)
    if config.num_eval > world.NUM_HELD_OUT:
        raise UserError(
            f"instructions.num_eval: the tiny world holds out {world.NUM_HELD_OUT} problems, not {config.num_eval}"
        )
    return [record(p) for p in train], [record(p) for p in world.held_out(world.SEED_TEST, config.num_eval)]


def instruction_row(record: Any, source: str, split: str, position: int, by_source: bool = False) -> dict[str, Any]:
    """One record as an INSTRUCTIONS row, or as a reject, which tells the record's position in the file."""
    row = {"instruction_id": stable_id(source, split, position), "source": source, "split": split}
    if not isinstance(record, dict):
        return reject(row, "not_an_object", f"record {position} is a {type(record).__name__}; expected an object")

    # An instruction is text that can be saved.
    try:
        text = instruction_of(record)
    except BadRecord as error:
        return reject(row, error.reason, f"record {position}: {error}")
    if not isinstance(text, str) or not text.strip():
        return reject(row, "no_instruction", f"record {position}: `instruction` is missing, empty or not text")
    try:
        text.encode()
    except UnicodeEncodeError:
        return reject(row, "not_unicode", f"record {position}: `instruction` holds a lone surrogate")

    try:
        reference = reference_of(record.get("answer"))
    except BadRecord as error:
        return reject(row, error.reason, f"record {position}: {error}")

    return row | {
        "instruction_id": instruction_id(text, source if by_source else ""),
        "instruction": text,
        "reference_answer": reference,
    }


def collect(config: InstructionsConfig, seed: int, by_source: bool = False) -> Problems:
    """All records as rows, accepted or rejected; training and held-out problems share no instruction.

    by_source: the id of a problem is a hash of its text and its source, as in runs of earlier versions. Raises
    UserError where a file cannot be used or leaves nothing to train or to evaluate on.
    """
    train_source, eval_source = sources_of(config)
    train: Iterable[Any]
    held_out: Iterable[Any] = []
    if train_source is None:
        train, held_out = tiny_records(config, seed)
    else:
        train = sources.records(train_source)
    if eval_source is not None:
        held_out = sources.records(eval_source)
    # The held-out rows come first: a problem that is in both is evaluated, and rejected from training.
    name, eval_name = (TINY if s is None else s.label for s in (train_source, eval_source or train_source))
    rows = itertools.chain(
        (instruction_row(record, eval_name, EVAL, k, by_source) for k, record in enumerate(held_out, 1)),
        (instruction_row(record, name, TRAIN, k, by_source) for k, record in enumerate(train, 1)),
    )
    limits = {
        TRAIN: Limit(config.num_train, "instructions.num_train"),
        EVAL: Limit(config.num_eval, "instructions.num_eval"),
    }
    problems = Problems(
        rows,
        [eval_name, name] if by_source else [""],
        config.num_eval,
        limits,
        config.near_duplicates,
        decontaminates=config.decontamination.coverage is not None,
    )
    _refuse_empty(config, problems.facts)
    return problems


def _refuse_empty(config: InstructionsConfig, facts: Facts) -> None:
    for split, purpose in ((TRAIN, "to train on"), (EVAL, "held out for evaluation")):
        if not facts.usable[split] and (split == TRAIN or config.num_eval):
            raise UserError(
                f"instructions.path: {config.path!r} leaves no instruction {purpose}{_most_rejected(facts)}; it "
                f"needs at least two different ones with a text in `instruction`{_columns_there(config, facts)}"
            )


def _columns_there(config: InstructionsConfig, facts: Facts) -> str:
    """The columns of the first record, and how one is named, where no text was found; else where to look."""
    source = sources_of(config)[0]
    first = (
        next(iter(sources.records(source)), None) if source is not None and facts.rejects["no_instruction"] else None
    )
    names = list(map(str, first)) if isinstance(first, dict) else []
    if not names:
        return "; see instructions.columns"
    return (
        f"; there are the columns {', '.join(names)}: name one, as in instructions.columns={{instruction: {names[0]}}}"
    )


def _most_rejected(facts: Facts) -> str:
    """The most frequent reason of rejects, with the detail of its first record; "" without a reject."""
    if not facts.rejects:
        return ""
    (reason, number), *_ = facts.rejects.most_common(1)
    return f": {number:,} of {facts.num_rows:,} records are {reason} ({facts.details[reason]})"


def unchecked(config: InstructionsConfig, facts: Facts) -> Iterator[Finding]:
    """A remark if no record has a reference answer."""
    source = sources_of(config)[0]
    if source is None or facts.num_answered:
        return
    first = next(iter(sources.records(source)))
    names = ", ".join(map(str, first)) if isinstance(first, dict) else "no columns"
    text = f"none of {facts.num_usable:,} instructions has `answer`, so nothing is checked for correctness"
    yield remark("", f"{text}; there are: {names}; see instructions.columns")


def mostly_alike(facts: Facts) -> Iterator[Finding]:
    """A remark where more than half of the training problems are near-duplicates or contaminated: a wrong file looks so."""
    for reason, likeness in ((NEAR_DUPLICATE, "are like an earlier one"), (CONTAMINATED, "hold a test problem")):
        number = facts.rejects[reason]
        if number > facts.usable[TRAIN]:
            pairs = "; ".join(f"{p.instruction[:80]!r} beside {p.like[:80]!r}" for p in facts.pairs.get(reason, ()))
            text = f"{number:,} training problems {likeness} and are left out, {facts.usable[TRAIN]:,} are left"
            yield remark("instructions.path", f"{text}; the first: {pairs}")


def reading(config: InstructionsConfig, facts: Facts) -> str:
    """What is read of the user's own records, in a line; "" for the tiny world.

    E.g. "60 records: 49 to train on, 5 held out; 46 have an answer; rejected: duplicate 6 (record 12: ...)".
    """
    if sources_of(config)[0] is None:
        return ""
    usable, rejects = facts.usable, facts.rejects.most_common()
    reasons = ", ".join(f"{reason} {number:,} ({facts.details[reason]})" for reason, number in rejects)
    line = f"{config.path!r}: {facts.num_rows:,} records: {usable[TRAIN]:,} to train on, {usable[EVAL]:,} held out"
    return f"{line}; {facts.num_answered:,} have an answer" + (f"; rejected: {reasons}" if reasons else "")


def left_out(config: InstructionsConfig) -> Iterator[Finding]:
    """A remark for each source that is a folder with files that are not read, e.g. those of another split."""
    for source in sources_of(config):
        names = sources.left_out(source) if source is not None else []
        if source is not None and names:
            names_shown = ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")
            yield remark(source.key, f"of {source.path!r} the split {source.split!r} is read, without {names_shown}")


def source_fingerprints(config: InstructionsConfig) -> list[str]:
    """The fingerprints of the sources' content."""
    return [sources.fingerprint(source) for source in sources_of(config) if source is not None]
