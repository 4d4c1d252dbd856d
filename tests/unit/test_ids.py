"""Sets of ids at eight bytes an id."""

import pickle

import pytest

from ray_distil.ids import IdSet, count_ids
from ray_distil.schemas import stable_id

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


@pytest.mark.parametrize("ids", [["abc"], ["g" * 16], ["0" * 15]])
def test_what_is_no_id_is_refused(ids: list[str]) -> None:
    with pytest.raises(ValueError, match="hexadecimal"):
        IdSet([ids])
