"""Which training state is gone on from: the newest whole one of the same data, settings and student."""

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from ray_distil.errors import UserError
from ray_distil.store.storage import Folder
from ray_distil.train.states import State, check_batch, check_sharing, find, last_state, prune
from ray_distil.train.step_log import METRICS, StepLog, read_log
from tests.object_store import ObjectStore, store_with_credentials

FILES = {"rank-0/state/a.pt": b"12345", "rank-1/state/b.pt": b"123"}
OURS, THEIRS = "ours", "theirs"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with store_with_credentials(tmp_path_factory.mktemp("s3") / "log") as store:
        yield store


@pytest.fixture(params=["disk", "store"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, store: ObjectStore) -> Folder:
    return Folder.at(tmp_path if request.param == "disk" else store.uri(tmp_path.name)) / "states"


def write(folder: Folder, step: int, made_of: str = OURS, start: str = "aa") -> str:
    """A whole state; its name."""
    name = f"step-{step}-{start}"
    for file, data in FILES.items():
        (folder / name).write_bytes(file, data)
    sizes = {file: len(data) for file, data in FILES.items()}
    folder.write_text(f"{name}.json", json.dumps(asdict(State(name, step, 2, 1, made_of, sizes))))
    return name


def test_where_nothing_was_saved_there_is_nothing(folder: Folder) -> None:
    assert find(folder, OURS).newest is None
    assert find(folder, OURS).remarks == []
    assert last_state(folder) is None
    prune(folder, OURS)


def test_the_newest_is_that_of_the_largest_step(folder: Folder) -> None:
    for step in (9, 10, 8):
        write(folder, step)
    found = find(folder, OURS)
    assert [state.step for state in found.complete] == [8, 9, 10]
    assert found.newest is not None
    assert found.newest.files.keys() == FILES.keys()
    assert found.remarks == []
    newest = last_state(folder)
    assert newest is not None
    assert newest.step == 10


@pytest.mark.parametrize("what", ["no marker", "half a marker", "no file", "half a file"])
def test_a_half_written_state_is_not_used_and_said(folder: Folder, what: str) -> None:
    write(folder, 2)
    name = write(folder, 4)
    if what == "no marker":
        folder.remove(f"{name}.json")
    elif what == "half a marker":
        folder.write_text(f"{name}.json", folder.read_text(f"{name}.json")[:40])
    elif what == "no file":
        (folder / name).remove("rank-1/state/b.pt")
    else:
        (folder / name).write_bytes("rank-1/state/b.pt", b"12")
    found = find(folder, OURS)
    assert [state.step for state in found.complete] == [2]
    assert found.remarks == ["the training state of step 4 is half-written, and is not used"]


def test_a_state_of_other_data_settings_or_another_student_is_not_used_and_said(folder: Folder) -> None:
    write(folder, 2)
    write(folder, 4, THEIRS)
    found = find(folder, OURS)
    assert [state.step for state in found.complete] == [2]
    assert found.remarks == [
        "the training state of step 4 is of other data, other settings or another student, and is not used"
    ]
    assert find(folder, "of nobody").newest is None


def test_two_stay_and_what_another_start_left_half_written_goes(folder: Folder) -> None:
    for step in (2, 4, 6):
        write(folder, step)
    half = write(folder, 5, start="bb")
    folder.remove(f"{half}.json")
    prune(folder, OURS)
    assert {file.partition("/")[0] for file in folder.files(recursive=True)} == {
        "step-4-aa", "step-4-aa.json", "step-6-aa", "step-6-aa.json",
    }  # fmt: skip
    prune(folder, OURS)
    assert [state.step for state in find(folder, OURS).complete] == [4, 6]


def test_files_of_two_starts_do_not_mix(folder: Folder) -> None:
    """A start that was killed while it saved step 4, and the next one that saved it whole."""
    half = write(folder, 4, start="bb")
    folder.remove(f"{half}.json")
    (folder / half).write_bytes("rank-0/state/a.pt", b"other")
    whole = write(folder, 4)
    found = find(folder, OURS)
    assert found.newest is not None
    assert found.newest.name == whole
    assert found.half_written == [half]


def test_stage_3_goes_on_with_as_many_workers_only(folder: Folder) -> None:
    state = State("step-4-aa", 4, num_workers=2, zero_stage=3, made_of=OURS, files={})
    check_sharing(folder, state, 2, 3)
    check_sharing(folder, replace(state, zero_stage=2), 1, 1)
    with pytest.raises(
        UserError, match=r"num_workers: 1, .* step 4 is of 2, .*num_workers=2 to go on, or remove .*states"
    ):
        check_sharing(folder, state, 1, 3)


SIZES = {"num_workers": 2, "train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 8}


@pytest.mark.parametrize(
    ("saved", "remedy"), [(8, "training.gradient_accumulation_steps=4"), (5, "sizes whose product is 5")]
)
def test_another_global_batch_is_refused_with_both_sizes(tmp_path: Path, saved: int, remedy: str) -> None:
    folder = Folder.at(tmp_path)
    state = State("step-4-aa", 4, 1, 1, f"with {saved}", {}, saved)
    folder.write_text("step-4-aa.json", json.dumps(asdict(state)))
    with pytest.raises(UserError) as told:
        check_batch(folder, lambda size: f"with {size}", SIZES)
    assert str(told.value) == (
        "training: a global batch of 16 sequences (num_workers 2 x train_micro_batch_size_per_gpu 1 x "
        f"gradient_accumulation_steps 8), and the training state of step 4 is of {saved}; set {remedy} to go on, or "
        f"remove {folder} to begin anew"
    )
    check_batch(folder, lambda size: "other data", SIZES)  # begins anew, as `find` says
    check_batch(folder, lambda size: f"with {size}", SIZES | {"gradient_accumulation_steps": saved, "num_workers": 1})


def steps(folder: Folder) -> list[int]:
    return [line["step"] for line in read_log(folder)]


def test_the_log_is_cut_behind_the_state_and_continued(folder: Folder) -> None:
    log = StepLog(folder, 0)
    for step in range(1, 6):
        log.add({"step": step})
    log.flush()
    assert steps(folder) == [1, 2, 3, 4, 5]
    again = StepLog(folder, 3)
    assert steps(folder) == [1, 2, 3]
    again.add({"step": 4})
    again.flush()
    assert steps(folder) == [1, 2, 3, 4]
    assert StepLog(folder, 0).lines == []
    assert steps(folder) == []


def test_each_line_of_the_log_is_there_at_once_or_soon(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    log = StepLog(folder, 0)
    log.add({"step": 1})
    assert steps(folder) == ([1] if folder.local else [])
    monkeypatch.setattr("ray_distil.train.step_log.UPLOAD_SECONDS", 0.0)
    log.add({"step": 2})
    assert steps(folder) == [1, 2]


def test_a_line_that_was_cut_is_no_line(tmp_path: Path) -> None:
    (tmp_path / METRICS).write_text('{"step": 1}\n{"step": 2}\n{"ste')
    log = StepLog(Folder.at(tmp_path), 2)
    log.add({"step": 3})
    assert (tmp_path / METRICS).read_text() == '{"step": 1}\n{"step": 2}\n{"step": 3}\n'
