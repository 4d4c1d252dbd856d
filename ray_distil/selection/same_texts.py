"""Equal texts of one problem are learnt once: the example with the smallest id stays, the others are rejected.

    problem p1   direct 0 "8 + 5 = 13."   example 3a..   stays
                 direct 1 "8 + 5 = 13."   example 91..   same_text, "the text of example 3a.."
                 rewrite  "Add: 13."      example 07..   stays

Several samples of a teacher at a low temperature are mostly equal, and so are rewrites by a teacher that writes in one
style. Each repeat would count the problem once more. Which example stays depends on ids alone, so it is the same on
each machine and after each stop.
"""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from ray_distil.store.ids import DIGITS, Keys, keys_of
from ray_distil.store.schemas import SFT_EXAMPLES, stable_id
from ray_distil.store.shards import DETAIL, REASON, with_rejects

SAME_TEXT = "same_text"
COLUMNS = ["example_id", "instruction_id", "completion"]  # what `text_keys` reads


class Repeats:
    """The examples that repeat another one's text. Pickled, sixteen bytes for each."""

    def __init__(self, ids: Keys, texts: Keys) -> None:
        """ids: of all examples, [rows]; texts: a hash of problem and text of each, [rows]."""
        order = np.lexsort((ids, texts))
        ids, texts = ids[order], texts[order]

        # A row that two shards have, because a stopped run's task wrote it too, does not repeat itself.
        is_other = np.ones(len(ids), np.bool_)
        is_other[1:] = (ids[1:] != ids[:-1]) | (texts[1:] != texts[:-1])
        ids, texts = ids[is_other], texts[is_other]
        is_first = np.ones(len(ids), np.bool_)
        is_first[1:] = texts[1:] != texts[:-1]

        # Behind the first example of a text come those that repeat it.
        first = ids[is_first][np.cumsum(is_first) - 1]
        repeated, first = ids[~is_first], first[~is_first]
        by_id = np.argsort(repeated)
        self.ids, self.first = repeated[by_id], first[by_id]

    def __len__(self) -> int:
        return len(self.ids)

    def first_of(self, example_ids: list[str]) -> list[str | None]:
        """For each example: the id of the example whose text it repeats; None for an example that stays."""
        if not len(self.ids) or not example_ids:
            return [None] * len(example_ids)
        keys = keys_of(example_ids)
        places = np.minimum(np.searchsorted(self.ids, keys), len(self.ids) - 1)
        is_repeat = self.ids[places] == keys
        return [
            f"{int(self.first[place]):0{DIGITS}x}" if repeats else None
            for place, repeats in zip(places, is_repeat, strict=True)
        ]


def text_keys(table: pa.Table) -> pa.Table:
    """`example_id`, and `text`: a hash of problem and completion, 64 bits. `table` has COLUMNS."""
    pairs = zip(table["instruction_id"].to_pylist(), table["completion"].to_pylist(), strict=True)
    texts = keys_of([stable_id(*pair) for pair in pairs])
    return pa.table({"example_id": table["example_id"], "text": pa.array(texts, pa.uint64())})


def find(parts: Iterable[pa.Table]) -> Repeats:
    """The repeats among all examples. parts: tables of `text_keys`."""
    ids, texts = bytearray(), bytearray()
    for table in parts:
        ids += keys_of(table["example_id"].to_pylist()).tobytes()
        texts += table["text"].to_numpy().astype(np.uint64).tobytes()
    return Repeats(np.frombuffer(ids, np.uint64), np.frombuffer(texts, np.uint64))


def marked(table: pa.Table, repeats: Repeats) -> pa.Table:
    """SFT_EXAMPLES rows as a table of `with_rejects`: those that repeat a text are rejected."""
    first = repeats.first_of(table["example_id"].to_pylist())
    reasons = pa.array([SAME_TEXT if example_id else None for example_id in first], pa.string())
    details = pa.array(
        [f"the text of example {example_id}" if example_id else None for example_id in first], pa.string()
    )
    rows = table.select(SFT_EXAMPLES.names).append_column(REASON, reasons).append_column(DETAIL, details)
    return rows.cast(with_rejects(SFT_EXAMPLES))
