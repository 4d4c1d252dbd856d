"""Work beside the stages, and where the libraries' messages go."""

import io
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console

from ray_distil.config import load
from ray_distil.errors import StageError
from ray_distil.runner.lease import run_lock
from ray_distil.runner.runs import Run, beside
from ray_distil.runner.stage import GeneratingStage, Stage
from ray_distil.runner.stage_settings import StageSettings
from ray_distil.runtime import metrics, session
from ray_distil.runtime.progress import Display
from ray_distil.runtime.session import in_background, messages_to
from ray_distil.stages.sft_examples import few_kept
from ray_distil.store.artifact import Artifact
from ray_distil.store.ids import IdSet
from ray_distil.store.manifest import Manifest
from ray_distil.store.schemas import INSTRUCTIONS, stable_id
from ray_distil.store.shards import Written, table_of
from ray_distil.store.storage import Folder


def test_work_is_done_while_the_body_runs() -> None:
    body_began, seen = threading.Event(), []
    with beside(lambda: seen.append(body_began.wait(20)), parallel=True):
        body_began.set()
    assert seen == [True]


def test_work_is_done_first_if_not_parallel() -> None:
    order: list[str] = []
    with beside(lambda: order.append("work"), parallel=False):
        order.append("body")
    assert order == ["work", "body"]


@pytest.mark.parametrize("parallel", [True, False])
def test_its_error_is_raised(parallel: bool) -> None:
    def work() -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"), beside(work, parallel):
        pass


def test_a_body_that_fails_does_not_wait_for_it() -> None:
    never = threading.Event()
    with pytest.raises(KeyError), beside(never.wait, parallel=True):
        raise KeyError("body")
    never.set()


def test_a_run_folder_has_one_maker(tmp_path: Path) -> None:
    held = f"from ray_distil.runner.lease import run_lock; from ray_distil.store.storage import Folder\nwith run_lock(Folder({str(tmp_path)!r})): pass"
    with run_lock(Folder.at(tmp_path)):
        second = subprocess.run([sys.executable, "-c", held], capture_output=True, text=True)
    assert "another process is making" in second.stderr
    with run_lock(Folder.at(tmp_path)):
        pass


def test_messages_go_to_the_file_and_come_back(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file, display = tmp_path / "logs" / "driver.log", Display()
    for text in (b"first\n", b"second\n"):
        with messages_to(file):
            os.write(2, text)  # as C++ does, past sys.stderr
            print("printed")  # as Ray does with the errors of workers
            display.say("said")
    os.write(2, b"shown\n")
    print("shown")
    assert file.read_bytes() == b"first\nprinted\nsecond\nprinted\n"
    seen = capfd.readouterr()
    assert seen.err == "shown\n"
    assert seen.out == "said\nsaid\nshown\n"


def test_work_in_background_gives_its_result_or_its_error() -> None:
    assert in_background(lambda: threading.current_thread() is threading.main_thread()).result() is False
    with pytest.raises(ZeroDivisionError):
        in_background(lambda: 1 / 0).result()


def test_an_error_beside_the_body_is_told_at_once() -> None:
    told: list[str] = []
    heard = threading.Event()

    def say(line: str) -> None:
        told.append(line)
        heard.set()

    with pytest.raises(ZeroDivisionError), beside(lambda: 1 / 0, True, say):  # type: ignore[arg-type, return-value]
        assert heard.wait(10)
    assert told == ["failed beside the other stages, which go on: division by zero"]


class Quick(Stage):
    """A stage of one row, whose checks take as long as another stage needs to begin."""

    fingerprint_name, version, schema, unit = "instructions", 1, INSTRUCTIONS, "instructions"
    settings = StageSettings({})

    def __init__(self, name: str) -> None:
        self.artifact, self.inputs = name, [name]

    def make(self, artifact: Artifact) -> tuple[int, dict[str, Any]]:
        row = {"instruction_id": stable_id(self.artifact), "instruction": "i", "source": "s", "split": "train"}
        artifact.write_table(table_of([row], INSTRUCTIONS), "instructions")
        return 1, {}


def test_stages_that_begin_side_by_side_are_checked_once(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=200)
    run = Run(load(None, [f"run.storage_path={tmp_path}"]), {}, Display(console))
    num_checks = []

    def check() -> list[str]:
        num_checks.append(1)
        time.sleep(1)
        return ["look out"]

    run.before_making = check
    with beside(lambda: run.make(Quick("first")), parallel=True):
        run.make(Quick("second"))
    assert len(num_checks) == 1
    assert console.file.getvalue().count("note: look out") == 1


def test_a_ray_that_another_thread_is_importing_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage that takes over rows may count them while the stage beside it loads Ray."""
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))
    assert not session.ray_is_there()
    metrics.count("distil_rows_written", 3, run="r", stage="responses")


def test_threads_that_need_transformers_at_once_all_get_it() -> None:
    """The evaluations' thread begins an engine while the main thread looks at a model."""
    code = """if True:
        import threading
        from ray_distil.config.models import resolve_model
        from ray_distil.generate import engine
        from ray_distil.generate import generator, token_rows
        from ray_distil.runtime.session import in_background
        from importlib import import_module

        model, go = resolve_model("tiny:student-base", "k"), threading.Barrier(4)
        works = [
            lambda: token_rows.model_length(model),
            lambda: generator.generation_config(model),
            lambda: token_rows.finish_options(model),
            lambda: [import_module(name) for name in engine.IMPORTS],
        ]
        for future in [in_background(lambda work=work: (go.wait(), work())) for work in works]:
            future.result()
    """
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


class Failing(Artifact):
    """Writes as many rows as `plan` says before it fails; the last attempt does not fail."""

    def __init__(self, run: Run, plan: list[int]) -> None:
        super().__init__(run.folder, "instructions", INSTRUCTIONS, "mark")
        self.plan = plan

    def written(self, parts: list[list[str]], stage: str, *options: Any) -> Iterator[Written]:
        (left,) = parts
        number = self.plan.pop(0) if self.plan else len(left)
        rows = [{"instruction_id": i, "instruction": i, "source": "s", "split": "train"} for i in left[:number]]
        if rows:
            self.write_table(table_of(rows, INSTRUCTIONS), stage)
            counts = {"rows_out": number, "rows_rejected": 0, "num_tried": number, "num_failed": 0, "why": "[]"}
            yield {**counts, "num_prompt_tokens": 0, "num_generated_tokens": 0, "rejects": "{}"}
        if number < len(left):
            raise RuntimeError(f"lost\n{number} written")


IDS = [stable_id("row", k) for k in range(10)]


class Ten(GeneratingStage):
    """Ten rows; a "dataset" is a list of ids."""

    artifact = fingerprint_name = "responses"

    def make(self, artifact: Artifact) -> tuple[int, dict[str, Any]]:
        return len(IDS), {}

    def datasets(self, done: IdSet, num_missing: int) -> list[list[str]]:  # type: ignore[override]
        return [[i for i in IDS if i not in done]]


def generated(folder: Path, plan: list[int]) -> tuple[Failing, str]:
    """What comes of ten rows where attempts fail as planned, and what is said."""
    console = Console(file=io.StringIO(), width=200)
    run = Run(load(None, [f"run.storage_path={folder}"]), {}, Display(console))
    run.start_ray = lambda imports=(): None  # type: ignore[method-assign]
    artifact = Failing(run, plan)
    artifact.start()
    run.generate(Ten(), artifact, len(IDS))
    return artifact, console.file.getvalue()


def test_failures_with_rows_between_them_go_on_without_the_finished_rows(tmp_path: Path) -> None:
    artifact, said = generated(tmp_path, [0, 3, 2, 1])
    assert artifact.finish("responses", "rows", len(IDS), 1.0).rows_out == len(IDS)
    assert [line.split(": ")[1] for line in said.splitlines()] == [
        f"failed with {done} rows done, and begins again" for done in (0, 3, 5, 6)
    ]
    assert said.splitlines()[0].endswith("0 written")


def test_two_failures_without_a_row_between_them_are_raised(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="responses: failed twice with no row finished in between: 0 written"):
        generated(tmp_path, [4, 0])


def test_an_attempt_that_another_process_took_over_does_not_take_it_back(tmp_path: Path) -> None:
    class Taken(Failing):
        def written(self, parts: list[list[str]], stage: str, *options: Any) -> Iterator[Written]:
            Artifact(self.run, self.name, self.schema, self.fingerprint).start()
            yield from super().written(parts, stage, *options)

    run = Run(load(None, [f"run.storage_path={tmp_path}"]), {}, Display(Console(file=io.StringIO())))
    run.start_ray = lambda imports=(): None  # type: ignore[method-assign]
    artifact = Taken(run, [5])
    artifact.start()
    with pytest.raises(StageError, match="another attempt has begun"):
        run.generate(Ten(), artifact, len(IDS))


@pytest.mark.parametrize(
    ("rows_out", "rejects", "rewrites", "says"),
    [
        (
            60,
            {"not_shorter": 60},
            (0, 60),
            "kept 0 of 60 rewrites, less than a tenth; rejected candidates: not_shorter 60",
        ),
        (11, {"wrong_answer": 109}, (5, 60), "kept 11 of 120 candidates, less than a tenth; rejected candidates: wr"),
        (12, {"wrong_answer": 108}, (6, 60), ""),
        (12, {"wrong_answer": 108}, (0, 0), ""),
        (
            6,
            {"not_chosen": 60, "same_text": 30, "wrong_answer": 24},
            (0, 60),
            "",
        ),  # the choice left them out, not a gate
        (1, {"not_chosen": 3, "wrong_answer": 116}, (0, 60), "kept 4 of 120 candidates"),
    ],
)
def test_a_kind_of_which_hardly_any_is_kept_is_told(
    rows_out: int, rejects: dict[str, int], rewrites: tuple[int, int], says: str
) -> None:
    num_rejected = sum(rejects.values())
    made = Manifest(
        "sft_examples",
        "sft_examples",
        "f",
        "candidates",
        rows_out + num_rejected,
        rows_out,
        num_rejected,
        rejects,
        1.0,
        [],
        {},
    )
    told = few_kept(made, *rewrites)
    assert told.startswith(says)
    assert bool(told) == bool(says)
