"""What was paid for is not thrown away or bought again without a question that names the change and its cost."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_distil.commands import status
from ray_distil.config import load
from ray_distil.errors import UserError
from ray_distil.runner import remaking
from ray_distil.runtime.progress import Display
from ray_distil.store.artifact import Artifact
from ray_distil.store.schemas import INSTRUCTIONS
from ray_distil.store.storage import Folder
from tests.unit.test_checkpoint_stage import Stopped, Training
from tests.unit.test_reuse import Asked, rows_of


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Asked:
    return Asked(tmp_path, monkeypatch)


@pytest.fixture
def training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Training:
    return Training(tmp_path, monkeypatch)


def files(folder: Path) -> dict[str, bytes]:
    """The files of all artifacts that were paid for."""
    every = [path for path in folder.rglob("*") if path.is_file() and "instructions" not in path.parts]
    return {str(path): path.read_bytes() for path in every}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["teachers.slow.sampling_params.temperature=0.5"],
         r"responses: slow\.sampling_params\.temperature 0\.0 -> 0\.5: \d+ texts of slow would be asked for again"),
        (["instructions.suffix=Hm."],
         r"responses: direct\.suffix Please .* -> Hm\., slow\.suffix Please .* -> Hm\.: \d+ texts of direct and \d+ texts of slow would be"),
        (["teachers.direct.sampling_params.max_tokens=3"],
         r"responses: direct\.max_tokens \d+ -> 3: \d+ texts of direct would be asked for again"),
        (["long2short.system_prompt=Shorter!"], r"rewrites: prompt .*: \d+ texts would be asked for again"),
        (["evaluation.sampling_params.temperature=0.5"],
         r"eval/slow/tiny: sampling_params\.temperature 0\.0 -> 0\.5: \d+ texts would be asked for again"),
    ],
)  # fmt: skip
def test_texts_are_not_bought_again_unasked(asked: Asked, change: list[str], said: str) -> None:
    asked.run()
    before = files(asked.folder)
    with pytest.raises(UserError, match=said) as told:
        asked.run(*change)
    assert asked.ids == []
    assert str(told.value).endswith("return to the old settings or give another run.name; to go on, add --remake")
    assert files(asked.folder).items() >= before.items(), "nothing has moved"
    asked.run(*change, "run.remake=true")
    assert asked.ids


def test_a_stopped_stage_has_texts_to_lose_too(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    asked.run()
    (asked.folder / "run" / "responses" / "_manifest.json").unlink(missing_ok=True)
    (asked.folder / "tiny" / "responses" / "_manifest.json").unlink(missing_ok=True)
    with pytest.raises(UserError, match="texts of slow would be asked for again"):
        asked.run("teachers.slow.system_prompt=Think.")


@pytest.mark.parametrize(
    "change",
    [
        ["teachers.slow.sampling_params.max_tokens=99999"],
        ["teachers.slow.fraction=0.5"],
        ["gates.correct=false"],
        ["long2short.sampling_params.max_tokens=99999"],
        ["run.max_reject_fraction=0.9"],
    ],
)
def test_without_a_loss_nobody_is_asked(asked: Asked, change: list[str]) -> None:
    responses = rows_of(asked.run()[0])
    asked.run(*change)
    finished = {i for i, row in responses.items() if row["finish_reason"] == "stop"}
    assert finished.isdisjoint(asked.ids)


def test_settings_whose_texts_are_still_there_lose_nothing(asked: Asked) -> None:
    asked.run()
    asked.run("teachers.slow.system_prompt=Think.", "run.remake=true")
    asked.run("teachers.slow.system_prompt=Think hard.", "run.remake=true")
    asked.run("teachers.slow.system_prompt=Think.")
    assert asked.ids == []


def test_secrets_are_not_in_what_an_artifact_says_of_itself(asked: Asked) -> None:
    asked.run("teachers.slow.engine.engine_kwargs={hf_token: hf_abcdefgh}")
    assert not [name for name, data in files(asked.folder).items() if b"hf_abcdefgh" in data]


def test_a_finished_student_is_not_trained_again_unasked(training: Training) -> None:
    training.make(ends=True)
    with pytest.raises(
        UserError, match=r"^checkpoint: learning_rate 2e-05 -> 0\.5: a student of 8 steps would be trained again"
    ):
        training.make(ends=True, learning_rate=0.5)
    training.make(ends=True, learning_rate=0.5, remake=True)


def test_states_of_a_stopped_training_are_not_given_up_unasked(training: Training) -> None:
    with pytest.raises(Stopped):
        training.make(ends=False)
    with pytest.raises(UserError, match=r"checkpoint: weight_decay .*: training states of 4 steps could not be used"):
        training.make(ends=False, weight_decay=0.5)


def test_the_settings_of_before_bring_their_student_back(training: Training) -> None:
    training.make(ends=True)
    student = training.place / "r" / "checkpoint"
    (student / "student").mkdir(exist_ok=True)
    (student / "mark.txt").write_text("the first")
    training.make(ends=True, learning_rate=0.5, remake=True)
    assert not (student / "mark.txt").exists()
    training.make(ends=False)  # nothing is trained
    assert (student / "mark.txt").read_text() == "the first"


def test_a_student_whose_files_were_moved_is_told_and_not_trained(training: Training, tmp_path: Path) -> None:
    weights = training.place / "r" / "checkpoint" / "student" / "model.safetensors"
    training.weights = weights
    training.make(ends=True)
    aside = weights.rename(tmp_path / "moved")
    with pytest.raises(
        UserError, match=r"student/model\.safetensors is gone, of 1 files of the trained student; bring"
    ):
        training.make(ends=True)
    aside.rename(weights)
    training.make(ends=False)  # it is complete
    weights.unlink()
    training.make(ends=True, remake=True)
    assert weights.exists()


def test_failed_rows_of_which_others_are_made_are_tried_again_only_when_asked(
    asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = list[str]()
    monkeypatch.setattr(Display, "say", lambda display, line: said.append(line))
    asked.fails = lambda row: "http_503: away" if row["id"][0] in "01" else ""
    asked.run()
    assert any(line.startswith("responses: ") and "--retry-failed tries them again" in line for line in said), said
    asked.fails = lambda row: ""
    said.clear()
    asked.run()
    again = "\n".join(said)
    assert "with transient" not in again
    line = next(line for line in again.splitlines() if line.startswith("responses: "))
    assert "are left out; --retry-failed tries them again" in line
    assert "makes anew what is made of them: rewrites (" in line
    left = {row["response_id"] for row in asked.run()[0].rejected()}
    assert left.isdisjoint(asked.ids)
    asked.run("run.retry_failed=true")
    assert {i for i in left if i[0] in "01"} & set(asked.ids)


def test_rows_that_nothing_is_made_of_yet_are_tried_again_by_the_same_command(
    asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked.fails = lambda row: "http_503: away" if row["id"][0] in "01" else ""
    monkeypatch.setattr("tests.unit.test_reuse.make_rewrites", lambda run, responses: None)
    with pytest.raises(AssertionError):
        asked.run()
    failed = set(asked.ids)
    asked.fails = lambda row: ""
    with pytest.raises(AssertionError):
        asked.run()
    assert asked.ids
    assert set(asked.ids) <= failed


def test_going_back_to_a_finished_student_keeps_the_states_of_the_other(training: Training) -> None:
    training.make(ends=True, learning_rate=1e-3)
    with pytest.raises(Stopped):
        training.make(ends=False, learning_rate=2e-3, remake=True)
    training.make(ends=False, learning_rate=1e-3)  # it is complete, and comes back
    assert len(list(training.place.rglob("superseded/**/step-*.json"))) == 1
    with pytest.raises(Stopped):
        training.make(ends=False, learning_rate=2e-3)  # the stopped one comes back: nobody is asked
    assert (training.place / "r" / "checkpoint" / "states" / "step-4-a.json").exists()


def test_a_student_is_found_after_a_stop_between_the_two_moves(training: Training) -> None:
    training.make(ends=True, learning_rate=1e-3)
    training.make(ends=True, learning_rate=2e-3, remake=True)
    (training.place / "r" / "checkpoint").rename(training.place / "r" / "superseded" / "checkpoint-other-1")
    training.make(ends=False, learning_rate=1e-3)  # nothing is trained


def test_who_tries_failed_rows_again_agrees_to_no_other_settings(asked: Asked) -> None:
    asked.run()
    with pytest.raises(UserError, match="texts of slow would be asked for again"):
        asked.run("teachers.slow.system_prompt=Think.", "run.retry_failed=true")


def test_lower_limits_are_asked_about_whatever_lies_in_superseded(asked: Asked) -> None:
    asked.run()
    asked.run("teachers.slow.fraction=0.9")
    with pytest.raises(UserError, match="texts of direct would be asked for again"):
        asked.run("teachers.slow.fraction=0.9", "teachers.direct.sampling_params.max_tokens=3")


def test_a_making_without_rows_has_no_texts(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    asked.run()
    change = "teachers.slow.system_prompt=Think."
    with monkeypatch.context() as patch:
        patch.setattr(Artifact, "written", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            asked.run(change, "run.remake=true")
    asked.run()
    with pytest.raises(UserError, match="texts of slow would be asked for again"):
        asked.run(change)


def test_rows_that_came_back_are_not_tried_again_unasked(asked: Asked) -> None:
    asked.fails = lambda row: "http_503: away" if row["id"][0] in "01" else ""
    asked.run()
    asked.fails = lambda row: ""
    asked.run("teachers.slow.system_prompt=Think.", "run.remake=true")
    asked.run()
    failed = {row["response_id"] for row in asked.run()[0].rejected()}
    assert failed
    assert failed.isdisjoint(asked.ids)


def test_old_rows_that_fail_again_remake_nothing(asked: Asked) -> None:
    """Of a version whose manifests had no digest."""
    asked.fails = lambda row: "http_503: away" if row["id"][0] in "01" else ""
    responses = asked.run()[0]
    file = responses.folder.local / "_manifest.json"
    told = json.loads(file.read_text())
    del told["content"]
    file.write_text(json.dumps(told))
    before = responses.content()
    assert asked.run("run.retry_failed=true")[0].content() == before


def test_a_renamed_file_of_a_run_of_an_earlier_version_is_asked_about(tmp_path: Path) -> None:
    """There the ids hold the name of the file: all texts would be asked for again."""
    run = Folder.at(tmp_path) / "run"
    problems = Artifact(run, "instructions", INSTRUCTIONS, "mark")
    settings = {"sources": ["a.jsonl", None], "seed": 0}
    problems.made_of = {"settings": settings, "inputs": ["content"]}
    problems.start()
    assert remaking.lost_ids(problems, settings | {"sources": ["b.jsonl", None]}) == "", "nothing was paid for yet"
    pq.write_table(pa.table({"response_id": ["1", "2"]}), tmp_path / "shard.parquet")
    (run / "responses").write_bytes("part-1.parquet", (tmp_path / "shard.parquet").read_bytes())
    said = remaking.lost_ids(problems, settings | {"sources": ["b.jsonl", None]})
    assert said.startswith("2 texts would be asked for again, because the ids of this run's problems hold the names")
    assert remaking.lost_ids(problems, settings) == ""
    assert remaking.lost_ids(problems, {"ids": "text", "sources": ["own", "tiny"]}) == ""


def test_a_plan_says_what_the_run_has_and_what_it_would_refuse(asked: Asked) -> None:
    def remarks(*overrides: str) -> list[str]:
        return status.remarks_on_plan(load(None, [f"run.storage_path={asked.folder}", *overrides]))

    assert remarks() == []
    responses, rewrites, _ = asked.run()
    asked.run()
    made = [artifact.manifest() for artifact in (responses, rewrites)]
    counts = ", ".join(f"{m.artifact} complete ({m.rows_in} {m.unit})" for m in made if m is not None)
    before = files(asked.folder)
    (there,) = remarks()
    assert f"{asked.folder}/tiny is there: {counts}" in there
    assert there.endswith("the plan counts all, as for a new run")

    _, refused = remarks("teachers.slow.sampling_params.temperature=0.5")
    assert refused.startswith("the run would end with: responses: slow.sampling_params.temperature 0.0 -> 0.5: ")
    assert refused.endswith("to go on, add --remake")
    assert len(remarks("teachers.slow.sampling_params.temperature=0.5", "run.remake=true")) == 1
    _, refused = remarks("long2short.system_prompt=Shorter!")
    assert refused.startswith("the run would end with: rewrites: ")
    assert files(asked.folder) == before, "nothing is written"
