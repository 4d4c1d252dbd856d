"""Each kind of source gives the same records, and what cannot be read is told by key, file and remedy."""

import gzip
import json
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict

from ray_distil.errors import UserError
from ray_distil.records import sources
from ray_distil.records.sources import Source
from ray_distil.store.artifact import Artifact
from ray_distil.store.schemas import stable_id
from ray_distil.store.shards import reject, table_of
from ray_distil.store.storage import Folder
from tests.object_store import CREDENTIALS, ObjectStore

RECORDS = [{"problem": f"What is {k} + 1?", "solution": str(k + 1), "note": None} for k in range(5)]
CSV = "problem,solution,note\n" + "".join(f"What is {k} + 1?,{k + 1},\n" for k in range(5))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with ObjectStore(tmp_path_factory.mktemp("s3") / "log") as made:
        yield made


def read(path: Path | str, **options: Any) -> list[Any]:
    return list(sources.records(Source(str(path), "instructions.path", **options)))


def mark(path: Path | str, **options: Any) -> str:
    return sources.fingerprint(Source(str(path), "instructions.path", **options))


def told(path: Path | str, **options: Any) -> str:
    with pytest.raises(UserError) as error:
        read(path, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def save(folder: Path, kind: str, records: list[dict[str, Any]] = RECORDS) -> Path:
    """The records as a source of this kind."""
    path = folder / f"problems.{kind}"
    if kind == "json":
        path.write_text(json.dumps(records, indent=1))
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    elif kind == "csv":
        path.write_text(CSV)
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(records), path)
    elif kind == "folder":
        path.mkdir()
        pq.write_table(pa.Table.from_pylist(records[:2]), path / "part-a.parquet")
        (path / "part-b.jsonl").write_text("\n".join(map(json.dumps, records[2:])))
        for other in ("_manifest.json", ".hidden.jsonl", "README.md"):
            (path / other).write_text("no record")
    elif kind == "dataset":
        Dataset.from_list(records).save_to_disk(path)
    else:
        DatasetDict({"train": Dataset.from_list(records), "test": Dataset.from_list(records[:2])}).save_to_disk(path)
    return path


@pytest.mark.parametrize("kind", ["json", "jsonl", "csv", "parquet", "folder", "dataset", "splits"])
def test_every_kind_gives_the_same_records_on_a_disk_and_in_a_store(
    tmp_path: Path, kind: str, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path, kind)
    assert read(path) == RECORDS
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    bucket = Folder.at(store.uri(tmp_path.name))
    bucket.upload(tmp_path)
    uri = str(bucket / path.name)
    assert read(uri) == RECORDS
    assert mark(uri) == mark(path)


@pytest.mark.parametrize("kind", ["json", "csv", "parquet", "folder", "dataset"])
def test_a_fingerprint_is_that_of_what_is_read(tmp_path: Path, kind: str) -> None:
    path = save(tmp_path, kind)
    before = mark(path)
    assert mark(path) == before
    for file in sorted(path.iterdir())[-1:] if path.is_dir() else [path]:
        file.write_bytes(file.read_bytes() + b"\n")
    assert mark(path) != before


def test_what_a_folder_does_not_give_does_not_change_its_fingerprint(tmp_path: Path) -> None:
    path = save(tmp_path, "folder")
    before = mark(path)
    (path / "_manifest.json").write_text("another")
    assert mark(path) == before
    (path / "part-b.jsonl").rename(path / "part-c.jsonl")
    assert mark(path) != before


def test_a_split_is_chosen_and_one_that_is_not_there_is_told(tmp_path: Path) -> None:
    path = save(tmp_path, "splits")
    assert read(path, split="test") == RECORDS[:2]
    assert mark(path, split="test") != mark(path)
    message = told(path, split="tset", split_key="eval_split")
    assert message == f"instructions.eval_split: {str(path)!r} has no split 'tset'; it has 'train', 'test'"


def test_a_dataset_of_the_hub_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(name: str, config: str | None, revision: str | None) -> DatasetDict:
        asked.append((name, config, revision))
        if name == "openai/absent":
            raise FileNotFoundError("Couldn't find\nany data file")
        return DatasetDict({"train": Dataset.from_list(RECORDS), "test": Dataset.from_list(RECORDS[:1])})

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    assert read("hf://datasets/openai/gsm8k", name="main") == RECORDS
    assert read("hf://datasets/openai/gsm8k@v1", split="test") == RECORDS[:1]
    marks = [mark("hf://datasets/openai/gsm8k", name="main", split=split) for split in ("train", "train", "test")]
    assert marks[0] == marks[1] != marks[2]
    assert asked == [("openai/gsm8k", "main", None), ("openai/gsm8k", None, "v1")]  # each once
    assert told("hf://datasets/openai/absent") == (
        "instructions.path: Hugging Face does not give 'hf://datasets/openai/absent': "
        "FileNotFoundError: Couldn't find any data file"
    )
    assert "give hf://datasets/OWNER/NAME" in told("hf://datasets/openai/gsm8k/train.jsonl")
    assert sources.absence(Source("hf://datasets/openai/gsm8k", "k")) == (
        "'hf://datasets/openai/gsm8k' is on the hub, and not read"
    )


def test_values_of_arrow_become_those_of_json(tmp_path: Path) -> None:
    rows = {"when": [date(2026, 1, 2)], "much": [Decimal("1.50")], "nan": [float("nan")], "raw": [b"a\xff"]}
    rows |= {"messages": [[{"role": "user", "content": "q"}]], "n": [3]}
    pq.write_table(pa.table(rows), tmp_path / "a.parquet")
    (record,) = read(tmp_path / "a.parquet")
    assert record == {
        "when": "2026-01-02",
        "much": "1.50",
        "nan": None,
        "raw": "a\\xff",
        "messages": [{"role": "user", "content": "q"}],
        "n": 3,
    }
    assert json.loads(json.dumps(record)) == record


def test_csv_keeps_text_as_text_and_line_breaks_within_quotes(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('\ufeffinstruction,answer\n"one\n\n""two"", three",007\nNA,\n')
    assert read(tmp_path / "a.csv") == [
        {"instruction": 'one\n\n"two", three', "answer": "007"},
        {"instruction": "NA", "answer": None},
    ]


def test_columns_are_renamed_and_a_wrong_name_is_told(tmp_path: Path) -> None:
    path = save(tmp_path, "jsonl", [{"problem": "1 + 1?", "solution": 2}, {"problem": "2?"}])
    columns = {"instruction": "problem", "answer": "solution"}
    assert [(r["instruction"], r["answer"]) for r in read(path, columns=columns)] == [("1 + 1?", 2), ("2?", None)]
    assert told(path, columns={"instruction": "problm"}) == (
        f"instructions.columns.instruction: no record of {str(path)!r} has 'problm'; did you mean 'problem'? "
        "There are: problem, solution"
    )


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.parquet", b"PAR", "instructions.path: "),
        ("a.csv", b"a,b\n1,2,3\n", "line 2: 3 values in place of 2"),
        ("a.csv", b"a,b\n\xff,1\n", "UTF8"),
        ("a.csv", b"a,a\n1,2\n", "two columns have one name in ['a', 'a']"),
        ("a.jsonl", b'{"a": 1}\n{"a": "\xff"}', "not UTF-8 at byte 16"),
        ("a.jsonl", b'\n{"a": 1}\n{"a": 1\n', "line 3: "),
        ("a.json", b' [{"a": 1},\n', "line 2: "),
        ("a.jsonl", b"\n\n", "is empty"),
        ("a.json", b"[]", "is empty"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    message = told(tmp_path / name)
    assert says in message
    assert message.startswith("instructions.path: ")
    assert name in message


def test_a_folder_without_records_and_a_broken_dataset_are_named(tmp_path: Path) -> None:
    assert "has no file in .parquet, .csv, .tsv, .jsonl, .ndjson, .json; there is nothing in it" in told(tmp_path)
    (tmp_path / "notes.txt").write_text("")
    assert "there is notes.txt in it" in told(tmp_path)
    (tmp_path / "dataset_dict.json").write_text("{")
    assert "instructions.path: datasets cannot load" in told(tmp_path)


def test_an_artifact_is_read_when_it_is_complete(tmp_path: Path) -> None:
    schema = pa.schema([("id", pa.string()), ("instruction", pa.string())])
    artifact = Artifact(Folder.at(tmp_path), "made", schema, "f")
    artifact.start()
    kept, rejected = ({"id": stable_id(k), "instruction": f"{k} + 1?"} for k in range(2))
    artifact.write_table(table_of([kept, reject(rejected, "no_use")], schema), "stage")
    assert "is an artifact of a run that is not complete" in told(tmp_path / "made")
    artifact.finish("stage", "rows", 2, 0.0)
    assert read(tmp_path / "made") == [kept]


def test_nothing_there_and_no_place() -> None:
    assert "there is no file 'absent.jsonl'; give a JSON list" in told("absent.jsonl")
    assert "there is no file 'mock://absent/p.jsonl'" in told("mock://absent/p.jsonl")
    assert told("ftp://host/p.jsonl").startswith("instructions.path: 'ftp://host/p.jsonl' is no place")


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("data/p.jsonl", "p.jsonl"),
        ("data/parts/", "parts"),
        ("s3://bucket/p.jsonl?region=x", "p.jsonl"),
        ("hf://datasets/openai/gsm8k", "openai/gsm8k"),
    ],
)
def test_a_source_has_a_short_name(path: str, label: str) -> None:
    assert Source(path, "k").label == label


LINES = "".join(json.dumps(record) + "\n" for record in RECORDS).encode()


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.jsonl.gz", "gzip"), ("a.json.zst", "zstd"), ("a.ndjson.bz2", "bz2"), ("a.jsonl", "gzip"), ("a.JSONL", None),
     ("a.NDJSON", None), ("a.lz4.jsonl", "lz4"), ("records", None)],
)  # fmt: skip
def test_a_file_is_read_by_what_it_is(tmp_path: Path, name: str, codec: str | None) -> None:
    sink = pa.BufferOutputStream()
    if codec:
        with pa.CompressedOutputStream(sink, codec) as packed:
            packed.write(LINES)
    else:
        sink.write(LINES)
    (tmp_path / name).write_bytes(sink.getvalue().to_pybytes())
    assert read(tmp_path / name) == RECORDS


def test_parquet_and_csv_by_another_spelling_of_their_ending(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(RECORDS), tmp_path / "a.PARQUET")
    pq.write_table(pa.Table.from_pylist(RECORDS), tmp_path / "a.data")
    (tmp_path / "a.CSV").write_text(CSV)
    (tmp_path / "a.tsv").write_text(CSV.replace(",", "\t"))
    (tmp_path / "semicolons.csv").write_text(CSV.replace(",", ";"))
    (tmp_path / "blanks.csv").write_text(CSV.replace("problem,solution,note", "problem, solution ,note"))
    for name in ("a.PARQUET", "a.data", "a.CSV", "a.tsv", "semicolons.csv", "blanks.csv"):
        assert read(tmp_path / name) == RECORDS, name


def test_quotes_of_both_dialects_of_csv(tmp_path: Path) -> None:
    (tmp_path / "doubled.csv").write_text('a,b\n"What is ""0""?","x\\y"\n')
    (tmp_path / "escaped.csv").write_text('a,b\n"What is \\"0\\"?",""\n')
    assert read(tmp_path / "doubled.csv") == [{"a": 'What is "0"?', "b": "x\\y"}]
    assert read(tmp_path / "escaped.csv") == [{"a": 'What is "0"?', "b": None}]


def test_a_folder_is_read_with_those_below_and_what_is_left_out_is_said(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "_logs").mkdir()
    (tmp_path / "a.jsonl").write_bytes(LINES)
    (tmp_path / "data" / "b.jsonl.gz").write_bytes(gzip.compress(LINES))
    for other in ("dataset_infos.json", "README.md", ".hidden.jsonl", "_logs/x.jsonl"):
        (tmp_path / other).write_text("{}")
    assert read(tmp_path) == RECORDS * 2
    assert sources.left_out(Source(str(tmp_path), "k")) == ["README.md", "dataset_infos.json"]


def test_the_names_of_files_tell_their_split(tmp_path: Path) -> None:
    for place, name in enumerate(
        ("train-00000-of-00002.jsonl", "data/train-00001-of-00002.jsonl", "test.jsonl", "dev/x.jsonl")
    ):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps({"k": place}) + "\n")
    assert [row["k"] for row in read(tmp_path)] == [1, 0]
    assert [row["k"] for row in read(tmp_path, split="test")] == [2]
    assert [row["k"] for row in read(tmp_path, split="validation")] == [3]
    assert mark(tmp_path) != mark(tmp_path, split="test")
    message = told(tmp_path, split="tset", split_key="eval_split")
    assert message.endswith("has no file of the split 'tset'; it has 'test', 'train', 'validation'")
    assert read(tmp_path / "test.jsonl") == [{"k": 2}]  # a file by its path is read whatever its name
    (tmp_path / "contest.jsonl").write_text('{"k": 9}\n')  # no word of its own
    assert [row["k"] for row in read(tmp_path)] == [9, 1, 0]


def test_folders_of_hive_are_columns(tmp_path: Path) -> None:
    for level in ("easy", "very%20hard"):
        (tmp_path / f"level={level}").mkdir()
        (tmp_path / f"level={level}" / "a.jsonl").write_text('{"k": 1}\n')
    assert read(tmp_path) == [{"level": "easy", "k": 1}, {"level": "very hard", "k": 1}]


def test_system_turns_can_be_left_out(tmp_path: Path) -> None:
    record = {
        "system": "Be brief.",
        "conversations": [{"from": "System", "value": "x"}, {"from": "human", "value": "2?"}],
    }
    (tmp_path / "a.jsonl").write_text(json.dumps(record))
    assert read(tmp_path / "a.jsonl", drop_system=True) == [{"conversations": [{"from": "human", "value": "2?"}]}]


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("l.csv", "q,a\nWas kostet ein Brötchen?,2\n".encode("latin-1"), r"is not UTF-8 .*; save it as UTF-8"),
        ("c.csv", b"q,a\nWhat is 1+1?,2\nWhat is 2, plus 3?,5\n",
         r"line 3: 3 values in place of 2: What is 2, plus 3\?,5; a value that holds ',' needs quotes around it"),
        ("w.xlsx", b"PK\x03\x04zzz", r"is a workbook, or another archive, and no text; export the sheet as CSV"),
        ("w.jsonl", b"PK\x03\x04zzz", r"is a workbook, or another archive"),
    ],
)  # fmt: skip
def test_files_of_spreadsheets_are_refused_with_the_remedy(tmp_path: Path, name: str, data: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=said):
        list(sources.records(Source(str(tmp_path / name), "instructions.path")))
