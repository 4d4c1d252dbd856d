"""All problems of a run, read from its sources and checked, before Ray starts: a mistake shows at once."""

from collections.abc import Iterator
from typing import Any

from ray_distil.config import InstructionsConfig
from ray_distil.config.findings import Finding, remark
from ray_distil.errors import BadRecord, UserError
from ray_distil.problems.problem_sources import (
    TrainingSource,
    held_out_records,
    held_out_source,
    mixture_of,
    records_of,
    training_sources,
)
from ray_distil.records.conversations import instruction_of, reference_of
from ray_distil.records.limits import Limit
from ray_distil.records.mixture import OVER_LIMIT, OVER_SHARE
from ray_distil.records.problem_facts import CONTAMINATED, EVAL, NEAR_DUPLICATE, OTHER_ANSWER, TRAIN, Facts
from ray_distil.records.problems import POSITION, Problems
from ray_distil.store.schemas import instruction_id, stable_id
from ray_distil.store.shards import reject

OF_READ = {
    "duplicate",
    OTHER_ANSWER,
    NEAR_DUPLICATE,
    CONTAMINATED,
    OVER_SHARE,
    OVER_LIMIT,
}  # reasons of readable records


def instruction_row(record: Any, source: str, split: str, position: int, by_source: bool = False) -> dict[str, Any]:
    """One record as an INSTRUCTIONS row, or as a reject, which tells the record's position in the file."""
    row = {"instruction_id": stable_id(source, split, position), "source": source, "split": split, POSITION: position}
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
    training, mixture = training_sources(config), mixture_of(config)
    eval_source = held_out_source(config)
    eval_label = eval_source.label if eval_source is not None else training[0].label

    # The held-out rows come first: a problem that is in both is evaluated, and rejected from training.
    def rows() -> Iterator[dict[str, Any]]:
        for position, record in enumerate(held_out_records(config), 1):
            yield instruction_row(record, eval_label, EVAL, position, by_source)
        for source in training:
            for position, record in enumerate(records_of(source, config, seed), 1):
                yield instruction_row(record, source.label, TRAIN, position, by_source)

    num_train = config.num_train if mixture is None else None
    limits = {
        TRAIN: Limit(num_train, "instructions.num_train"),
        EVAL: Limit(config.num_eval, "instructions.num_eval"),
    }
    problems = Problems(
        rows(),
        [eval_label, *(source.label for source in training)] if by_source else [""],
        config.num_eval,
        limits,
        config.near_duplicates,
        decontaminates=config.decontamination.coverage is not None,
        mixture=mixture,
    )
    refuse_empty(config, problems.facts)
    return problems


def refuse_empty(config: InstructionsConfig, facts: Facts) -> None:
    """Raises UserError where no problem is left to train on, or held out, or of a source that has a share, and where a
    source has no record that can be read.
    """
    sources, paths = training_sources(config), ", ".join(map(repr, config.paths))
    key = "instructions.sources" if config.sources else "instructions.path"
    unread = [source for source in sources if config.sources and _is_unread(source, facts)]
    if unread and facts.usable[TRAIN]:
        raise UserError(_leaves_none(config, unread[0], facts.by_source[unread[0].label], "to train on"))

    for split, purpose in ((TRAIN, "to train on"), (EVAL, "held out for evaluation")):
        if facts.usable[split] or (split == EVAL and not config.num_eval):
            continue

        # Where a source has a share and no problem, there is none of the other sources either.
        empty = [source for source in sources if source.config.share and not _has_problems(source, facts)]
        if split == TRAIN and empty:
            of_source = facts.by_source.get(empty[0].label, facts)
            raise UserError(_leaves_none(config, empty[0], of_source, "to train on, and it has a share"))
        raise UserError(_leaves_none(config, sources[0], facts, purpose, f"{key}: {paths}"))


def _leaves_none(
    config: InstructionsConfig, source: TrainingSource, facts: Facts, purpose: str, files: str = ""
) -> str:
    """The message where nothing is left. files: those that are meant, where it is not the source alone."""
    files = files or f"{source.key}.path: {source.config.path!r}"
    return (
        f"{files} leaves no instruction {purpose}{_most_rejected(facts)}; it needs at least two different ones with a text "
        f"in `instruction`{_columns_there(config, source, facts)}"
    )


def _is_unread(source: TrainingSource, facts: Facts) -> bool:
    """Whether the source has records, and none that can be read as a problem."""
    of_source = facts.by_source.get(source.label, Facts())
    return bool(of_source.num_rows and not of_source.num_usable and not OF_READ & of_source.rejects.keys())


def _has_problems(source: TrainingSource, facts: Facts) -> bool:
    """Whether any problem of the source is usable, be it over a limit."""
    facts_of_source = facts.by_source.get(source.label, Facts())
    return bool(
        facts_of_source.num_usable or facts_of_source.rejects[OVER_SHARE] or facts_of_source.rejects[OVER_LIMIT]
    )


def _columns(config: InstructionsConfig, source: TrainingSource) -> list[str]:
    """The columns of the source's first record."""
    first = next(iter(records_of(source, config, 0)), None)
    return list(map(str, first)) if isinstance(first, dict) else []


def _columns_there(config: InstructionsConfig, source: TrainingSource, facts: Facts) -> str:
    """The columns of the first record, and how one is named, where no text was found; else where to look."""
    names = _columns(config, source) if facts.rejects["no_instruction"] else []
    if not names:
        return f"; see {source.key}.columns"
    return (
        f"; there are the columns {', '.join(names)}: name one, as in {source.key}.columns={{instruction: {names[0]}}}"
    )


def _most_rejected(facts: Facts) -> str:
    """The most frequent reason of rejects, with the detail of its first record; "" without a reject."""
    if not facts.rejects:
        return ""
    (reason, number), *_ = facts.rejects.most_common(1)
    return f": {number:,} of {facts.num_rows:,} records are {reason} ({facts.details[reason]})"


def unchecked(config: InstructionsConfig, facts: Facts) -> Iterator[Finding]:
    """A remark for each source of which no record has a reference answer."""
    for source in training_sources(config):
        facts_of_source = facts.by_source.get(source.label, Facts()) if config.sources else facts
        if source.source is None or facts_of_source.num_answered or not facts_of_source.num_usable:
            continue
        names = ", ".join(_columns(config, source)) or "no columns"
        of_source = f" of {source.label}" if config.sources else ""
        text = f"none of {facts_of_source.num_usable:,} instructions{of_source} has `answer`, so nothing is checked for correctness"
        yield remark("", f"{text}; there are: {names}; see {source.key}.columns")


def mostly_alike(facts: Facts) -> Iterator[Finding]:
    """A remark where more than half of the training problems are near-duplicates or contaminated: a wrong file looks so."""
    for reason, likeness in ((NEAR_DUPLICATE, "are like an earlier one"), (CONTAMINATED, "hold a test problem")):
        number = facts.rejects[reason]
        if number > facts.usable[TRAIN] + facts.rejects[OVER_SHARE] + facts.rejects[OVER_LIMIT]:
            pairs = "; ".join(f"{p.instruction[:80]!r} beside {p.like[:80]!r}" for p in facts.pairs.get(reason, ()))
            text = f"{number:,} training problems {likeness} and are left out, {facts.usable[TRAIN]:,} are left"
            yield remark("instructions.path", f"{text}; the first: {pairs}")


def reading(config: InstructionsConfig, facts: Facts) -> list[str]:
    """What is read of the user's own records, a line for each source; [] for the tiny world.

    E.g. "60 records: 49 to train on, 5 held out; 46 have an answer; rejected: duplicate 6 (record 12: ...)".
    """
    if config.is_tiny:
        return []
    if not config.sources:
        return [_reading(repr(config.path), facts)]
    names = {source.label: f"{source.label} ({source.config.path!r})" for source in training_sources(config)}
    lines = [_reading(names.get(label, label), facts_of_source) for label, facts_of_source in facts.by_source.items()]
    return [*lines, _reading(f"all {len(names)} sources", facts, with_reasons=False)]


def _reading(name: str, facts: Facts, with_reasons: bool = True) -> str:
    usable, rejects = facts.usable, facts.rejects.most_common() if with_reasons else []
    reasons = ", ".join(f"{reason} {number:,} ({facts.details[reason]})" for reason, number in rejects)
    line = f"{name}: {facts.num_rows:,} records: {usable[TRAIN]:,} to train on, {usable[EVAL]:,} held out"
    return f"{line}; {facts.num_answered:,} have an answer" + (f"; rejected: {reasons}" if reasons else "")
