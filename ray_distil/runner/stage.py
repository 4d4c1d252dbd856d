"""A stage of a run: what its artifact is made of, and how it is made."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from ray_distil.config.section import SectionT, without_secrets
from ray_distil.errors import StageError
from ray_distil.runner import remaking
from ray_distil.store.artifact import Artifact
from ray_distil.store.ids import IdSet
from ray_distil.store.reuse import Known, Renew, Reuse
from ray_distil.store.superseded import differences

if TYPE_CHECKING:
    from ray.data import Dataset

NOT_SHOWN = ("asked", "equal_texts")  # of the settings of a fingerprint
Made = tuple[int, dict[str, Any]]
Row = dict[str, Any]


@dataclass(frozen=True)
class MadeOf:
    """What goes into the fingerprint of an artifact beside its inputs (`made_of.py`)."""

    settings: dict[str, Any]
    asked: dict[str, tuple[str, str]] = field(default_factory=dict)
    texts: dict[str, dict[str, Any]] = field(default_factory=dict)  # part -> what the first of its marks is a hash of
    by_earlier_rules: "MadeOf | None" = None  # the same by the rules of earlier versions, whose artifacts stay valid
    max_tokens: dict[str, int | None] = field(default_factory=dict)  # part -> the limit to a text

    def all_rules(self) -> Iterator["MadeOf"]:
        """This, and the same by the rules of each earlier version, from the newest on."""
        yield self
        if self.by_earlier_rules is not None:
            yield from self.by_earlier_rules.all_rules()

    def readable_like(self, saved: dict[str, Any], unknown: Container[str] = ()) -> dict[str, Any]:
        """`readable` by those rules, of this or an earlier version, by which it differs least from the saved settings.

        unknown: keys that are left out.
        """
        by_rules = [{k: v for k, v in made.readable.items() if k not in unknown} for made in self.all_rules()]
        known = {key: value for key, value in saved.items() if key not in unknown}
        return min(by_rules, key=lambda settings: len(list(differences(known, settings))))

    @property
    def earlier_marks(self) -> dict[str, str]:
        """Part -> the first of its marks by the rules of earlier versions."""
        marks = self.by_earlier_rules.asked if self.by_earlier_rules is not None else {}
        return {part: texts for part, (texts, _) in marks.items()}

    @property
    def readable(self) -> dict[str, Any]:
        """The settings, with what marks are hashes of in place of the marks, without secrets.

        A setting that artifacts of earlier versions lack, and that no key of the configuration sets, is left out: by it
        they are not of earlier settings.
        """
        shown = {key: value for key, value in self.settings.items() if key not in NOT_SHOWN}
        for part, texts in self.texts.items():
            own = texts | {"max_tokens": self.max_tokens[part]}
            if part:
                known = {key: value for key, value in shown[part].items() if key != "asked"}
                shown[part] = known | own
            else:
                shown |= own
        readable: dict[str, Any] = without_secrets(json.loads(json.dumps(shown)))
        return readable


class Stage(ABC):
    """The interface for `Run.make`. A stage sets `settings` and `inputs`, and defines `make`.

    The fingerprint is a hash of settings, inputs and the version of `rows`. A complete artifact with an equal
    fingerprint is not made again.
    """

    rows: ClassVar[ModuleType]  # its STAGE is the name on the console, its VERSION the code's version
    artifact: str  # the folder in the run; for "eval/base" the console shows "evaluation/base"
    schema: ClassVar[pa.Schema | None]
    unit: ClassVar[str]  # what one input row is, e.g. "responses"
    counted: ClassVar[str | None] = None  # the column with the ids of input rows; None: the first column
    resume: ClassVar[bool] = False  # whether rows that a stopped run has finished are kept
    tokens: ClassVar[str | None] = None  # the column with the tokens of a text, to sum those that gates reject

    settings: dict[str, Any]
    inputs: list[str]
    made: MadeOf | None = None  # what the settings are taken from, where texts or training are paid for
    reuse: Reuse | None = None  # which rows of an earlier making can be used again

    @abstractmethod
    def make(self, artifact: Artifact) -> Made:
        """Write the artifact's shards; returns the number of input rows, and entries of the manifest's summary."""

    @property
    def readable(self) -> dict[str, Any]:
        """The settings, for readers of the manifest."""
        return self.settings if self.made is None else self.made.readable

    def readable_like(self, saved: dict[str, Any]) -> dict[str, Any]:
        """See `MadeOf.readable_like`."""
        return self.readable if self.made is None else self.made.readable_like(saved)

    def loss(self, artifact: Artifact) -> str:
        """What would be thrown away or bought again that was paid for, if the stage began now; "" for nothing."""
        return ""

    def summarise(self, artifact: Artifact) -> dict[str, Any]:
        """More entries of the manifest's summary: figures of the rows, computed when each row is there exactly once."""
        return {}


class GeneratingStage(Stage):
    """A stage whose rows hold generated texts: finished rows are kept, and only the missing rows are generated.

    Its `make` calls `Run.generate`.
    """

    resume = True
    parallel = True  # run all datasets at once; else one after the other, each with its own engines
    imports: tuple[str, ...] = ()  # modules that generation needs, imported while Ray starts

    def loss(self, artifact: Artifact) -> str:
        if self.made is None or self.reuse is None:
            return ""
        return remaking.lost_texts(artifact, self.reuse, self.made.max_tokens)

    @abstractmethod
    def datasets(self, done: IdSet, num_missing: int) -> list["Dataset"]:
        """Datasets of all rows whose ids are not in `done`; there are `num_missing` of them."""


def renewed(known: Known, key: str, renew: Callable[[Row, bool, Row | None], Row | None]) -> Renew:
    """A `Renew` that calls renew(row, whether its limits are the same, known row or None) for each row of a list.

    The rows are those of an earlier making. known: the rows of this making's input, found by the column `key`.
    """
    return lambda rows, alike: list(map(renew, rows, alike, known.rows([row[key] for row in rows])))


def given(section: SectionT | None) -> SectionT:
    """The section. Raises StageError where the configuration has none."""
    if section is None:
        raise StageError("the configuration has no section for this stage")
    return section


def where(table: pa.Table, column: str, value: str) -> pa.Table:
    return table.filter(pc.equal(table[column], value))


def of_split(problems: Artifact, split: str, columns: list[str]) -> Iterator[pa.Table]:
    """These columns of the problems of a split, in tables; one table is in memory at a time."""
    for table in problems.tables([*columns, "split"]):
        yield where(table, "split", split).select(columns)
