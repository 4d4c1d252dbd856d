"""Which problems a teacher solves: the share of its responses to each that are right."""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_distil.store.ids import Keys, keys_of


class PassRates:
    """Problems that a teacher has solved at least once, and how often; all other problems have the rate 0."""

    def __init__(self, tables: Iterable[pa.Table], teacher: str, num_samples: int, right: str) -> None:
        """tables: of responses, with `response_id`, `instruction_id`, `teacher` and `verdict`; one that stands there twice
        counts once. right: the verdict of a right one.
        """
        responses, problems = [keys_of([])], [keys_of([])]
        for table in tables:
            is_right = pc.and_(pc.equal(table["teacher"], teacher), pc.equal(table["verdict"], right))
            responses.append(keys_of(table["response_id"].filter(is_right).to_pylist()))
            problems.append(keys_of(table["instruction_id"].filter(is_right).to_pylist()))
        _, first = np.unique(np.concatenate(responses), return_index=True)
        self.num_samples = num_samples
        self.keys, self.counts = np.unique(np.concatenate(problems)[first], return_counts=True)

    def within(self, ids: list[str], lowest: float, highest: float) -> list[str]:
        """Those of the problems whose rate lies within."""
        keys: Keys = keys_of(ids)
        counts = np.zeros(len(ids), np.int64)
        if len(self.keys):
            places = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
            counts = np.where(self.keys[places] == keys, self.counts[places], 0)
        rates = counts / self.num_samples
        return [row_id for row_id, is_in in zip(ids, (rates >= lowest) & (rates <= highest), strict=True) if is_in]
