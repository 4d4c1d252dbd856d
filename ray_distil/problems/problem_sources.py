"""The sources of a run's problems: files, folders, datasets of the hub, or the tiny world."""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ray_distil.config import TINY, InstructionsConfig
from ray_distil.config.findings import Finding, remark
from ray_distil.config.instructions_config import ProblemSource
from ray_distil.errors import UserError
from ray_distil.records import sources
from ray_distil.records.mixture import Mixture, Part
from ray_distil.records.sources import Source

NUM_TINY = 2000
TINY_SEED = 50_000


@dataclass(frozen=True)
class TrainingSource:
    """One source of training problems. key: its section. source: None for the tiny world. label: its name in rows."""

    config: ProblemSource
    key: str
    source: Source | None
    label: str


def training_sources(config: InstructionsConfig) -> list[TrainingSource]:
    """In their order. Raises UserError where two have one label."""
    training = []
    for number, section in enumerate(config.training_sources):
        key = f"instructions.sources.{number}" if config.sources else "instructions"
        source = None
        if section.path != TINY:
            columns = {str(name): column for name, column in section.columns.items()}
            source = Source(
                section.path,
                f"{key}.path",
                section.dataset_split,
                "dataset_split",
                section.dataset_name,
                columns,
                section.drop_system,
            )
        training.append(TrainingSource(section, key, source, section.label or (source.label if source else TINY)))

    label, number = Counter(source.label for source in training).most_common(1)[0]
    if number > 1:
        keys = " and ".join(source.key for source in training if source.label == label)
        raise UserError(f"{keys}: {number} sources are called {label!r} in rows and reports; give each its own `label`")
    return training


def held_out_source(config: InstructionsConfig) -> Source | None:
    """The source of held-out problems; None where no `eval_path` is set: they are held out of the training problems."""
    if config.eval_path is None:
        return None
    columns, split = {str(name): column for name, column in config.columns.items()}, config.eval_split
    return Source(
        config.eval_path,
        "instructions.eval_path",
        split or config.dataset_split,
        "eval_split",
        config.dataset_name,
        columns,
        config.drop_system,
    )


def all_sources(config: InstructionsConfig) -> list[Source]:
    """Those that are read: all but the tiny world."""
    of_training = [source.source for source in training_sources(config)]
    return [source for source in [*of_training, held_out_source(config)] if source is not None]


def mixture_of(config: InstructionsConfig) -> Mixture | None:
    """How several sources are mixed; None for one by `path`, of which the first `num_train` problems are taken."""
    if not config.sources:
        return None
    parts = [Part(s.label, s.key, s.config.share, s.config.max_problems) for s in training_sources(config)]
    return Mixture(parts, config.num_train)


def records_of(source: TrainingSource, config: InstructionsConfig, seed: int) -> Iterable[Any]:
    """The records of a source. The seed changes the problems of the tiny world."""
    if source.source is not None:
        return sources.records(source.source)
    from ray_distil.tiny import world

    num_problems = source.config.max_problems if config.sources else config.num_train
    return map(_tiny_record, itertools.islice(world.training_problems(TINY_SEED + seed), num_problems or NUM_TINY))


def held_out_records(config: InstructionsConfig) -> Iterable[Any]:
    """The records of `eval_path`, or of the tiny world alone its held-out problems; else none."""
    source = held_out_source(config)
    if source is not None:
        return sources.records(source)
    if config.sources or not config.is_tiny:
        return []
    from ray_distil.tiny import world

    if config.num_eval > world.NUM_HELD_OUT:
        raise UserError(
            f"instructions.num_eval: the tiny world holds out {world.NUM_HELD_OUT} problems, not {config.num_eval}"
        )
    return [_tiny_record(problem) for problem in world.held_out(world.SEED_TEST, config.num_eval)]


def _tiny_record(problem: Any) -> dict[str, str]:
    return {"instruction": problem.question, "answer": str(problem.answer)}


def left_out(config: InstructionsConfig) -> Iterator[Finding]:
    """A remark for each source that is a folder with files that are not read, e.g. those of another split."""
    for source in all_sources(config):
        if names := sources.left_out(source):
            names_shown = ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")
            yield remark(source.key, f"of {source.path!r} the split {source.split!r} is read, without {names_shown}")


def source_fingerprints(config: InstructionsConfig) -> list[str]:
    """The fingerprints of the sources' content."""
    return [sources.fingerprint(source) for source in all_sources(config)]
