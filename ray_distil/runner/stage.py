"""A stage of a run: what its artifact depends on, and how it is made.

class Rewrites(GeneratingStage):        one class in one file of stages/, which also has its row functions
    artifact = "rewrites"               its name: on the console, in the manifest, and of its folder in the run
    settings, inputs                    all that changes its rows; a hash of them is the artifact's fingerprint
    make(artifact)                      writes the rows
    sources(), reread(...)              how a row of an earlier making is used again
"""

from abc import ABC, abstractmethod
from collections.abc import Container, Iterable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from ray_distil.config.section import SectionT
from ray_distil.errors import StageError
from ray_distil.runner import remaking
from ray_distil.runner.reuse import Reuse
from ray_distil.runner.stage_settings import StageSettings
from ray_distil.store.artifact import Artifact
from ray_distil.store.ids import IdSet

if TYPE_CHECKING:
    from ray.data import Dataset

Made = tuple[int, dict[str, Any]]
Row = dict[str, Any]


class Stage(ABC):
    """The interface for `Run.make`. A stage sets `settings` and `inputs`, and defines `make`.

    The fingerprint is a hash of `fingerprint_name`, `version`, settings and inputs. A complete artifact with an equal
    fingerprint is not made again.
    """

    artifact: str  # e.g. "rewrites" or "eval/base/aime24"
    # A name of earlier versions: with another one, all finished artifacts would be made again.
    fingerprint_name: ClassVar[str]
    version: ClassVar[int]  # of the stage's code: a new one makes the rows anew
    schema: ClassVar[pa.Schema | None]
    unit: ClassVar[str]  # what one input row is, e.g. "responses"
    counted: ClassVar[str | None] = None  # the column with the ids of input rows; None: the first column
    resume: ClassVar[bool] = False  # whether rows that a stopped run has finished are kept
    tokens: ClassVar[str | None] = None  # the column with the tokens of a text, to sum those that gates reject
    unsettled: Container[
        str
    ] = ()  # parts whose rows follow from the others: `make` settles them, and carries their old rows

    settings: StageSettings
    inputs: list[str]

    @abstractmethod
    def make(self, artifact: Artifact) -> Made:
        """Write the artifact's shards; returns the number of input rows, and entries of the manifest's summary."""

    @property
    def reuse(self) -> Reuse | None:
        """Which rows of an earlier making can be used again; None: none."""
        return None

    def check(self, artifact: Artifact) -> None:  # noqa: B027  a stage may have nothing to check
        """Raises UserError where an unfinished artifact has what the stage cannot go on with."""

    def loss(self, artifact: Artifact) -> str:
        """What would be thrown away or bought again that was paid for, if the stage began now; "" for nothing."""
        return ""

    def summarise(self, artifact: Artifact) -> dict[str, Any]:
        """More entries of the manifest's summary: figures of the rows, computed when each row is there exactly once."""
        return {}

    def on_complete(self, artifact: Artifact) -> None:  # noqa: B027  a stage may have nothing to do
        """Called each time that a command finds the artifact complete, or has just made it."""


class GeneratingStage(Stage):
    """A stage whose rows hold generated texts: finished rows are kept, and only the missing rows are generated.

    Its `make` calls `Run.generate`.
    """

    resume = True
    part_of: ClassVar[str | None] = None  # the column with the part of the settings that made a row, e.g. its teacher
    source_key: ClassVar[str]  # the column by which a row finds its source
    # Reasons for which a row may be rejected again untried; see `fails_again`.
    lasting_rejects: ClassVar[tuple[str, ...]] = ()
    parallel: bool = True  # run all datasets at once; else one after the other, each with its own engines
    imports: tuple[str, ...] = ()  # modules that generation needs, imported while Ray starts

    @abstractmethod
    def datasets(self, done: IdSet, num_missing: int) -> list["Dataset"]:
        """Datasets of all rows whose ids are not in `done`; there are `num_missing` of them."""

    def sources(self) -> Iterable[pa.Table]:
        """What the rows are made of, with the column `source_key`; read only if there are old rows to use."""
        return ()

    def reread(self, row: Row, source: Row | None, has_same_limits: bool) -> Row | None:
        """A row of an earlier making as it is in this one; None where the model would give another text.

        source: the row of `sources` that it is made of, None without one. has_same_limits: whether the limits to the
        text's length are the same as when it was generated.
        """
        return None

    def fails_again(self, row: Row, source: Row | None) -> bool:
        """Whether a row that an earlier making has rejected, for one of `lasting_rejects`, is rejected again untried.

        Only under the same limits to the text's length, and only of a stage without parts.
        """
        return False

    @property
    def reuse(self) -> Reuse | None:
        return Reuse(
            self.settings.marks,
            self.settings.earlier_marks,
            self.part_of,
            self.source_key,
            self.sources,
            self.reread,
            self.lasting_rejects,
            self.fails_again,
        )

    def loss(self, artifact: Artifact) -> str:
        return remaking.lost_texts(artifact, self.reuse, self.settings.max_tokens) if self.reuse is not None else ""


def required(section: SectionT | None) -> SectionT:
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
