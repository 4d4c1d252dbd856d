"""JSON lists in pieces: the elements and the errors of `json.loads`, whatever the size of the pieces."""

import io
import json
import random
import tracemalloc
from typing import Any

import pytest

from ray_distil.records import json_lists
from ray_distil.records.json_lists import Elements, Texts

VALUES = [0, -1, 1.5e-7, 1e22, True, None, "", "a", "ü\ud83d\ude00", 'a "quoted" \\ text\n', [], {}, [1, [2.25]]]
VALUES += [float("inf"), {"a": {"b": [1, "]"]}, "c,": "}"}, 12345678901234567890, "\ud800"]


def pieces(text: str, size: int) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]


def told(text: str, size: int | None) -> Any:
    """What is read, or the error: its words and its line."""
    try:
        return repr(json.loads(text) if size is None else list(Elements(iter(pieces(text, size)))))
    except json.JSONDecodeError as error:
        return error.msg, error.lineno


@pytest.mark.parametrize("seed", range(30))
def test_elements_and_errors_are_those_of_the_whole(seed: int) -> None:
    dice = random.Random(seed)
    values = dice.choices(VALUES, k=dice.randint(0, 6))
    text = dice.choice(["", "\n "]) + json.dumps(
        values, indent=dice.choice([None, 1]), ensure_ascii=dice.random() < 0.5
    )
    text += dice.choice(["", "\n", "\n x", ","])
    for size in (1, 2, 7, 1000):
        assert told(text, size) == told(text, None)
        for end in range(text.index("[") + 1, len(text)):
            assert told(text[:end], size) == told(text[:end], None), text[:end]
            changed = text[:end] + dice.choice('x,]"[\n') + text[end:]
            assert told(changed, size) == told(changed, None), changed


@pytest.mark.parametrize("size", [1, 3, 2**20])
def test_bytes_that_are_no_text_are_told_by_their_place(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_lists, "PIECE_BYTES", size)
    data = b"\xef\xbb\xbf" + '["äö"]'.encode()
    assert list(Elements(iter(Texts(io.BytesIO(data))))) == ["äö"]
    assert list(Elements(iter(Texts(io.BytesIO(data[7:]), data[:7])))) == ["äö"]
    with pytest.raises(UnicodeDecodeError) as error:
        list(Texts(io.BytesIO(data[:6] + b"\xff" + data[6:])))
    assert error.value.start == 5


def test_one_piece_is_in_memory_at_a_time() -> None:
    text = json.dumps([{"instruction": "pens " * 200, "answer": k} for k in range(10_000)]).encode()
    tracemalloc.start()
    number = sum(1 for _ in Elements(iter(Texts(io.BytesIO(text)))))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert number == 10_000
    assert peak < 6 * json_lists.PIECE_BYTES < len(text)
