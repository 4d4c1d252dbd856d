"""All problems of a run before they are written, in parts of ROWS_PER_SHARD rows; one part is in memory at a time.

    records -> parts, duplicates rejected -> a temporary file -> parts in their final form, as often as asked

Only after the last record is it known which problems are held out and which are over a limit. So the split of a row and
its rejection by a limit are set when its part is read back. Memory grows by eight bytes a row: the hashes that find
duplicates. The file has no name and lies in Python's temporary folder (TMPDIR). It takes about a third of the texts'
bytes, and disappears with the process.
"""

import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_distil.errors import UserError
from ray_distil.store.artifact_reader import ROWS_PER_SHARD, ArtifactReader
from ray_distil.store.ids import Keys, SeenIds, keys_of, smallest
from ray_distil.store.schemas import INSTRUCTIONS, instruction_id, stable_id
from ray_distil.store.shards import DETAIL, REASON, reject, table_of, with_rejects
from ray_distil.store.storage import describe

TRAIN, EVAL = "train", "eval"
SPLITS = (TRAIN, EVAL)
NUM_SAMPLES = 200
Row = dict[str, Any]


@dataclass(frozen=True)
class Limit:
    """At most `num_rows` rows of a split are accepted; None: all. `key`: the key of the configuration that sets it."""

    num_rows: int | None
    key: str


@dataclass
class Facts:
    """Counts of the rows: all, accepted by split, accepted with a reference answer, rejected by reason."""

    num_rows: int = 0
    usable: Counter[str] = field(default_factory=Counter)
    num_answered: int = 0
    rejects: Counter[str] = field(default_factory=Counter)
    details: dict[str, str] = field(default_factory=dict)  # reason -> detail of the first row rejected for it

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


class Problems:
    """INSTRUCTIONS rows, accepted or rejected, in the order of their records."""

    def __init__(self, rows: Iterable[Row], labels: list[str], num_eval: int, limits: dict[str, Limit]) -> None:
        """Reads all rows, which `instructions.instruction_row` makes. Rows of the split "eval" must come first.

        labels: all sources of which the rows' ids are hashes; [""] where they are hashes of texts alone. num_eval: how
        many rows are held out if no row is in "eval" already.
        """
        self._limits = limits
        self._parts = _Parts()
        choice = _Choice(num_eval)
        for part in _without_duplicates(rows, list(dict.fromkeys(labels))):
            choice.add(part)
            self._parts.add(table_of(part, INSTRUCTIONS))
        self._parts.close()
        self._held_out = choice.held_out()

    def tables(self) -> Iterator[pa.Table]:
        """The rows in the schema `with_rejects(INSTRUCTIONS)`, ROWS_PER_SHARD rows in a table."""
        num_kept: Counter[str] = Counter()
        for table in self._parts:
            if len(self._held_out):
                is_chosen = pa.array(np.isin(keys_of(table["instruction_id"].to_pylist()), self._held_out))
                table = _set(table, "split", pc.if_else(is_chosen, EVAL, table["split"]))
            for split, limit in self._limits.items():
                table = _limited(table, split, limit, num_kept)
            yield table

    def to_pylist(self) -> list[Row]:
        """All rows as dicts, all in memory: for programs with a few thousand rows."""
        return [row for table in self.tables() for row in table.to_pylist()]

    @cached_property
    def facts(self) -> Facts:
        facts = Facts()
        for table in self.tables():
            usable = table.filter(pc.is_null(table[REASON]))
            rejected = table.filter(pc.is_valid(table[REASON])).select([REASON, DETAIL])
            facts.num_rows += table.num_rows
            facts.usable.update(usable["split"].to_pylist())
            facts.num_answered += usable.num_rows - usable["reference_answer"].null_count
            for row in rejected.to_pylist():
                facts.rejects[row[REASON]] += 1
                facts.details.setdefault(row[REASON], row[DETAIL])
        return facts

    def ids(self, split: str) -> Iterator[list[str]]:
        """Ids of the accepted rows of a split, one list for each part."""
        for table in self.tables():
            yield _usable(table, split)["instruction_id"].to_pylist()

    @cached_property
    def samples(self) -> dict[str, list[str]]:
        """Split -> texts of accepted rows, evenly spaced: NUM_SAMPLES to twice as many, or all of fewer rows."""
        taken: dict[str, list[str]] = {split: [] for split in SPLITS}
        num_seen: Counter[str] = Counter()
        for table in self.tables():
            for split in SPLITS:
                texts = _usable(table, split)["instruction"]
                step = max(1, self.facts.usable[split] // NUM_SAMPLES)
                taken[split] += texts.take(
                    pa.array(range(-num_seen[split] % step, len(texts), step), pa.int64())
                ).to_pylist()
                num_seen[split] += len(texts)
        return taken


class StoredProblems:
    """The same figures of problems that a run has written already. Nothing is read until a check needs it."""

    def __init__(self, artifact: ArtifactReader) -> None:
        self._artifact = artifact

    @cached_property
    def facts(self) -> Facts:
        manifest = self._artifact.manifest()
        facts = Facts(manifest.rows_in, rejects=Counter(manifest.rejects)) if manifest is not None else Facts()
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


def _usable(table: pa.Table, split: str) -> pa.Table:
    return table.filter(pc.and_(pc.is_null(table[REASON]), pc.equal(table["split"], split)))


def _set(table: pa.Table, name: str, column: Any) -> pa.Table:
    at = table.schema.get_field_index(name)
    return table.set_column(at, table.schema.field(at), column)


def _limited(table: pa.Table, split: str, limit: Limit, num_kept: Counter[str]) -> pa.Table:
    """The table; the split's rows beyond `limit` are rejected. `num_kept`: split -> accepted rows so far, updated here."""
    is_of = pc.and_(pc.is_null(table[REASON]), pc.equal(table["split"], split))
    number = np.cumsum(is_of.to_numpy(), dtype=np.int64) + num_kept[split]
    num_kept[split] = int(number[-1]) if len(number) else num_kept[split]
    if limit.num_rows is None or num_kept[split] <= limit.num_rows:
        return table
    is_over = pc.and_(is_of, pa.array(number > limit.num_rows))
    over = reject({}, "over_limit", f"{limit.key} is {limit.num_rows}")
    for name in (REASON, DETAIL):
        table = _set(table, name, pc.if_else(is_over, over[name], table[name]))
    return table


def _without_duplicates(rows: Iterable[Row], labels: list[str]) -> Iterator[list[Row]]:
    """The rows in parts. Of two equal instructions the later row is rejected, also across files and splits.

    Where an id is a hash of the text and its source, each text is looked up by its id in every source (`labels`).
    """
    seen_ids, number, remaining = SeenIds(), 0, iter(rows)
    while part := list(islice(remaining, ROWS_PER_SHARD)):
        usable = [k for k, row in enumerate(part) if "instruction" in row]
        ids = {label: [_id_from(part[k], label) for k in usable] for label in labels}
        seen_before = {label: seen_ids.contains(keys_of(ids[label])) for label in labels}
        new_ids = set[str]()
        for place, k in enumerate(usable):
            row = part[k]
            first = (ids[label][place] for label in labels if seen_before[label][place] or ids[label][place] in new_ids)
            if same := next(first, None):
                row_id = stable_id(row["instruction_id"], number + k + 1)
                part[k] = reject(row, "duplicate", f"same text as {same}") | {"instruction_id": row_id}
            else:
                new_ids.add(row["instruction_id"])
        seen_ids.add(keys_of(list(new_ids)))
        number += len(part)
        yield part


def _id_from(row: Row, label: str) -> str:
    """The id of the row's text, if it came from the source `label`; the row's own without a label."""
    return row["instruction_id"] if label in ("", row["source"]) else instruction_id(row["instruction"], label)


class _Choice:
    """Chooses the rows that are held out, in one pass over the rows.

    At most `max_rows` rows and a tenth of all: those with the smallest ids. Ids are hashes, so the choice is as good as
    random and does not depend on the order of the file. If any row has a reference answer, only such rows are held out,
    because the others can show tokens but no accuracy. Half of the rows with a reference stay in training, where the
    gate `correct` needs them.
    """

    def __init__(self, max_rows: int) -> None:
        self.max_rows, self.num_usable, self.num_answered = max_rows, 0, 0
        self.is_made = False  # whether held-out rows have a source of their own
        self.usable, self.answered = keys_of([]), keys_of([])  # the smallest ids so far

    def add(self, part: list[Row]) -> None:
        self.is_made = self.is_made or any(row["split"] == EVAL for row in part)
        usable = [row for row in part if REASON not in row]
        answered = [row["instruction_id"] for row in usable if row["reference_answer"] is not None]
        self.num_usable += len(usable)
        self.num_answered += len(answered)
        self.answered = smallest(self.max_rows, self.answered, keys_of(answered))
        if not self.num_answered:
            self.usable = smallest(self.max_rows, self.usable, keys_of([row["instruction_id"] for row in usable]))

    def held_out(self) -> Keys:
        """The ids of the rows that move to the split "eval"."""
        usable, answered = self.num_usable, self.num_answered
        pool = self.answered if answered else self.usable
        number = min(self.max_rows, max(1, usable // 10), usable - 1, max(1, answered // 2 or usable))
        return pool[: 0 if self.is_made else max(0, number)]


class _Parts:
    """Tables in a temporary file, in the order in which they were added.

    Arrow opens the file itself. Its threads can still hold a file of Python when Python ends, and then abort the process
    (github.com/apache/arrow/issues/50482).
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="ray_distil-")  # noqa: SIM115  it lives as long as this object
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        self._path = f"/dev/fd/{self._file.fileno()}"
        self._sink = pa.OSFile(self._path, "wb")
        self._writer = pa.ipc.new_file(self._sink, with_rejects(INSTRUCTIONS), options=options)

    def add(self, table: pa.Table) -> None:
        """Raises UserError where the disk is full."""
        self._written(lambda: self._writer.write_table(table))

    def close(self) -> None:
        self._written(self._writer.close)
        self._written(self._sink.close)

    def __iter__(self) -> Iterator[pa.Table]:
        with pa.OSFile(self._path) as file, pa.ipc.open_file(file) as reader:
            for number in range(reader.num_record_batches):
                yield pa.Table.from_batches([reader.get_batch(number)])

    def _written(self, write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as error:
            place = tempfile.gettempdir()
            raise UserError(f"instructions: {place} cannot take them ({describe(error)}); set TMPDIR") from error
