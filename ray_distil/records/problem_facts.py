"""Figures of a run's problems, for checks and plans: of those that are just read, and of those that a run has written."""

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from ray_distil.store.artifact_reader import ArtifactReader
from ray_distil.store.shards import DETAIL, REASON

TRAIN, EVAL = "train", "eval"
SPLITS = (TRAIN, EVAL)
HELD_OUT = "held-out"
OTHER_ANSWER = "other_answer"  # the reason of a text that stands before it with another answer
NEAR_DUPLICATE, CONTAMINATED = "near_duplicate", "contaminated"
NUM_SAMPLES, NUM_PAIRS = 200, 3


class Pair(NamedTuple):
    """A rejected problem beside the one that it is like."""

    instruction: str
    like: str
    detail: str


@dataclass
class Facts:
    """Counts of the rows: all, accepted by split, accepted with a reference answer, rejected by reason."""

    num_rows: int = 0
    usable: Counter[str] = field(default_factory=Counter)
    num_answered: int = 0
    rejects: Counter[str] = field(default_factory=Counter)
    details: dict[str, str] = field(default_factory=dict)  # reason -> detail of the first row rejected for it
    pairs: dict[str, list[Pair]] = field(
        default_factory=dict
    )  # "near_duplicate", "contaminated" -> the first NUM_PAIRS
    contaminated: Counter[str] = field(
        default_factory=Counter
    )  # name of a benchmark, or "held-out" -> training problems that hold one
    test_sets: dict[str, int] = field(default_factory=dict)  # what was looked for: name -> its problems
    by_source: dict[str, "Facts"] = field(default_factory=dict)  # label -> its own; of a run with several sources

    def add(self, table: pa.Table) -> None:
        """Counts the rows of a table of `with_rejects(INSTRUCTIONS)`."""
        usable = table.filter(pc.is_null(table[REASON]))
        rejects = table.filter(pc.is_valid(table[REASON])).select([REASON, DETAIL])
        self.num_rows += table.num_rows
        self.usable.update(usable["split"].to_pylist())
        self.num_answered += usable.num_rows - usable["reference_answer"].null_count
        for row in rejects.to_pylist():
            self.rejects[row[REASON]] += 1
            self.details.setdefault(row[REASON], row[DETAIL])

    @property
    def num_usable(self) -> int:
        return self.usable.total()


class Figures(Protocol):
    """What checks need of problems. `samples`: split -> texts of some accepted rows."""

    @property
    def facts(self) -> Facts: ...

    @property
    def samples(self) -> dict[str, list[str]]: ...


@dataclass(frozen=True)
class Summary:
    """The figures of problems, for another process."""

    facts: Facts
    samples: dict[str, list[str]]


def summary_of(facts: Facts) -> dict[str, Any]:
    """What a manifest keeps: near-duplicates and contaminated problems, and of several sources the counts of each."""
    pairs = {reason: [pair._asdict() for pair in pairs] for reason, pairs in facts.pairs.items()}
    summary: dict[str, Any] = {"pairs": pairs, "contaminated": dict(facts.contaminated), "test_sets": facts.test_sets}
    if facts.by_source:
        summary["sources"] = {
            label: {
                "rows": counts.num_rows,
                **{split: counts.usable[split] for split in SPLITS},
                "rejects": dict(counts.rejects),
            }
            for label, counts in facts.by_source.items()
        }
    return summary


def _likeness_of(summary: dict[str, Any]) -> dict[str, Any]:
    pairs = {reason: [Pair(**pair) for pair in pairs] for reason, pairs in summary.get("pairs", {}).items()}
    return {
        "pairs": pairs,
        "contaminated": Counter(summary.get("contaminated", {})),
        "test_sets": summary.get("test_sets", {}),
    }


class StoredProblems:
    """The same figures of problems that a run has written already. Nothing is read until a check needs it."""

    def __init__(self, artifact: ArtifactReader) -> None:
        self._artifact = artifact

    @cached_property
    def facts(self) -> Facts:
        manifest = self._artifact.manifest()
        facts = Facts()
        if manifest is not None:
            facts = Facts(manifest.rows_in, rejects=Counter(manifest.rejects), **_likeness_of(manifest.summary))
        for table in self._artifact.tables(["split", "reference_answer"]):
            facts.usable.update(table["split"].to_pylist())
            facts.num_answered += table.num_rows - table["reference_answer"].null_count
        return facts

    @cached_property
    def samples(self) -> dict[str, list[str]]:
        """Split -> texts of the first rows, NUM_SAMPLES or all of fewer: rows are in the order of their ids, which are
        as good as random.
        """
        taken: dict[str, list[str]] = {split: [] for split in SPLITS}
        for table in self._artifact.tables(["split", "instruction"]):
            for split, texts in taken.items():
                of_split = table.filter(pc.equal(table["split"], split))
                texts += of_split["instruction"].slice(0, NUM_SAMPLES - len(texts)).to_pylist()
            if min(map(len, taken.values())) == NUM_SAMPLES:
                break
        return taken
