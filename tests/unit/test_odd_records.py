"""Records and settings as others write them: CSV dialects, values of Parquet, settings in place of thoughts, YAML."""

import csv
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_distil.config import load
from ray_distil.errors import ConfigError
from ray_distil.records.conversations import responses_in
from ray_distil.records.sources import Source, records

LATEX = "Solve $\\frac{x}{2} = 5$, now \\\\"


def read(path: Path) -> list[dict[str, Any]]:
    return list(records(Source(str(path), "instructions.path")))


def test_a_cell_that_ends_with_a_backslash_keeps_those_of_all_cells(tmp_path: Path) -> None:
    rows = [{"instruction": LATEX, "answer": "10"}, {"instruction": "2 + 3?", "answer": "5"}]
    pd.DataFrame(rows).to_csv(tmp_path / "pandas.csv", index=False)
    with open(tmp_path / "python.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(rows)
    assert read(tmp_path / "pandas.csv") == read(tmp_path / "python.csv") == rows


def test_sparks_quotes_are_read_with_commas_and_without(tmp_path: Path) -> None:
    for text in ('say \\"five\\" now', 'say \\"five\\", now', '\\"five\\"'):
        (tmp_path / "spark.csv").write_text(f'instruction,answer\n"{text}",5\n"2 + 3?",5\n')
        assert read(tmp_path / "spark.csv")[0] == {"instruction": text.replace('\\"', '"'), "answer": "5"}


def test_odd_values_of_parquet_cost_their_rows_alone(tmp_path: Path) -> None:
    latin = pa.array([b"caf\xe9", b"ok", None], pa.binary()).view(pa.string())
    table = pa.table({
        "instruction": ["a?", "b?", "c?"],
        "answer": pa.array([0.1, 2.5, None], pa.float32()),
        "note": latin,
        "day": pa.array([2**31 - 1, 0, None], pa.int32()).view(pa.date32()),
    })  # fmt: skip
    pq.write_table(table, tmp_path / "odd.parquet")
    rows = read(tmp_path / "odd.parquet")
    assert [row["answer"] for row in rows] == [0.1, 2.5, None]
    assert [row["instruction"] for row in rows] == ["a?", "b?", "c?"]
    assert rows[1]["note"] == "ok"
    assert rows[1]["day"] == "1970-01-01"
    with pytest.raises(UnicodeEncodeError):  # so that a row whose text it is, is rejected
        rows[0]["note"].encode()


@pytest.mark.parametrize("setting", ["off", "on", "disabled", "none", "high", True, 3, {"effort": "low"}])
@pytest.mark.parametrize("key", ["reasoning", "thinking", "reasoning_content"])
def test_a_setting_is_no_thought(key: str, setting: Any) -> None:
    assert responses_in({"instruction": "2 + 3?", "output": "It is 5.", key: setting}) == ["It is 5."]


def test_a_thought_is_one_in_each_language() -> None:
    for thought in ("2 and 3.", "2+3=5", "二加三等于五"):
        (text,) = responses_in({"instruction": "2 + 3?", "output": "It is 5.", "reasoning": thought})
        assert text == f"<think>\n{thought}\n</think>\n\nIt is 5."


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("training:\n  seed: 1\n  max_steps: 2\n  seed: 3\n")
    with pytest.raises(ConfigError, match="'seed' stands twice, the second time in line 4"):
        load(str(tmp_path / "a.yaml"))


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("instructions.suffix= Answer: x", " Answer: x"),
        ("instructions.path=2024", "2024"),
        ("instructions.path=010", "010"),
    ],
)
def test_a_text_of_an_override_is_taken_as_it_is_written(override: str, value: str) -> None:
    key = override.partition("=")[0].partition(".")[2]
    assert getattr(load(None, [override]).instructions, key) == value
