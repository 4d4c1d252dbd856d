"""Which problems are held out, where no source of their own has them."""

import pyarrow as pa
import pyarrow.compute as pc

from ray_distil.records.problem_facts import EVAL
from ray_distil.store.ids import Keys, keys_of, smallest
from ray_distil.store.shards import REASON


class HeldOut:
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

    def add(self, part: pa.Table) -> None:
        self.is_made = self.is_made or pc.any(pc.equal(part["split"], EVAL)).as_py() is True
        usable = part.filter(pc.is_null(part[REASON]))
        answered = usable.filter(pc.is_valid(usable["reference_answer"]))
        self.num_usable += usable.num_rows
        self.num_answered += answered.num_rows
        self.answered = smallest(self.max_rows, self.answered, keys_of(answered["instruction_id"].to_pylist()))
        if not self.num_answered:
            self.usable = smallest(self.max_rows, self.usable, keys_of(usable["instruction_id"].to_pylist()))

    def ids(self) -> Keys:
        """The ids of the rows that move to the split "eval"."""
        usable, answered = self.num_usable, self.num_answered
        pool = self.answered if answered else self.usable
        number = min(self.max_rows, max(1, usable // 10), usable - 1, max(1, answered // 2 or usable))
        return pool[: 0 if self.is_made else max(0, number)]
