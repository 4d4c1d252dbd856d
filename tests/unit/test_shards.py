"""Artifacts: counts that add up, resume by id, and no mixture of two configurations."""

import itertools
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_distil.errors import StageError, UserError
from ray_distil.runtime import metrics
from ray_distil.store import artifact as shards
from ray_distil.store import artifact_reader, merging
from ray_distil.store import shards as blocks
from ray_distil.store.artifact import DROPPED, Artifact
from ray_distil.store.manifest import fingerprint, read_manifest, why_none
from ray_distil.store.merging import small_groups
from ray_distil.store.schemas import INSTRUCTIONS, SFT_EXAMPLES, stable_id
from ray_distil.store.shards import reject, table_of
from ray_distil.store.storage import Folder


def row(name: str) -> dict[str, Any]:
    return {
        "instruction_id": stable_id(name),
        "instruction": f"do {name}",
        "source": "s",
        "split": "train",
        "reference_answer": None,
    }


def artifact(run: Path, mark: str = "f1") -> Artifact:
    return Artifact(Folder.at(run), "instructions", INSTRUCTIONS, mark)


def write(target: Artifact, *rows: dict[str, Any]) -> None:
    target.write_table(table_of(list(rows), INSTRUCTIONS), "instructions")


def test_rows_and_rejects_add_up(tmp_path: Path) -> None:
    target = artifact(tmp_path)
    target.start()
    write(target, row("a"), reject(row("b"), "empty", "no text"))
    write(target, row("c"))
    assert not target.is_complete()
    manifest = target.finish("instructions", "rows", 3, 1.0)
    assert (manifest.rows_in, manifest.rows_out, manifest.rows_rejected) == (3, 2, 1)
    assert manifest.rejects == {"empty": 1}
    assert target.is_complete()
    rejects = pq.read_table(tmp_path / "instructions" / "_rejects").to_pylist()
    assert [(r["id"], r["stage"], r["reason"], r["detail"]) for r in rejects] == [
        (stable_id("b"), "instructions", "empty", "no text")
    ]
    assert json.loads(rejects[0]["row"])["instruction"] == "do b"


def test_what_is_kept_out_is_counted_in_tokens_once_the_rows_are_there_once(tmp_path: Path) -> None:
    """As where a stopped run's late task wrote a row that was being made again."""
    target = Artifact(Folder.at(tmp_path), "sft_examples", SFT_EXAMPLES, "f1")
    target.start()
    examples = [
        dict.fromkeys(SFT_EXAMPLES.names, "x") | {"example_id": stable_id(name), "num_tokens": 30} for name in "abcd"
    ]
    examples[3]["num_tokens"] = None
    kept = [reject(row, "wrong_answer") for row in examples[1:3]] + [reject(examples[3], "no_answer")]
    for rows in ([examples[0], *kept], kept[:1]):
        target.write_table(table_of(rows, SFT_EXAMPLES), "sft_examples")
    seen: list[int] = []

    def summarise() -> dict[str, int]:
        seen.append(len(target.rejected()))
        return {"n": 1}

    manifest = target.finish("sft_examples", "candidates", 4, 1.0, summarise, tokens="num_tokens")
    assert (manifest.rejects, manifest.rejected_tokens) == ({"no_answer": 1, "wrong_answer": 2}, {"wrong_answer": 60})
    assert manifest.summary["n"] == 1
    assert seen == [3]


def test_the_driver_counts_what_lies_in_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the worker that wrote them: its node may go before Prometheus has asked it once."""
    seen: list[Any] = []
    monkeypatch.setattr(metrics, "count", lambda name, number, **tags: seen.append((name, number, tags)))
    target = artifact(tmp_path)
    target.start()
    table = table_of([row("a"), reject(row("b"), "empty"), reject(row("c"), "source_lost")], INSTRUCTIONS)
    counts = blocks.write_block(table, target.folder, INSTRUCTIONS, "instructions", target.attempt).to_pylist()
    assert seen == []
    blocks.count(counts[0], "r", "instructions")
    tags = {"run": "r", "stage": "instructions"}
    assert seen[:3] == [
        ("distil_rows_written", 1, tags),
        ("distil_rows_rejected", 1, {**tags, "reason": "empty"}),
        ("distil_rows_rejected", 1, {**tags, "reason": "source_lost"}),
    ]
    assert [(name, number) for name, number, _ in seen[3:]] == [
        ("distil_prompt_tokens", 0),
        ("distil_generated_tokens", 0),
    ]
    assert set(name for name, *_ in seen) <= set(metrics.COUNTERS)


def test_folder_reads_as_one_table(tmp_path: Path) -> None:
    target = artifact(tmp_path)
    target.start()
    write(target, row("a"), reject(row("b"), "empty"))
    write(target, row("c"))
    target.finish("instructions", "rows", 3, 1.0)
    assert sorted(pd.read_parquet(tmp_path / "instructions").instruction) == ["do a", "do c"]
    assert pq.read_schema(next((tmp_path / "instructions").glob("part-*"))).equals(INSTRUCTIONS)


def test_lost_rows_and_rows_twice_in_one_shard_are_no_whole_artifact(tmp_path: Path) -> None:
    target = artifact(tmp_path)
    target.start()
    write(target, row("a"))
    with pytest.raises(StageError, match="2 rows went in, 1 came out"):
        target.finish("instructions", "rows", 2, 1.0)
    write(target, row("b"), row("b"))
    with pytest.raises(StageError, match="1 of them more than once"):
        target.finish("instructions", "rows", 2, 1.0)
    assert not target.is_complete()


def test_a_row_that_two_shards_have_stays_in_one(tmp_path: Path) -> None:
    """As a task of a stopped run leaves it that was writing while the next run began."""
    target = artifact(tmp_path)
    target.start()
    write(target, row("a"), row("b"), row("c"))
    write(target, row("c"), row("d"), reject(row("e"), "empty"))
    write(target, row("d"))
    write(target, row("f"), reject(row("a"), "engine_error"))
    manifest = target.finish("instructions", "rows", 6, 1.0)
    assert (manifest.rows_out, manifest.rows_rejected, manifest.rejects) == (5, 1, {"empty": 1})
    assert manifest.summary == {DROPPED: 3}
    assert sorted(target.read_table()["instruction"].to_pylist()) == ["do a", "do b", "do c", "do d", "do f"]
    assert target.is_complete()


def test_resume_knows_accepted_and_rejected_ids(tmp_path: Path) -> None:
    target = artifact(tmp_path)
    target.start()
    write(target, row("a"), reject(row("b"), "empty"))
    (tmp_path / "instructions" / "part-half.1.tmp").write_bytes(b"half a shard")
    again = artifact(tmp_path)
    done = again.done_ids()
    assert [stable_id(name) in done for name in "abc"] == [True, True, False]
    assert len(done) == 2
    again.start()
    assert not list((tmp_path / "instructions").glob("*.tmp"))
    write(again, row("c"))
    assert again.finish("instructions", "rows", 3, 1.0).rows_out == 2


def test_rows_with_transient_errors_are_made_again(tmp_path: Path) -> None:
    target = artifact(tmp_path)
    target.start()
    write(target, row("a"), reject(row("b"), "timeout"), reject(row("c"), "empty"))
    write(target, reject(row("d"), "timeout"))
    assert target.finish("instructions", "rows", 4, 1.0).rows_out == 1
    before = target.content()
    target.start()
    assert target.forget_rejects(lambda reason: reason == "timeout") == {"timeout": 2}
    done = target.done_ids()
    assert [name for name in "abcd" if stable_id(name) in done] == ["a", "c"]
    write(target, row("b"), reject(row("d"), "timeout"))
    manifest = target.finish("instructions", "rows", 4, 1.0)
    assert (manifest.rows_out, manifest.rejects) == (2, {"empty": 1, "timeout": 1})
    assert target.content() != before  # what is made of it is made anew


def test_a_stage_that_does_not_resume_starts_with_no_shard(tmp_path: Path) -> None:
    target = artifact(tmp_path)
    target.start()
    write(target, row("a"), reject(row("b"), "empty"))
    target.start(resume=False)
    assert target.done_ids().keys.tolist() == []
    write(target, row("b"))
    write(target, row("a"))
    assert target.finish("instructions", "rows", 2, 1.0).rows_out == 2


def test_a_retried_write_replaces_its_own_shard(tmp_path: Path) -> None:
    target = artifact(tmp_path)
    target.start()
    write(target, row("a"), row("b"))
    write(target, row("b"), row("a"))
    assert target.finish("instructions", "rows", 2, 1.0).rows_out == 2


def test_a_late_writer_of_a_stopped_attempt_writes_nothing(tmp_path: Path) -> None:
    stopped, again = artifact(tmp_path), artifact(tmp_path)
    stopped.start()
    write(stopped, row("a"))
    again.start()
    with pytest.raises(StageError, match="another attempt has begun"):
        write(stopped, row("b"), reject(row("c"), "empty"))
    write(again, row("b"), row("c"))
    assert again.finish("instructions", "rows", 3, 1.0).rows_out == 3
    assert not list((tmp_path / "instructions").rglob("*.tmp"))


def test_other_configuration_moves_old_shards_away(tmp_path: Path) -> None:
    first = artifact(tmp_path, "f1")
    first.start()
    write(first, row("a"))
    first.finish("instructions", "rows", 1, 1.0)
    second = artifact(tmp_path, "f2")
    assert not second.is_complete()
    assert second.done_ids().keys.tolist() == []
    second.start()
    write(second, row("b"))
    second.finish("instructions", "rows", 1, 1.0)
    assert second.read_table().column("instruction").to_pylist() == ["do b"]
    (old,) = (tmp_path / "superseded").iterdir()
    assert pd.read_parquet(old).instruction.tolist() == ["do a"]


def test_a_missing_shard_makes_the_artifact_incomplete(tmp_path: Path) -> None:
    target = artifact(tmp_path)
    target.start()
    write(target, row("a"))
    target.finish("instructions", "rows", 1, 1.0)
    next((tmp_path / "instructions").glob("part-*")).unlink()
    assert not target.is_complete()


def test_fingerprint_depends_on_everything_and_refuses_what_is_not_stable() -> None:
    base = fingerprint("s", 1, {"a": 1, "b": [2]}, ["x"])
    assert base == fingerprint("s", 1, {"b": [2], "a": 1}, ["x"])
    others = [
        fingerprint("t", 1, {"a": 1, "b": [2]}, ["x"]),
        fingerprint("s", 2, {"a": 1, "b": [2]}, ["x"]),
        fingerprint("s", 1, {"a": 1, "b": [3]}, ["x"]),
        fingerprint("s", 1, {"a": 1, "b": [2]}, ["y"]),
    ]
    assert len({base, *others}) == 5
    with pytest.raises(TypeError):
        fingerprint("s", 1, {"a": {1, 2}}, [])
    with pytest.raises(ValueError, match="JSON"):
        fingerprint("s", 1, {"a": float("nan")}, [])


def test_small_shards_become_shards_of_a_set_size(tmp_path: Path) -> None:
    target = artifact(tmp_path)
    target.start()
    for name in "abcdefgh":
        write(target, row(name), reject(row(name.upper()), "empty"))
    sizes = target.folder.sizes("part-")
    most = 3 * max(sizes.values())
    before = target.read_table()
    manifest = target.finish("instructions", "rows", 16, 1.0, max_shard_bytes=most)
    assert (manifest.rows_out, manifest.rejects) == (8, {"empty": 8})
    assert target.is_complete()
    assert len(target.folder.files("part-")) == 3
    assert len((target.folder / "_rejects").files("part-")) in (3, 4)  # these are larger
    assert target.read_table().equals(before)
    assert max(target.folder.sizes("part-").values()) < most


def test_shards_of_an_earlier_version_may_lack_a_column(tmp_path: Path) -> None:
    """A stopped run goes on with a version whose rows have one column more."""
    narrow = pa.schema([field for field in INSTRUCTIONS if field.name != "reference_answer"])
    older, newer = Artifact(Folder.at(tmp_path), "instructions", narrow, "f1"), artifact(tmp_path)
    older.start()
    for names in ("ab", "c"):
        older.write_table(table_of([*map(row, names), reject(row(names.upper()), "empty")], narrow), "instructions")
    newer.start()
    for names in ("d", "ef"):
        write(newer, *(row(name) | {"reference_answer": "5"} for name in names))

    answers = [*["5"] * 3, *[None] * 3]
    assert sorted(newer.read_table()["reference_answer"].to_pylist(), key=str) == answers
    assert sum(table.num_rows for table in newer.tables(["instruction_id", "reference_answer"])) == 6
    assert (newer.count("reference_answer"), newer.count("reference_answer", "5")) == (6, 3)
    batches = [blocks.read_shard({"item": [file]}, newer.folder, INSTRUCTIONS) for file in newer.shards()]
    assert {batch.schema.remove_metadata() for batch in batches} == {INSTRUCTIONS}

    manifest = newer.finish("instructions", "rows", 8, 1.0, max_shard_bytes=2**23)
    assert (manifest.rows_out, manifest.rows_rejected, len(newer.folder.files("part-"))) == (6, 2, 1)
    assert sorted(newer.read_table()["reference_answer"].to_pylist(), key=str) == answers
    assert artifact_reader.frame(Folder.at(tmp_path), "instructions", None, False).shape == (6, len(INSTRUCTIONS))


def test_a_merge_of_more_than_is_put_in_order_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    once, parts = artifact(tmp_path / "once"), artifact(tmp_path / "parts")
    for target, most in ((once, 2**23), (parts, 1)):
        monkeypatch.setattr(merging, "MERGED_BYTES", most)
        monkeypatch.setattr(blocks, "ROWS_AT_ONCE", 2)
        target.start()
        for names in ("ab", "c", "def"):
            write(target, *map(row, names))
        target.finish("instructions", "rows", 6, 1.0, max_shard_bytes=2**20)
    files = parts.folder.files("part-")
    assert files == once.folder.files("part-") == [f"part-{stable_id(*sorted(map(stable_id, 'abcdef')))}.parquet"]
    assert parts.read_table().equals(once.read_table())
    groups = pq.ParquetFile(tmp_path / "parts" / "instructions" / files[0]).metadata
    assert tuple(groups.row_group(k).num_rows for k in range(groups.num_row_groups)) in itertools.permutations(
        (2, 1, 3)
    )
    ids = once.folder.read_table(files[0])["instruction_id"].to_pylist()
    assert ids == sorted(ids)


def test_a_merge_that_was_stopped_leaves_no_row_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = artifact(tmp_path)
    target.start()
    for name in "abc":
        write(target, row(name))
    with monkeypatch.context() as stopped:
        stopped.setattr(Folder, "remove", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            target.finish("instructions", "rows", 3, 1.0, max_shard_bytes=2**20)
    assert target.manifest() is None
    target.start()
    assert len(target.done_ids()) == 3
    manifest = target.finish("instructions", "rows", 3, 1.0, max_shard_bytes=2**20)
    assert (manifest.rows_out, len(manifest.files)) == (3, 1)


def test_a_merge_can_be_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Ray does with a task whose worker is lost, wherever it was."""
    once, twice = artifact(tmp_path / "once"), artifact(tmp_path / "twice")
    for target in (once, twice):
        target.start()
        for name in "abcd":
            write(target, row(name), reject(row(name.upper()), "empty"))
    manifest = once.finish("instructions", "rows", 8, 1.0, max_shard_bytes=2**20)
    for function in ("merge_shards", "remove_shards"):
        real = getattr(merging, function)
        monkeypatch.setattr(merging, function, lambda *given, real=real: (real(*given), real(*given)))
    assert twice.finish("instructions", "rows", 8, 1.0, max_shard_bytes=2**20).files == manifest.files
    assert len(manifest.files) == 2
    assert twice.read_table().equals(once.read_table())


@pytest.mark.parametrize(
    ("sizes", "groups"),
    [
        ({}, []),
        ({"a": 5}, []),
        ({"b": 5, "a": 5, "c": 1}, [["a", "b"]]),
        ({"a": 50, "b": 2, "c": 3, "d": 40}, [["b", "c"]]),
        ({"a": 4, "b": 4, "c": 4, "d": 4}, [["a", "b"], ["c", "d"]]),
    ],
)
def test_groups_of_small_files(sizes: dict[str, int], groups: list[list[str]]) -> None:
    assert [list(group) for group in small_groups(sizes, 10)] == groups


def test_a_large_table_becomes_shards_that_are_counted_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "ROWS_PER_SHARD", 3)
    target = artifact(tmp_path)
    target.start()
    write(target, *(row(str(k)) | {"split": "train" if k % 4 else "eval"} for k in range(10)))
    assert target.finish("instructions", "rows", 10, 1.0).rows_out == 10
    assert sorted(table.num_rows for table in target.tables(["split"])) == [1, 3, 3, 3]
    assert target.count("split") == 10
    assert target.count("split", "eval") == 3


def test_a_shard_that_comes_late_is_not_read(tmp_path: Path) -> None:
    """As a task of a stopped run writes it, whose upload ends behind the manifest."""
    target = artifact(tmp_path)
    target.start()
    write(target, row("a"), reject(row("b"), "empty"))
    target.finish("instructions", "rows", 2, 1.0)
    late = artifact(tmp_path)
    late.attempt = target.attempt
    write(late, row("c"), reject(row("d"), "empty"))
    assert target.read_table()["instruction"].to_pylist() == ["do a"]
    assert target.count("instruction_id") == 1
    assert [r["instruction"] for r in target.rejected()] == ["do b"]
    assert [table.num_rows for table in target.tables(["instruction_id"])] == [1]


def test_a_checkpoint_without_its_student_is_not_whole(tmp_path: Path) -> None:
    target = Artifact(Folder.at(tmp_path), "checkpoint", None, "mark")
    target.start()
    target.folder.write_text("student/config.json", "{}")
    target.folder.write_text("deepspeed/step-1/state", "x")
    assert target.finish("checkpoint", "sequences", 3, 1.0).files == ["student/config.json"]
    (tmp_path / "checkpoint" / "deepspeed" / "step-1" / "state").unlink()
    assert target.is_complete()
    (tmp_path / "checkpoint" / "student" / "config.json").unlink()
    assert not target.is_complete()


def test_why_nothing_is_left_is_told_of_the_artifact_that_rejected_it(tmp_path: Path) -> None:
    """All rewrites are rejected, so that curation has nothing to reject."""
    run, names = Folder.at(tmp_path), ("sft_examples", "instructions")
    assert why_none(run, names) == "there were no candidates"
    target = artifact(tmp_path)
    target.start()
    write(target, reject(row("a"), "wrong"), reject(row("b"), "wrong"), reject(row("c"), "empty"))
    target.finish("instructions", "rows", 3, 1.0)
    assert why_none(run, names) == f"wrong 2, empty 1; all of them are in {tmp_path}/instructions/_rejects"


@pytest.mark.parametrize("damage", [lambda whole: b"", lambda whole: bytes(len(whole)), lambda whole: whole[:200]])
@pytest.mark.parametrize("place", ["", "_rejects/"])
def test_the_rows_of_a_damaged_shard_are_made_again(tmp_path: Path, damage: Any, place: str) -> None:
    """As of a node that lost its power."""
    target = artifact(tmp_path)
    target.start()
    write(target, row("a"), reject(row("b"), "timeout"))
    write(target, row("c"), reject(row("d"), "timeout"))
    file = sorted((tmp_path / "instructions").glob(f"{place}part-*"))[0]
    file.write_bytes(damage(file.read_bytes()))
    again = artifact(tmp_path)
    again.start()
    forgotten = again.forget_rejects(lambda reason: reason == "timeout")
    done = again.done_ids()
    assert (len(done), forgotten) == ((2, {"timeout": 1}) if place else (1, {"timeout": 2}))
    assert [kept.name for kept in (tmp_path / "instructions" / "_damaged").iterdir()] == [file.name]
    rows = [row(name) for name in "abcd" if stable_id(name) not in done]
    write(again, *rows)
    assert again.finish("instructions", "rows", 4, 1.0).rows_out == 4


def test_a_damaged_shard_of_a_whole_artifact_is_named(tmp_path: Path) -> None:
    target = artifact(tmp_path)
    target.start()
    write(target, row("a"))
    target.finish("instructions", "rows", 1, 1.0)
    file = next((tmp_path / "instructions").glob("part-*"))
    file.write_bytes(b"")
    reader = artifact(tmp_path)
    for read in (lambda: list(reader.tables(["split"])), reader.read_table, reader.done_ids):
        with pytest.raises(UserError, match=f"{file.name} is damaged.* remove it, and the same command"):
            read()
    file.unlink()
    assert reader.manifest() is None


@pytest.mark.parametrize("text", ["", "\0\0\0", '{"artifact": "ins'])
def test_a_manifest_that_cannot_be_read_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "_manifest.json").write_text(text)
    assert read_manifest(Folder.at(tmp_path)) is None


def test_shards_that_are_merged_while_they_are_read_are_listed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the tasks of a stopped run do for some seconds."""
    target = artifact(tmp_path)
    target.start()
    for name in "abc":
        write(target, row(name), reject(row(name.upper()), "timeout"))
    real = Artifact._listed

    def listed_then_merged(self: Artifact, inside: str) -> list[str]:
        files = real(self, inside)
        merging.merge_all(target.folder, target.schema, target.attempt, target.folder.files(recursive=True), 2**20)
        return files

    monkeypatch.setattr(Artifact, "_listed", listed_then_merged)
    monkeypatch.setattr(artifact_reader, "LISTING_PAUSE_S", 0.01)
    assert len(target.done_ids()) == 6
    for name in "de":
        write(target, reject(row(name.upper()), "timeout"))
    assert target.forget_rejects(lambda reason: True) == {"timeout": 5}
    assert len(target.done_ids()) == 3


def test_another_attempt_finishes_nothing_that_this_one_has_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a run is taken over from a process that goes on."""
    first, second = artifact(tmp_path), artifact(tmp_path)
    first.start()
    write(first, row("a"), reject(row("b"), "timeout"))
    real = shards.merge_all

    def merged_then_taken_over(*arguments: Any) -> bool:
        merged = real(*arguments)
        second.start()
        second.forget_rejects(lambda reason: True)
        return merged

    with monkeypatch.context() as patched:
        patched.setattr(shards, "merge_all", merged_then_taken_over)
        with pytest.raises(StageError, match="another attempt has begun"):
            first.finish("instructions", "rows", 2, 1.0, max_shard_bytes=2**20)
    assert not second.is_complete()
    write(second, row("b"))
    assert second.finish("instructions", "rows", 2, 1.0).rows_out == 2


def test_a_shard_that_is_damaged_after_its_rows_were_counted_is_named(tmp_path: Path) -> None:
    """Its ids can be read: the damage is in another column. Nothing is set aside, since nobody would make the rows again."""
    target = artifact(tmp_path)
    target.start()
    write(target, *(row(str(k)) | {"instruction": f"{k} {stable_id(k)}" * 50} for k in range(40)))
    target.finish("instructions", "rows", 40, 1.0)
    file = next((tmp_path / "instructions").glob("part-*"))
    metadata = pq.read_metadata(file)
    column = metadata.row_group(0).column(metadata.schema.names.index("instruction"))
    with open(file, "r+b") as damaged:
        damaged.seek((column.dictionary_page_offset or column.data_page_offset) + 100)
        damaged.write(b"\0" * 64)
    assert len(target.done_ids()) == 40
    with pytest.raises(UserError, match=f"{file.name} is damaged"):
        list(target.tables(["instruction"]))
    assert file.exists()
