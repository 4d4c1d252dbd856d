"""The problems of a run as small columns, to which the rows of other artifacts are joined by the problem's id.

    id        source   reference   judged   right         pass rate
    0afa04    gsm8k    52          4        3             0.75
    10957c    own      null        4        4             null: without a reference nobody knows

Memory: 28 bytes a problem and the text of its reference; four times that for a moment, while they are sorted.
"""

from collections import Counter
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ray_distil.judge.gates import ACCEPTED
from ray_distil.runtime.redaction import redacted
from ray_distil.store.artifact_reader import finished
from ray_distil.store.ids import Keys, keys_of
from ray_distil.store.storage import Folder

INSTRUCTION_COLUMNS = ["instruction_id", "reference_answer", "source", "split"]
Counts = npt.NDArray[np.int32]
ROWS_AT_ONCE = 1_000_000  # problems whose pass rates are counted at a time


class ProblemColumns:
    """Of the training problems: source, reference, number of judged responses and of right ones, by ascending id."""

    def __init__(self, tables: Iterable[pa.Table] = ()) -> None:
        """tables: with INSTRUCTION_COLUMNS."""
        self.labels: list[str] = []
        keys, sources = [np.zeros(0, np.uint64)], [np.zeros(0, np.int32)]
        references = [pa.array([], pa.large_string())]
        for table in tables:
            train = table.filter(pc.equal(table["split"], "train")).combine_chunks()
            keys.append(keys_of(train["instruction_id"].to_pylist()))
            sources.append(self._codes(train["source"]))
            references += train["reference_answer"].cast(pa.large_string()).chunks

        # Sorted by id, so that a problem is found by a search.
        unsorted = np.concatenate(keys)
        order = np.argsort(unsorted)
        self.keys: Keys = unsorted[order]
        self.sources: Counts = np.concatenate(sources)[order]
        self.references = pa.concat_arrays(references).take(pa.array(order))
        self.judged: Counts = np.zeros(len(order), np.int32)
        self.right: Counts = np.zeros(len(order), np.int32)

    def count_responses(self, table: pa.Table) -> None:
        """Count the verdicts of responses: a table with `instruction_id` and `verdict`. One without a verdict is not counted."""
        judged = table.filter(pc.is_valid(table["verdict"]))
        places, is_known = self._places(judged["instruction_id"])
        is_right = pc.equal(judged["verdict"], ACCEPTED).to_numpy()
        np.add.at(self.judged, places[is_known], 1)
        np.add.at(self.right, places[is_known & is_right], 1)

    def joined(self, ids: pa.ChunkedArray) -> dict[str, pa.Array]:
        """`source`, `reference_answer` and `pass_rate` of the problems with these ids; null where one is not known."""
        places, is_known = self._places(ids)
        if not len(self.keys):
            nothing = pa.nulls(len(ids), pa.string())
            return {"source": nothing, "reference_answer": nothing, "pass_rate": pa.nulls(len(ids), pa.float64())}

        where = pa.array(places, mask=~is_known)
        references = self.references.take(where).cast(pa.string())
        has_rate = is_known & (self.judged[places] > 0) & references.is_valid().to_numpy(zero_copy_only=False)
        rates = self.right[places] / np.maximum(self.judged[places], 1)
        labels = [redacted(label) for label in self.labels]
        return {
            "source": pa.array(labels, pa.string()).take(pa.array(self.sources[places], mask=~is_known)),
            "reference_answer": references,
            "pass_rate": pa.array(rates, mask=~has_rate),
        }

    def by_pass_rate(self) -> dict[str, int]:
        """Pass rate, as "0.25" -> the number of problems that have it."""
        counts = Counter[str]()
        for start in range(0, len(self.keys), ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            has_reference = self.references[part].is_valid().to_numpy(zero_copy_only=False)
            has_rate = has_reference & (self.judged[part] > 0)
            rates, numbers = np.unique(self.right[part][has_rate] / self.judged[part][has_rate], return_counts=True)
            for rate, number in zip(rates.tolist(), numbers.tolist(), strict=True):
                counts[f"{rate:.2f}" if rate in (0, 1) else f"{min(max(rate, 0.01), 0.99):.2f}"] += number
        return dict(counts)

    def by_source(self) -> dict[str, int]:
        """Label of a source -> its training problems."""
        numbers = np.bincount(self.sources, minlength=len(self.labels)).tolist()
        counts = Counter[str]()
        for label, number in zip(self.labels, numbers, strict=True):
            counts[redacted(label)] += number
        return dict(counts)

    def _codes(self, column: pa.ChunkedArray) -> Counts:
        """The sources of rows as places in `labels`, which gets those that are new."""
        encoded = column.combine_chunks().dictionary_encode()
        names = encoded.dictionary.to_pylist()
        self.labels += [name for name in names if name not in self.labels]
        codes = np.array([self.labels.index(name) for name in names], np.int32)
        places: Counts = codes[encoded.indices.to_numpy()]
        return places

    def _places(self, ids: pa.ChunkedArray) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """(the place of each id among the keys, whether it is there), [rows]."""
        row_keys = keys_of(ids.to_pylist())
        if not len(self.keys):
            return np.zeros(len(row_keys), np.int64), np.zeros(len(row_keys), np.bool_)
        places = np.minimum(np.searchsorted(self.keys, row_keys), len(self.keys) - 1)
        return places, self.keys[places] == row_keys


def read(run: Folder) -> ProblemColumns:
    """The columns of a run. What is not finished, or was not made, such as the problems of imported examples, is not in them."""
    instructions, responses = finished(run, "instructions"), finished(run, "responses")
    problems = ProblemColumns(instructions.tables(INSTRUCTION_COLUMNS) if instructions is not None else ())
    for table in responses.tables(["instruction_id", "verdict"]) if responses is not None else ():
        problems.count_responses(table)
    return problems
