"""A run's hub models stay at the commit with which it began: when the hub moves, when it does not answer, and offline."""

import json
from pathlib import Path
from typing import Any

import pytest

from ray_distil.config import DistillConfig, load
from ray_distil.config.models import TINY_MODELS, resolve_model, resolve_models
from ray_distil.errors import ConfigError, UserError
from ray_distil.runner import frozen
from ray_distil.runner.runs import Run
from ray_distil.store import hub
from ray_distil.store.hub import local_copy
from tests.fake_hub import FakeHub, forget
from tests.remakes import of_responses

NAME = "org/teacher"
TEACHER = {file.name: file.read_bytes() for file in (TINY_MODELS / "teacher-r1").iterdir()}


def configuration(folder: Path, source: str = NAME) -> DistillConfig:
    return load(None, [f"run.storage_path={folder}", f"teachers.slow.engine.model_source={source}"])


def begun(config: DistillConfig) -> Run:
    """A run of a new process, whose first stage has begun."""
    forget()
    models, commits = frozen.resolved(config)
    frozen.save(config.run_folder, commits)
    return Run(config, models)


def marks(run: Run) -> Any:
    return of_responses(run).marks


def test_a_commit_at_the_hub_changes_nothing_of_a_run_that_has_begun(web: FakeHub, tmp_path: Path) -> None:
    config, first = configuration(tmp_path), web.push(NAME, TEACHER)
    before = begun(config)
    assert before.models["teachers.slow"] == f"{NAME}@{first}"
    assert before.models["teachers.direct"] == resolve_models(load(None))["teachers.direct"]
    asked = marks(before)
    assert frozen.moved(frozen.read(config.run_folder)) == []

    second = web.push(NAME, TEACHER | {"README.md": b"Edited."})
    again = begun(config)
    assert (again.models, marks(again)) == (before.models, asked)
    (line,) = frozen.moved(frozen.read(config.run_folder))
    assert line.startswith(
        f"Hugging Face has commit {second[:12]} now; this run uses {NAME} at commit {first[:12]}, as"
    )
    assert line.endswith(f"name {NAME}@{second}")

    web.status = 429
    assert begun(config).models == before.models
    with pytest.raises(ConfigError, match=r"the hub cannot be reached \(HTTP 429\)"):
        begun(configuration(tmp_path / "new", "org/unknown"))
    (line,) = frozen.moved(frozen.read(config.run_folder))
    assert line.startswith("Hugging Face does not answer (")
    assert line.endswith(f"this run uses {NAME} at commit {first[:12]}, as when it began")


def test_a_model_that_is_named_with_a_commit_is_that_commit(web: FakeHub, tmp_path: Path) -> None:
    first, second = web.push(NAME, TEACHER), web.push(NAME, TEACHER | {"README.md": b"Edited."})
    config = configuration(tmp_path, f"{NAME}@{first}")
    assert begun(config).models["teachers.slow"] == f"{NAME}@{first}"
    assert frozen.moved(frozen.read(config.run_folder)) == []
    other = begun(configuration(tmp_path, f"{NAME}@main"))
    assert other.models["teachers.slow"] == f"{NAME}@{second}"
    assert marks(other)["slow"] != marks(begun(config))["slow"]
    assert frozen.read(config.run_folder) == {f"{NAME}@{first}": first, f"{NAME}@main": second}


def test_a_revision_among_the_engine_arguments_is_the_one_that_is_loaded(web: FakeHub, tmp_path: Path) -> None:
    first, _ = web.push(NAME, TEACHER), web.push(NAME, TEACHER | {"README.md": b"Edited."})
    kwargs = f"teachers.slow.engine.engine_kwargs.revision='{first}'"
    config = load(None, [f"run.storage_path={tmp_path}", f"teachers.slow.engine.model_source={NAME}", kwargs])
    assert begun(config).models["teachers.slow"] == f"{NAME}@{first}"


def test_what_is_loaded_are_the_files_of_the_commit(
    web: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"config.json": b'{"a": 1}', "tokenizer.json": b"{}", "model.safetensors": b"1", "pytorch_model.bin": b"1"}
    first = web.push(NAME, small | {"original/consolidated.pth": b"1"})
    web.push(NAME, small | {"config.json": b'{"a": 2}'})
    light = Path(local_copy(f"{NAME}@{first}"))
    assert json.loads((light / "config.json").read_text()) == {"a": 1}
    assert sorted(file.name for file in light.iterdir()) == ["config.json", "tokenizer.json"]
    every = Path(local_copy(f"{NAME}@{first}", weights=True, cache=str(tmp_path / "other"), every_format=True))
    assert every.is_relative_to(tmp_path / "other")
    assert (every / "pytorch_model.bin").exists()
    whole = Path(local_copy(f"{NAME}@{first}", weights=True))
    assert sorted(file.name for file in whole.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert local_copy(NAME) == NAME

    with pytest.raises(UserError, match="its files at commit ffff.* did not come: the hub has no "):
        local_copy(f"org/other@{'f' * 40}")
    forget()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert local_copy(f"{NAME}@{first}", weights=True) == str(whole), "what is here needs no hub"
    assert hub.commit_of(NAME) == first, "of a new run too: the newest copy is taken"


def test_a_tokenizer_of_the_hub_is_that_of_the_commit(web: FakeHub) -> None:
    from ray_distil.chat.tokenization import load_tokenizer

    first = web.push(NAME, TEACHER)
    changed = TEACHER["chat_template.jinja"].replace(b"assistant", b"model")
    assert changed != TEACHER["chat_template.jinja"]
    web.push(NAME, TEACHER | {"chat_template.jinja": changed})
    template = load_tokenizer(f"{NAME}@{first}").chat_template
    assert "assistant" in template
    assert "model" not in template


def test_two_revisions_of_one_model_are_refused(tmp_path: Path) -> None:
    overrides = [f"run.storage_path={tmp_path}", "evaluation.engine.engine_kwargs.revision=v2"]
    config = load(None, [*overrides, "evaluation.models.0.model_source=org/base@v1"])
    with pytest.raises(
        ConfigError, match="evaluation.models.0.model_source: 'org/base@v1' names a revision, and .* 'v2'"
    ):
        frozen.resolved(config)


def test_the_revision_of_the_evaluations_engine_is_that_of_its_models(web: FakeHub, tmp_path: Path) -> None:
    first, _ = web.push(NAME, TEACHER), web.push(NAME, TEACHER | {"README.md": b"Edited."})
    kwargs = f"evaluation.engine.engine_kwargs.revision='{first}'"
    config = load(None, [f"run.storage_path={tmp_path}", f"evaluation.models.0.model_source={NAME}", kwargs])
    assert begun(config).models["evaluation.models.0.model_source"] == f"{NAME}@{first}"


@pytest.mark.parametrize("name", ["org/na me", "@foo/bar", "org/a--b", "org/name@"])
def test_a_name_that_the_hub_cannot_have_is_one_line(name: str) -> None:
    with pytest.raises(ConfigError, match="k: there is no model folder"):
        resolve_model(name, "k")


def test_a_branch_may_have_a_slash(web: FakeHub) -> None:
    assert hub.is_hub_name("org/name@refs/pr/1")
    assert not hub.is_hub_name("a/b/name@refs/pr/1")


def test_a_path_with_the_mark_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "org" / f"name@{'a' * 40}"
    folder.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert not hub.is_at_commit(f"org/name@{'a' * 40}")
    assert hub.is_at_commit(f"org/name@{'b' * 40}")
    assert not hub.is_at_commit("org/name@main")


def test_an_endpoints_model_is_no_hub_model(tmp_path: Path) -> None:
    endpoint = "{base_url: http://x/v1, model: org/served, api_key_env: null}"
    config = load(
        None, [f"run.storage_path={tmp_path}", "teachers.slow.engine=null", f"teachers.slow.endpoint={endpoint}"]
    )
    models = resolve_models(config)
    assert models["teachers.slow"] == "org/served"
    assert frozen.freeze(config, models) == (models, {})
