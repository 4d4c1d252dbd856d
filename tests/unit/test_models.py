"""Models in a run's folder, for the nodes of a cluster."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ray_distil.config.models import COPY_OF, TINY_MODELS, resolve_model, share_tiny_models
from ray_distil.errors import ConfigError
from ray_distil.store.hub import local_copy
from ray_distil.store.manifest import SAMPLED_FROM, _with_revision, model_fingerprint
from ray_distil.store.storage import Folder
from tests.object_store import CREDENTIALS
from tests.slow_store import SlowStore


def test_models_of_the_package_are_shared_by_the_run(tmp_path: Path) -> None:
    base, own = str(TINY_MODELS / "student-base"), str(tmp_path / "own")
    run = Folder.at(tmp_path / "run")
    shared = share_tiny_models({"training.student": base, "teachers.slow": own}, run)
    assert shared == {"training.student": f"{tmp_path}/run/models/student-base", "teachers.slow": own}
    assert model_fingerprint(shared["training.student"]) == model_fingerprint(base)
    copy = tmp_path / "run" / "models" / "student-base"
    for file in ("config.json", COPY_OF):  # as a copy that was stopped leaves it
        (copy / file).unlink()
    assert share_tiny_models({"training.student": base}, run) == {"training.student": shared["training.student"]}
    assert model_fingerprint(shared["training.student"]) == model_fingerprint(base)
    (copy / COPY_OF).write_text("of weights of before")  # in a package of before
    (copy / "model.safetensors").write_bytes(b"weights of before")
    share_tiny_models({"training.student": base}, run)
    assert model_fingerprint(shared["training.student"]) == model_fingerprint(base)


def test_a_model_is_told_by_its_weights_and_not_by_their_size_or_its_name(tmp_path: Path) -> None:
    weights = np.random.default_rng(0).integers(0, 256, SAMPLED_FROM + 5, np.uint8)
    folder = tmp_path / "a"
    (folder / "below").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "below" / "merges.txt").write_text("a b")

    def mark() -> str:
        weights.tofile(folder / "model.safetensors")
        return model_fingerprint(str(folder))

    before = mark()
    weights[len(weights) // 2 :: 3] ^= 1
    after = mark()
    assert after != before  # half of the weights moved by a bit
    shutil.copytree(folder, tmp_path / "b")
    (tmp_path / "b" / ".cache").mkdir()
    (tmp_path / "b" / ".cache" / "download").write_text("bookkeeping")
    assert model_fingerprint(str(tmp_path / "b")) == after
    (folder / "below" / "merges.txt").write_text("b a")
    assert model_fingerprint(str(folder)) != after


def test_a_hub_model_is_told_by_its_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [str(tmp_path / "snapshots" / name / "config.json") for name in ("abc", "def")]
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: found[0])
    assert model_fingerprint("org/of-the-hub") == "org/of-the-hub@abc"
    _with_revision.cache_clear()
    found.pop(0)
    assert model_fingerprint("org/of-the-hub") == "org/of-the-hub@def"
    _with_revision.cache_clear()


def test_a_model_in_an_object_store_is_copied_once_until_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    store = Folder.at("mock://copied-models/student")
    for name in ("config.json", "consolidated.00.pth", "model.safetensors"):
        store.write_text(name, "1")
    small, whole = Path(local_copy(store.uri)), Path(local_copy(store.uri, weights=True))
    assert [file.name for file in small.iterdir()] == ["config.json"]
    assert sorted(file.name for file in whole.iterdir()) == ["config.json", "consolidated.00.pth", "model.safetensors"]
    assert local_copy(store.uri) == str(small)
    store.write_text("config.json", "another")
    assert (Path(local_copy(store.uri)) / "config.json").read_text() == "another"
    assert local_copy("org/name") == "org/name"


def test_processes_of_a_machine_copy_a_model_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (CREDENTIALS | {"TMPDIR": str(tmp_path)}).items():
        monkeypatch.setenv(name, value)
    code = "import sys; from ray_distil.store.hub import local_copy; print(local_copy(sys.argv[1], True))"

    def copied(model: str, num_processes: int) -> list[str]:
        command = [sys.executable, "-c", code, model]
        started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(num_processes)]
        return [process.communicate(timeout=60)[0].strip() for process in started]

    with SlowStore() as store:
        weights = {f"model-{k}.safetensors": bytes(2**20) for k in range(3)}
        for model in ("first", "second"):
            for name, content in weights.items():
                Folder(store.uri(model)).write_bytes(name, content)
        store.set(latency=0.2)
        store.count()
        (alone,) = copied(store.uri("first"), 1)
        requests_of_one = store.count()["GET"]
        assert {path.name: path.read_bytes() for path in Path(alone).iterdir()} == weights
        (together,) = set(copied(store.uri("second"), 8))
        assert {path.name: path.read_bytes() for path in Path(together).iterdir()} == weights
        assert store.count()["GET"] <= requests_of_one + 2 * 7  # each looks which files there are


def test_a_model_in_an_object_store_is_taken_wherever_one_is_named() -> None:
    store = Folder.at("mock://named-models/student")
    store.write_text("config.json", "{}")
    assert resolve_model(store.uri, "training.student") == store.uri
    with pytest.raises(ConfigError, match=r"training.student: 'mock://named-models/none' has no config.json"):
        resolve_model("mock://named-models/none", "training.student")
    with pytest.raises(ConfigError, match=r"training.student: 'nowhere://x' is no place"):
        resolve_model("nowhere://x", "training.student")


def test_copies_that_nobody_asked_for_in_a_day_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    store = Folder.at("mock://old-models/student")
    store.write_text("config.json", "1")
    old = Path(local_copy(store.uri))
    store.write_text("config.json", "22")
    new = Path(local_copy(store.uri))
    assert old.is_dir()
    os.utime(old, (0, 0))
    store.write_text("config.json", "333")
    local_copy(store.uri)
    assert not old.is_dir()
    assert new.is_dir()
