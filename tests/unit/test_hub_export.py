"""A run as a data set of Hugging Face's hub: rows, files and card, read back by Hugging Face's own libraries."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from datasets import Features, load_dataset
from datasets.info import DatasetInfosDict
from datasets.utils.info_utils import NonMatchingSplitsSizesError
from huggingface_hub import DatasetCard

from ray_distil.commands import export as command
from ray_distil.errors import UserError
from ray_distil.publication import data_files, dataset_card, hub_folder, problem_columns
from ray_distil.publication.data_files import LAYOUTS, schema_of, write
from ray_distil.publication.dataset_card import COLUMNS, size_category
from ray_distil.publication.problem_columns import INSTRUCTION_COLUMNS, ProblemColumns
from ray_distil.report import cards
from ray_distil.store.artifact import Artifact
from ray_distil.store.schemas import ARTIFACTS, stable_id
from ray_distil.store.shards import REASON, reject, table_of
from ray_distil.store.storage import Folder

HOSTILE = "a|b`c\n# d <script>[e](f) 's: \"---"
SECRET = "s3://KEY:SECRET@bucket/problems.jsonl"
CONFIG: dict[str, Any] = {
    "run": {"name": "small"},
    "instructions": {"path": "hf://datasets/org/problems@abc", "suffix": "\nThink.", "decontamination": {"coverage": 0.4}},
    "teachers": {
        "direct": {"engine": {"model_source": "/disk/models/v3"}, "num_samples": 2, "sampling_params": {"top_p": 0.9}},
        "slow": {"engine": {"model_source": "org/r1"}, "num_samples": 1, "fraction": 0.5, "license": "mit"},
    },
    "gates": {"correct": True, "shorter": False, "custom": ["my_gates:polite"]},
    "curation": {"choose": "shortest", "keep": 2},
    "evaluation": {"benchmarks": [{"name": "held-out"}, {"name": "math500", "path": "hf://datasets/H/MATH-500@6e4ed1a"}]},
}  # fmt: skip
# Of the problems: source, reference, and the verdicts of their responses.
PROBLEMS: list[tuple[str, str | None, list[str | None]]] = [
    ("org/problems@abc", "1", ["accepted", "accepted", "wrong_answer", "incomplete"]),
    ("own", "2", ["accepted", None]),
    ("own", None, ["accepted", "accepted"]),
    ("own", "4", [None]),
    ("own", "5", []),
]


def problem(number: int) -> str:
    return stable_id("problem", number)


def make(run: Folder, name: str, rows: list[dict[str, Any]], summary: dict[str, Any] | None = None) -> None:
    """An artifact of these rows, two a shard, and of one that is rejected."""
    schema = ARTIFACTS[name].schema
    assert schema is not None
    blank = {f.name: 1 if pa.types.is_integer(f.type) else 1.0 if f.type == pa.float64() else "x" for f in schema}
    artifact = Artifact(run, name, schema, "f")
    artifact.start()
    rows = [*rows, reject({schema.names[0]: stable_id("out", name)}, "no_answer")]
    for start in range(0, len(rows), 2):
        table = table_of([blank | row if REASON not in row else row for row in rows[start : start + 2]], schema)
        artifact.write_table(table, name)
    artifact.finish(name, "rows", len(rows), 0.0, lambda: summary or {}, 1)


def make_run(run: Folder, label: str = "own", config: dict[str, Any] = CONFIG, text: str = "It is 1.") -> Folder:
    """Five problems, an example of each of them and of one that is nowhere else, and all responses."""
    run.write_text("config.yaml", yaml.safe_dump(config))
    run.write_text("models.json", json.dumps({"org/r1": "c" * 40}))
    problems = [
        {"instruction_id": problem(k), "instruction": f"{k}?", "reference_answer": reference, "split": "train",
         "source": label if source == "own" else source}
        for k, (source, reference, _) in enumerate(PROBLEMS)
    ]  # fmt: skip
    held_out = {"instruction_id": stable_id("held-out"), "split": "eval", "source": "other"}
    found = {"test_sets": {"held-out": 1, "math500": 500}, "contaminated": {"math500": 3}}
    make(run, "instructions", [*problems, held_out], found)
    responses = [
        {"response_id": stable_id("response", k, n), "instruction_id": problem(k), "instruction": f"{k}?",
         "teacher": "direct", "verdict": verdict, "model": "/disk/models/v3", "response": text}
        for k, (_, _, verdicts) in enumerate(PROBLEMS) for n, verdict in enumerate(verdicts)
    ]  # fmt: skip
    make(run, "responses", responses, {"verdicts": {"direct": {"accepted": 3, "wrong_answer": 1}}})
    examples = [
        {"example_id": stable_id("example", k), "instruction_id": problem(k), "prompt": f"{k}?\nThink.",
         "completion": text, "origin": "direct" if k % 2 else "rewrite", "num_tokens": None if k == 3 else 10 * k}
        for k in range(len(PROBLEMS) + 1)
    ]  # fmt: skip
    make(run, "sft_examples", examples)
    return run


@pytest.fixture(params=["disk", "store"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    return make_run(Folder.at(tmp_path / "small" if request.param == "disk" else f"mock://{tmp_path.name}/small"))


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_load_dataset_reads_each_configuration_as_the_card_declares_it(run: Folder, tmp_path: Path) -> None:
    rows = hub_folder.export(run, tmp_path / "out", ["responses"], "cc-by-4.0")
    assert rows == {"sft_examples": 6, "responses": 9}
    infos = DatasetInfosDict.from_directory(str(tmp_path / "out"))
    for name, number in rows.items():
        data = load_dataset(str(tmp_path / "out"), name, split="train", cache_dir=str(tmp_path / "cache"))
        assert data.num_rows == number
        assert data.features == infos[name].features == Features.from_arrow_schema(schema_of(name))
        files = list((tmp_path / "out" / name).iterdir())
        assert infos[name].download_size == sum(file.stat().st_size for file in files)
        assert infos[name].splits is not None
        assert infos[name].splits["train"].num_bytes == infos[name].dataset_size
    default = load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert default.column_names == list(LAYOUTS["sft_examples"].columns)


def test_a_number_of_rows_that_is_wrong_is_found_by_load_dataset(run: Folder, tmp_path: Path) -> None:
    """So the test before this one can fail."""
    hub_folder.export(run, tmp_path / "out")
    card = tmp_path / "out" / "README.md"
    card.write_text(card.read_text().replace("num_examples: 6", "num_examples: 7"))
    with pytest.raises(NonMatchingSplitsSizesError):
        load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))


def test_rows_have_their_messages_and_what_is_known_of_their_problem(run: Folder, tmp_path: Path) -> None:
    hub_folder.export(run, tmp_path / "out")
    rows = {row["instruction_id"]: row for row in pq.read_table(tmp_path / "out" / "sft_examples").to_pylist()}
    facts = [
        tuple(rows[problem(k)][name] for name in ("source", "reference_answer", "pass_rate", "num_tokens"))
        for k in range(6)
    ]
    assert facts == [
        ("org/problems@abc", "1", 0.5, 0),
        ("own", "2", 1.0, 10),
        ("own", None, None, 20),  # nothing to compare with
        ("own", "4", None, None),  # nobody judged
        ("own", "5", None, 40),
        (None, None, None, 50),  # a problem that the run does not have
    ]
    first = rows[problem(0)]
    assert first["messages"] == [
        {"role": "user", "content": "0?\nThink."},
        {"role": "assistant", "content": "It is 1."},
    ]
    assert (first["origin"], first["example_id"]) == ("rewrite", stable_id("example", 0))


def test_an_imported_run_has_its_texts_alone(tmp_path: Path) -> None:
    run = Folder.at(tmp_path / "small")
    run.write_text("config.yaml", "{}")
    make(run, "sft_examples", [{"example_id": stable_id(1), "instruction_id": stable_id(1), "origin": "imported"}])
    hub_folder.export(run, tmp_path / "out")
    (row,) = pq.read_table(tmp_path / "out" / "sft_examples").to_pylist()
    assert (row["origin"], row["source"], row["reference_answer"], row["pass_rate"]) == ("imported", None, None, None)
    assert load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache")).num_rows == 1


def test_a_model_has_its_name_and_no_folder_of_a_machine(run: Folder, tmp_path: Path) -> None:
    hub_folder.export(run, tmp_path / "out", ["responses"])
    assert set(pq.read_table(tmp_path / "out" / "responses")["model"].to_pylist()) == {"v3"}
    assert all(b"/disk" not in path.read_bytes() for path in (tmp_path / "out").rglob("*.*"))


def test_the_card_survives_a_round_trip(run: Folder, tmp_path: Path) -> None:
    """`DatasetCard.validate` asks the hub; what can be known without it: its classes, its sizes, and the same text again."""
    hub_folder.export(run, tmp_path / "out", ["responses"], "cc-by-4.0")
    card = DatasetCard.load(tmp_path / "out" / "README.md", ignore_metadata_errors=False)
    card.save(tmp_path / "again.md")
    again = DatasetCard.load(tmp_path / "again.md")
    assert again.data.to_dict() == card.data.to_dict()
    assert again.text == card.text
    values = card.data.to_dict()
    assert {k: v for k, v in values.items() if k not in ("dataset_info", "configs")} == {
        "license": "cc-by-4.0",
        "pretty_name": "small",
        "size_categories": ["n<1K"],
        "source_datasets": ["org/problems"],
        "tags": ["synthetic", "distillation", "reasoning"],
        "task_categories": ["text-generation"],
    }
    assert [c["config_name"] for c in values["configs"] if c.get("default")] == ["sft_examples"]
    hub_folder.export(run, tmp_path / "out")
    assert DatasetCard.load(tmp_path / "out" / "README.md").data.license is None


def test_the_card_says_how_the_data_were_made(run: Folder, tmp_path: Path) -> None:
    hub_folder.export(run, tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    for line in (
        "| sft_examples | 7 | 6 | 1 | rows |",
        "| sft_examples | no_answer | 1 | the text states no answer |",
        "| direct teacher | v3 |  | 2 |  | top_p 0.9 |",
        f"| slow teacher | org/r1 | {'c' * 40} | 1 | 50% |  |",
        "- direct is right on 75.0% of 4 responses; wrong\\_answer 1".replace("\\", ""),
        "| up to a half | 1 | 50.0% |",
        "| all | 1 | 50.0% |",
        "| math500 | H/MATH-500@6e4ed1a | 500 | 3 |",
        "| held-out | held out of the problems | 1 | 0 |",
        "- Gates: correct, my_gates:polite.",
        "- Choice: choose shortest, keep 2.",
        "direct: 2 examples with counted tokens, 30 on average.",
        "rewrite: 3 examples with counted tokens, 20 on average.",
        "| 32–63 | 1 | ██████████████████████████████ |",
        "Of this data set: to be added.",
        "| problems of org/problems@abc | org/problems@abc | 1 | to be added |",
        "| texts of the direct teacher | v3 |  | to be added |",
        "| texts of the slow teacher | org/r1 |  | mit |",
        "sft_examples = load_dataset('out', split='train')",
    ):
        assert line in text, line
    assert text.count("Made by ray_distil ") == 1
    ids = sorted(stable_id("example", k) for k in range(6))[:3]
    assert re.findall(r"^`([0-9a-f]{16})`", text, re.MULTILINE) == ids


def test_several_sources_have_their_own_licences(tmp_path: Path) -> None:
    sources = [{"path": "hf://datasets/org/problems@abc", "label": None, "license": "mit"},
               {"path": "/home/me/mine.jsonl", "label": "own"}, {"path": "hf://datasets/org/more", "license": "odc-by"}]  # fmt: skip
    run = make_run(
        Folder.at(tmp_path / "small"), config=CONFIG | {"instructions": {"path": "tiny", "sources": sources}}
    )
    hub_folder.export(run, tmp_path / "out")
    card = DatasetCard.load(tmp_path / "out" / "README.md")
    assert card.data.source_datasets == ["org/problems", "org/more"]
    for line in (
        "| problems of org/problems@abc | org/problems@abc | 1 | mit |",
        "| problems of own | mine.jsonl | 4 | to be added |",
        "| problems of org/more | org/more |  | odc-by |",
    ):
        assert line in card.text, line
    assert "/home" not in card.text


def test_a_licence_that_is_given_after_the_run_is_of_the_same_teacher(tmp_path: Path) -> None:
    run = make_run(Folder.at(tmp_path / "small"))
    manifest = json.loads(run.read_text("responses/_manifest.json"))
    run.write_text(
        "responses/_manifest.json", json.dumps(manifest | {"made_of": {"config": CONFIG, "settings": {}, "inputs": []}})
    )
    newest = json.loads(json.dumps(CONFIG))
    newest["teachers"]["direct"]["license"] = "deepseek"
    newest["teachers"]["slow"] = {"engine": {"model_source": "org/other"}, "license": "gemma"}
    newest["instructions"]["license"] = "odc-by"
    run.write_text("config.yaml", yaml.safe_dump(newest))
    hub_folder.export(run, tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    for line in (
        "| problems of org/problems@abc | org/problems@abc | 1 | odc-by |",
        "| texts of the direct teacher | v3 |  | deepseek |",
        "| texts of the slow teacher | org/r1 |  | mit |",
    ):
        assert line in text, line
    assert "gemma" not in text


def test_values_of_a_user_break_neither_the_head_nor_a_table(tmp_path: Path) -> None:
    config = json.loads(json.dumps(CONFIG))
    config["teachers"]["slow"] |= {"license": HOSTILE, "sampling_params": {"stop": HOSTILE}}
    config["instructions"] |= {"path": SECRET, "license": HOSTILE, "suffix": f"\n```\n{HOSTILE}"}
    run = make_run(Folder.at(tmp_path / "small"), label=HOSTILE, config=config, text=f"````\n---\n{HOSTILE}")
    hub_folder.export(run, tmp_path / "out", licence="mit")
    card = DatasetCard.load(tmp_path / "out" / "README.md")
    assert card.data.license == "mit"
    blocks = re.compile(r"^(`{3,})\w+\n.*?\n\1$", re.MULTILINE | re.DOTALL)
    outside = blocks.sub("", card.text)
    assert "<script" not in outside
    assert "Think" not in outside
    assert len(blocks.findall(card.text)) == 2 + 3, "how to load it, the suffix, and the examples"
    for rows in re.findall(r"(?:^\|.*\n)+", outside, re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", row)) for row in rows.splitlines()}
        assert len(widths) == 1, rows


def test_no_key_of_a_uri_is_published(tmp_path: Path) -> None:
    config = json.loads(json.dumps(CONFIG))
    config["instructions"] |= {"path": SECRET, "license": f"see {SECRET}"}
    config["teachers"]["slow"]["engine"]["model_source"] = "s3://KEY:SECRET@bucket/r1"
    run = make_run(Folder.at(tmp_path / "small"), label=SECRET, config=config)
    hub_folder.export(run, tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    assert "SECRET" not in text
    assert "| problems of problems.jsonl | problems.jsonl |" in text
    assert "SECRET" not in str(pq.read_table(tmp_path / "out" / "sft_examples").to_pylist())


def test_the_same_run_gives_the_same_bytes(run: Folder, tmp_path: Path) -> None:
    hub_folder.export(run, tmp_path / "a" / "out", ["responses"])
    hub_folder.export(run, tmp_path / "b" / "out", ["responses"])
    assert digests(tmp_path / "a" / "out") == digests(tmp_path / "b" / "out")


def test_many_rows_are_several_files_with_the_rows_of_one(
    run: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_files, "ROWS_A_GROUP", 1)
    problems, artifact = problem_columns.read(run), data_files.exportable(run, "sft_examples")
    whole = write(artifact, problems, tmp_path / "one")
    parts = write(artifact, problems, tmp_path / "several", shard_bytes=1)
    names = [f"train-{k:05d}-of-00006.parquet" for k in range(6)]
    assert sorted(path.name for path in (tmp_path / "several").iterdir()) == names
    assert pq.read_table(tmp_path / "several").equals(pq.read_table(tmp_path / "one"))
    assert (whole.num_examples, whole.num_bytes) == (parts.num_examples, parts.num_bytes)


def test_an_earlier_export_is_replaced_and_nothing_else(run: Folder, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    hub_folder.export(run, out, ["responses"])
    (out / ".cache" / "huggingface").mkdir(parents=True)
    (out / ".cache" / "huggingface" / "state").write_text("")
    hub_folder.export(run, out)
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "sft_examples"]

    (out / "LICENSE").write_text("mine")
    before = digests(out)
    with pytest.raises(UserError, match="holds 'LICENSE', which no export has written; give another folder"):
        hub_folder.export(run, out)
    assert digests(out) == before
    other = tmp_path / "other"
    other.mkdir()
    (other / "README.md").write_text("# Mine")
    with pytest.raises(UserError, match="holds 'README.md', which no export has written"):
        hub_folder.export(run, other)
    with pytest.raises(UserError, match="is a file; give a folder"):
        hub_folder.export(run, out / "LICENSE")


def test_a_folder_appears_whole_or_not_at_all(run: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "place"
    hub_folder.export(run, place / "out")
    before = digests(place)

    def breaks(contents: Any) -> str:
        raise RuntimeError("not now")

    monkeypatch.setattr(dataset_card, "card", breaks)
    for name in ("out", "new"):
        with pytest.raises(RuntimeError, match="not now"):
            hub_folder.export(run, place / name)
    assert digests(place) == before
    assert [path.name for path in place.iterdir()] == ["out"]


def test_a_place_that_cannot_be_written_is_told(run: Folder, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write .*; give another folder"):
        hub_folder.export(run, tmp_path / "file" / "out")


def test_what_is_not_complete_is_refused(run: Folder, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'rewrites' of .* complete are sft_examples, responses"):
        hub_folder.export(run, tmp_path / "out", ["rewrites"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["out.json", "--hub", "out"], "'out.json' and --hub"),
        ([], "there is no place for the export"),
        (["out.json", "--license", "mit"], "--license: is for a data set"),
        (["out.json", "--artifact", "responses", "--artifact", "rewrites"], "--artifact: a file takes one"),
        (["--hub", "s3://bucket/out"], "--hub: 's3://bucket/out' is no folder on a disk"),
        (["--hub", "out", "--license", "CC BY 4.0"], "--license: 'CC BY 4.0' is none of the hub's names"),
    ],
)
def test_arguments_that_do_not_fit_are_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(Folder.at(tmp_path / "small"))
    assert command.main(["small", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


def test_the_command_says_what_it_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(Folder.at(tmp_path / "small"))
    assert command.main(["small", "--hub", "out", "--artifact", "responses"]) == 0
    assert capsys.readouterr().out == "6 rows of sft_examples in out\n9 rows of responses in out\n"


def test_each_published_column_is_explained() -> None:
    assert set(COLUMNS) == {name for layout in LAYOUTS.values() for name in layout.columns}


@pytest.mark.parametrize(
    ("number", "category"),
    [
        (1, "n<1K"),
        (999, "n<1K"),
        (1000, "1K<n<10K"),
        (10**4, "10K<n<100K"),
        (10**7, "10M<n<100M"),
        (10**12, "1B<n<10B"),
    ],
)
def test_sizes_have_the_names_of_the_hub(number: int, category: str) -> None:
    assert size_category(number) == category


def test_problems_take_28_bytes_and_their_references() -> None:
    number = 10_000
    ids = [stable_id(k) for k in range(number)]
    columns = [ids, ["1234"] * number, ["own"] * number, ["train"] * number]
    problems = ProblemColumns([pa.table(dict(zip(INSTRUCTION_COLUMNS, columns, strict=True)))])
    arrays = (problems.keys, problems.sources, problems.judged, problems.right)
    size = sum(array.nbytes for array in arrays) + problems.references.nbytes
    assert size <= (28 + len("1234")) * number + number / 8 + 8  # a bit says whether there is a reference


def test_nothing_is_said_of_the_sampling_of_imported_responses() -> None:
    section = {"responses": "r1.jsonl", "sampling_params": {"temperature": 0.0, "top_p": 1.0, "max_tokens": 120}}
    assert cards.sampling_of(section) == "not known: imported"
    assert cards.sampling_of(section | {"responses": None}) == "temperature 0.0, top_p 1.0, max_tokens 120"
