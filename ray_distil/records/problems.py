"""All problems of a run before they are written, in parts of ROWS_PER_SHARD rows; one part is in memory at a time.

    records -> parts, duplicates rejected -> a temporary file -> parts in their final form, as often as asked

Only after the last record is it known which problems are near-duplicates, which are held out, which hold a test problem,
and which are over a limit. So the split of a row and these rejections are set when its part is read back. Memory grows by
eight bytes a row, the hashes that find duplicates, and a few for each near-duplicate; with a mixture, for a moment by
eight more. The temporary files (TMPDIR) take a
third of the texts' bytes, and with near-duplicates four bytes a word and 136 a row more.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_distil.records.held_out import HeldOut
from ray_distil.records.limits import Limit, limited, rejected, usable, with_column
from ray_distil.records.mixture import Mixture, Taken, without_rest
from ray_distil.records.problem_facts import (
    CONTAMINATED,
    EVAL,
    HELD_OUT,
    NEAR_DUPLICATE,
    NUM_PAIRS,
    NUM_SAMPLES,
    OTHER_ANSWER,
    SPLITS,
    TRAIN,
    Facts,
    Pair,
)
from ray_distil.records.problem_file import NAME as WORDS_COLUMN
from ray_distil.records.problem_file import ProblemFile
from ray_distil.selection.contamination import SIZE, BenchmarkProblem, BenchmarkProblems, Contaminated
from ray_distil.selection.near_duplicates import Bands, Likenesses
from ray_distil.selection.near_duplicates import find as near_duplicates_in
from ray_distil.selection.words import WORDS
from ray_distil.store.artifact_reader import ROWS_PER_SHARD
from ray_distil.store.ids import DIGITS, Keys, SeenIds, keys_of
from ray_distil.store.schemas import INSTRUCTIONS, instruction_id, stable_id
from ray_distil.store.shards import DETAIL, REASON, reject, table_of

Row = dict[str, Any]
POSITION = "position"  # of a row's record in its source, from 1


class Problems:
    """INSTRUCTIONS rows, accepted or rejected, in the order of their records."""

    def __init__(
        self,
        rows: Iterable[Row],
        labels: list[str],
        num_eval: int,
        limits: dict[str, Limit],
        near_duplicates: float | None = None,
        decontaminates: bool = False,
        mixture: Mixture | None = None,
    ) -> None:
        """Reads all rows, which `instructions.instruction_row` makes. Rows of the split "eval" must come first.

        labels: all sources of which the rows' ids are hashes; [""] where they are hashes of texts alone. num_eval: how
        many rows are held out if no row is in "eval" already. near_duplicates: the similarity from which the later of two
        training problems is rejected; None: only equal ones are. decontaminates: `reject_contaminated` will be called.
        mixture: how many of each source are trained on.
        """
        self._limits, self._mixture = limits, mixture
        self._contaminated: tuple[BenchmarkProblems, Contaminated] | None = None
        tables = (table_of(part, INSTRUCTIONS) for part in _without_duplicates(rows, list(dict.fromkeys(labels))))
        bands = Bands() if near_duplicates is not None else None
        self._file = ProblemFile(tables, bands is not None or decontaminates, bands)
        self._like: Likenesses | None = None
        if bands is not None and near_duplicates is not None:
            self._like = near_duplicates_in(self._comparable(), bands.pairs(), near_duplicates)

        choice = HeldOut(num_eval)
        for _, table in self._without_near_duplicates(["instruction_id", "reference_answer", "split", REASON, DETAIL]):
            choice.add(table)
        self._held_out = choice.ids()

    def tables(self) -> Iterator[pa.Table]:
        """The rows in the schema `with_rejects(INSTRUCTIONS)`, ROWS_PER_SHARD rows in a table."""
        num_kept: Counter[str] = Counter()
        for table in self._without_contaminated():
            table = without_rest(table, self.taken)
            for split, limit in self._limits.items():
                table = limited(table, split, limit, num_kept)
            yield table

    @cached_property
    def taken(self) -> dict[str, Taken]:
        """Label of a source of the mixture -> how many of its problems are trained on; {} without a mixture."""
        if self._mixture is None:
            return {}
        return self._mixture.taken(self._without_contaminated(["instruction_id", "source", "split", REASON, DETAIL]))

    def reject_contaminated(
        self, tests: Sequence[BenchmarkProblem], coverage: float, ignore_numbers: bool = False
    ) -> None:
        """Rejects the training problems that hold a held-out problem of the run, or one of `tests`."""
        held_out = [BenchmarkProblem(HELD_OUT, f"{HELD_OUT} {row_id}", text) for row_id, text in self._texts(EVAL)]
        problems = BenchmarkProblems([*held_out, *tests], ignore_numbers)
        by_part = []
        rows = self._with_splits(["instruction_id", "split", REASON, DETAIL])
        for (start, table), words in zip(rows, self._file.tables([WORDS_COLUMN]), strict=True):
            is_training = pc.and_(pc.is_null(table[REASON]), pc.equal(table["split"], TRAIN))
            holding = problems.held_by(pc.if_else(is_training, words[WORDS_COLUMN], pa.scalar(None, WORDS)), coverage)
            by_part.append(holding._replace(rows=holding.rows + start))
        self._contaminated = (
            (problems, Contaminated(*map(np.concatenate, zip(*by_part, strict=True)))) if by_part else None
        )
        for figures in ("facts", "samples", "taken"):
            self.__dict__.pop(figures, None)

    def _texts(self, split: str) -> Iterator[tuple[str, str]]:
        """(id, text) of each accepted row of a split."""
        for table in self.tables():
            rows = usable(table, split)
            yield from zip(rows["instruction_id"].to_pylist(), rows["instruction"].to_pylist(), strict=True)

    def _comparable(self) -> Iterator[pa.Table]:
        """The rows for `near_duplicates.find`: those of the split "eval" stay."""
        for table in self._file.tables(["instruction_id", "reference_answer", "split", WORDS_COLUMN]):
            yield table.append_column("stays", pc.equal(table["split"], EVAL))

    def _without_near_duplicates(self, columns: list[str] | None = None) -> Iterator[tuple[int, pa.Table]]:
        """(number of its first row, the table) for each part."""
        start = 0
        for table in self._file.tables(columns):
            if self._like is not None:
                part = slice(*np.searchsorted(self._like.rows, [start, start + table.num_rows]))
                details = [
                    f"like {key:0{DIGITS}x}: {_alike(similarity)}"
                    for key, similarity in zip(
                        self._like.keys[part].tolist(), self._like.similarities[part].tolist(), strict=True
                    )
                ]
                table = rejected(table, self._like.rows[part] - start, NEAR_DUPLICATE, details)
            yield start, table
            start += table.num_rows

    def _with_splits(self, columns: list[str] | None = None) -> Iterator[tuple[int, pa.Table]]:
        for start, table in self._without_near_duplicates(columns):
            if len(self._held_out):
                is_chosen = pa.array(np.isin(keys_of(table["instruction_id"].to_pylist()), self._held_out))
                table = with_column(table, "split", pc.if_else(is_chosen, EVAL, table["split"]))
            yield start, table

    def _without_contaminated(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        for start, table in self._with_splits(columns):
            if self._contaminated is not None:
                tests, holding = self._contaminated
                part = slice(*np.searchsorted(holding.rows, [start, start + table.num_rows]))
                details = [
                    _held(share, tests.problems[test])
                    for test, share in zip(holding.tests[part].tolist(), holding.shares[part].tolist(), strict=True)
                ]
                table = rejected(table, holding.rows[part] - start, CONTAMINATED, details)
            yield table

    def to_pylist(self) -> list[Row]:
        """All rows as dicts, all in memory: for programs with a few thousand rows."""
        return [row for table in self.tables() for row in table.to_pylist()]

    @cached_property
    def facts(self) -> Facts:
        facts = Facts(pairs=self._pairs())
        for table in self.tables():
            facts.add(table)
            if self._mixture is not None:
                for label in table["source"].unique().to_pylist():
                    facts.by_source.setdefault(label, Facts()).add(table.filter(pc.equal(table["source"], label)))
        if self._contaminated is not None:
            tests, holding = self._contaminated
            names = [problem.benchmark for problem in tests.problems]
            facts.contaminated.update(names[test] for test in holding.tests.tolist())
            facts.test_sets = dict(Counter(names))
        return facts

    def _pairs(self) -> dict[str, list[Pair]]:
        """The first near-duplicates and contaminated problems, each beside the problem that it is like."""
        like, holding = self._like, self._contaminated
        rows = [] if like is None else like.rows[:NUM_PAIRS].tolist()
        keys = [] if like is None else [f"{key:0{DIGITS}x}" for key in like.keys[:NUM_PAIRS].tolist()]
        holders = [] if holding is None else holding[1].rows[:NUM_PAIRS].tolist()
        texts: dict[int | str, str] = {}  # of rows by their numbers, and by their ids
        start = 0
        for table in self._file.tables(["instruction_id", "instruction"]):
            if texts.keys() >= {*rows, *keys, *holders}:
                break
            in_part = {row for row in (*rows, *holders) if start <= row < start + table.num_rows}
            texts |= {row: table["instruction"][row - start].as_py() for row in in_part}
            is_named = pc.is_in(table["instruction_id"], pa.array(keys, pa.string()))
            anchors = table.filter(is_named)
            texts |= zip(anchors["instruction_id"].to_pylist(), anchors["instruction"].to_pylist(), strict=True)
            start += table.num_rows

        pairs = {}
        if like is not None and rows:
            details = map(_alike, like.similarities.tolist())
            pairs[NEAR_DUPLICATE] = [Pair(texts[r], texts[k], d) for r, k, d in zip(rows, keys, details, strict=False)]
        if holding is not None and holders:
            tests, contaminated = holding
            pairs[CONTAMINATED] = [
                Pair(texts[row], tests.problems[test].text, _held(share, tests.problems[test]))
                for row, test, share in zip(
                    holders, contaminated.tests.tolist(), contaminated.shares.tolist(), strict=False
                )
            ]
        return pairs

    def ids_alike(self) -> Keys:
        """The ids of near-duplicates and contaminated problems, as numbers."""
        ids = [keys_of([])]
        for table in self.tables():
            is_alike = pc.is_in(table[REASON], pa.array([NEAR_DUPLICATE, CONTAMINATED]))
            ids.append(keys_of(table["instruction_id"].filter(is_alike).to_pylist()))
        return np.concatenate(ids)

    def ids(self, split: str) -> Iterator[list[str]]:
        """Ids of the accepted rows of a split, one list for each part."""
        for table in self.tables():
            yield usable(table, split)["instruction_id"].to_pylist()

    @cached_property
    def samples(self) -> dict[str, list[str]]:
        """Split -> texts of accepted rows, evenly spaced: NUM_SAMPLES to twice as many, or all of fewer rows."""
        taken: dict[str, list[str]] = {split: [] for split in SPLITS}
        num_seen: Counter[str] = Counter()
        for table in self.tables():
            for split in SPLITS:
                texts = usable(table, split)["instruction"]
                step = max(1, self.facts.usable[split] // NUM_SAMPLES)
                taken[split] += texts.take(
                    pa.array(range(-num_seen[split] % step, len(texts), step), pa.int64())
                ).to_pylist()
                num_seen[split] += len(texts)
        return taken


def _alike(similarity: float) -> str:
    return f"{similarity:.2f} of the word pairs are the same"


def _held(share: float, problem: BenchmarkProblem) -> str:
    return f"{share:.2f} of the {SIZE}-grams of {problem.name}"


def _without_duplicates(rows: Iterable[Row], labels: list[str]) -> Iterator[list[Row]]:
    """The rows in parts; of two equal instructions the later row is rejected. labels: the sources by which ids are hashed."""
    seen_ids, number, remaining = SeenIds(), 0, iter(rows)
    while part := list(islice(remaining, ROWS_PER_SHARD)):
        usable_rows = [k for k, row in enumerate(part) if "instruction" in row]
        ids = {label: [_id_from(part[k], label) for k in usable_rows] for label in labels}
        seen_before = {label: seen_ids.contains(keys_of(ids[label])) for label in labels}
        firsts = dict[str, Row]()  # of this part, by their ids
        for place, k in enumerate(usable_rows):
            row = part[k]
            first = (ids[label][place] for label in labels if seen_before[label][place] or ids[label][place] in firsts)
            if same := next(first, None):
                part[k] = _repeated(row, number + k + 1, same, firsts.get(same))
            else:
                firsts[row["instruction_id"]] = row
        seen_ids.add(keys_of(list(firsts)))
        number += len(part)
        yield part


def _repeated(row: Row, number: int, same: str, first: Row | None) -> Row:
    """A row whose text has an earlier row, of the id `same`, as a reject. number: of the row, counted over all sources.
    first: the earlier row, if it is of the same part.
    """
    earlier = same
    if first is not None:
        is_beside = (first["source"], first["split"]) == (row["source"], row["split"])
        earlier = f"record {first[POSITION]}" + ("" if is_beside else f" of {first['source']}")
    text = f"record {row[POSITION]}: same text as {earlier}"
    answer, earlier_answer = row["reference_answer"], first["reference_answer"] if first is not None else None
    is_other = None not in (answer, earlier_answer) and answer != earlier_answer
    text += f", with another answer ({answer}, there {earlier_answer})" if is_other else ""
    row_id = stable_id(row["instruction_id"], number)
    return reject(row | {"instruction_id": row_id}, OTHER_ANSWER if is_other else "duplicate", text)


def _id_from(row: Row, label: str) -> str:
    """The id of the row's text, if it came from the source `label`; the row's own without one."""
    return row["instruction_id"] if label in ("", row["source"]) else instruction_id(row["instruction"], label)
