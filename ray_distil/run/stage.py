"""A stage of a run: what its artifact is made of, and how it is made."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from ray_distil.config.section import SectionT
from ray_distil.store.artifact import Artifact
from ray_distil.store.ids import IdSet
from ray_distil.store.reuse import Known, Renew, Reuse
from ray_distil.store.shards import StageError

if TYPE_CHECKING:
    from ray.data import Dataset

Made = tuple[int, dict[str, Any]]
Row = dict[str, Any]


class Stage(ABC):
    """What `Run.make` needs. A stage sets `settings` and `inputs`, and has `make`.

    Equal settings, inputs and version of `rows` are an equal fingerprint: the artifact is there, and stays.
    """

    rows: ClassVar[ModuleType]  # its STAGE is the name on the console, its VERSION that of its code
    artifact: str  # the folder in the run; of "eval/base" the second part is shown behind the stage's name
    schema: ClassVar[pa.Schema | None]
    unit: ClassVar[str]  # what goes in, e.g. "responses"
    counted: ClassVar[str | None] = None  # the column of the ids that go in, where it is not the first
    resume: ClassVar[bool] = False  # rows that a stopped run has finished stay
    tokens: ClassVar[str | None] = None  # the column with the tokens of a text that a gate may keep out

    settings: dict[str, Any]
    inputs: list[str]
    reuse: Reuse | None = None  # which rows of an earlier making are good for this one

    @abstractmethod
    def make(self, artifact: Artifact) -> Made:
        """Write the artifact's shards; returns how many rows went in, and what the manifest's summary has of it."""

    def summarise(self, artifact: Artifact) -> dict[str, Any]:
        """What the manifest's summary has besides: figures of the rows, when each of them is there once."""
        return {}


class GeneratingStage(Stage):
    """A stage whose rows hold generated texts: rows that are there stay, and only the others are asked for.

    Its `make` calls `Run.generate`.
    """

    resume = True
    parallel = True  # all datasets at once; else one after the other, each with its engines
    imports: tuple[str, ...] = ()  # modules that generation needs, loaded beside the start of Ray

    @abstractmethod
    def datasets(self, done: IdSet) -> list["Dataset"]:
        """All rows but those whose ids are in `done`."""


def renewed(known: Known, key: str, renew: Callable[[Row, bool, Row | None], Row | None]) -> Renew:
    """`renew` for many rows of an earlier making: the row, whether its limits are the same, today's row beside it.

    known: today's rows, which tell what is asked; a row and today's row have the same value in the column `key`.
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
    """These columns of the problems of a split, in tables of which one is in memory at a time."""
    for table in problems.tables([*columns, "split"]):
        yield where(table, "split", split).select(columns)
