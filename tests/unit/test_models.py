"""Models in a run's folder, for the nodes of a cluster."""

from pathlib import Path

import pytest

from ray_distil.manifest import model_fingerprint
from ray_distil.models import TINY_MODELS, local_copy, share_tiny_models
from ray_distil.storage import Folder


def test_models_of_the_package_are_shared_by_the_run(tmp_path: Path) -> None:
    base, own = str(TINY_MODELS / "student-base"), str(tmp_path / "own")
    run = Folder.at(tmp_path / "run")
    shared = share_tiny_models({"training.student": base, "teachers.slow": own}, run)
    assert shared == {"training.student": f"{tmp_path}/run/models/student-base", "teachers.slow": own}
    assert model_fingerprint(shared["training.student"]) == model_fingerprint(base)
    (tmp_path / "run" / "models" / "student-base" / "config.json").unlink()  # as a copy that was stopped leaves it
    assert share_tiny_models({"training.student": base}, run) == {"training.student": shared["training.student"]}
    assert model_fingerprint(shared["training.student"]) == model_fingerprint(base)


def test_a_model_in_an_object_store_is_copied_once_until_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    store = Folder.at("mock://copied-models/student")
    for name in ("config.json", "model.safetensors"):
        store.write_text(name, "1")
    small, whole = Path(local_copy(store.uri)), Path(local_copy(store.uri, weights=True))
    assert [file.name for file in small.iterdir()] == ["config.json"]
    assert sorted(file.name for file in whole.iterdir()) == ["config.json", "model.safetensors"]
    assert local_copy(store.uri) == str(small)
    store.write_text("config.json", "another")
    assert (Path(local_copy(store.uri)) / "config.json").read_text() == "another"
    assert local_copy("org/name") == "org/name"
