"""Sets of ids at eight bytes an id."""

import pickle

import numpy as np
import pytest

from ray_distil.store import ids
from ray_distil.store.ids import IdSet, SeenIds, count_ids, keys_of
from ray_distil.store.schemas import stable_id

IDS = [stable_id("row", k) for k in range(2000)]


def test_a_set_holds_what_it_was_made_of_and_nothing_else() -> None:
    some = IdSet([IDS[:700], [], IDS[500:1000]])
    assert len(some) == 1000
    assert [row_id in some for row_id in IDS] == [True] * 1000 + [False] * 1000
    assert IDS[0] not in IdSet()


def test_the_smallest_and_the_largest_id() -> None:
    ends = IdSet([["0" * 16, "f" * 16]])
    assert "0" * 16 in ends
    assert "f" * 16 in ends
    assert "f" * 15 + "e" not in ends


def test_it_travels_at_eight_bytes_an_id() -> None:
    data = pickle.dumps(IdSet([IDS]))
    assert len(data) < 8 * len(IDS) + 1000
    assert IDS[7] in pickle.loads(data)


def test_what_is_there_more_than_once() -> None:
    number, doubled = count_ids([IDS[:10], IDS[8:20], IDS[8:9]])
    assert number == 20
    assert sorted(f"{key:016x}" for key in doubled.tolist()) == sorted(IDS[8:10])


def test_what_was_seen_in_parts_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ids, "RUN", 300)
    seen, start = SeenIds(), 0
    for size in (0, 1, 2, 500, 3, 40, 41, 200, 0, 7):
        part = keys_of(IDS[start : start + size])
        assert not seen.contains(part).any()
        seen.add(part)
        start += size
        assert seen.contains(keys_of(IDS)).tolist() == [True] * start + [False] * (len(IDS) - start)


def test_the_smallest_of_some_keys() -> None:
    keys = keys_of(IDS)
    assert ids.smallest(5, keys[:3], keys[3:]).tolist() == np.sort(keys)[:5].tolist()
    assert ids.smallest(5, keys[:2]).tolist() == np.sort(keys[:2]).tolist()


@pytest.mark.parametrize("wrong", [["abc"], ["g" * 16], ["0" * 15]])
def test_what_is_no_id_is_refused(wrong: list[str]) -> None:
    with pytest.raises(ValueError, match="hexadecimal"):
        IdSet([wrong])
