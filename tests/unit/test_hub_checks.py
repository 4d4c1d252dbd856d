"""Models of the hub are checked like those in folders, on a machine that has none of their files; no weight is fetched."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from ray_distil.checks import preflight, weight_files
from ray_distil.commands import plan
from ray_distil.config import load
from ray_distil.config.models import TINY_MODELS
from ray_distil.errors import UserError
from ray_distil.generate import engine
from ray_distil.runner import frozen
from ray_distil.store import hub
from tests.fake_hub import FakeHub, header

SLOW, STUDENT = "org/teacher", "org/student"
WEIGHTS = "model.safetensors"


def files_of(tiny: str, **settings: Any) -> dict[str, bytes]:
    """The files of a tiny model, with changes in its config.json, and weights that are a header alone."""
    files = {file.name: file.read_bytes() for file in (TINY_MODELS / tiny).iterdir() if file.is_file()}
    files["config.json"] = json.dumps(json.loads(files["config.json"]) | settings).encode()
    return files | {WEIGHTS: header(shapes(TINY_MODELS / tiny / WEIGHTS))}


def shapes(file: Path, num_left_out: int = 0) -> dict[str, list[int]]:
    with safe_open(file, "pt") as opened:
        return {name: opened.get_slice(name).get_shape() for name in sorted(opened.keys())[num_left_out:]}


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, web: FakeHub) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setattr(engine, "unknown_arguments", lambda engines: [])
    web.push(SLOW, files_of("teacher-r1"))
    web.push(STUDENT, files_of("student-base"))


def check(folder: Path, *overrides: str) -> list[str]:
    models = [f"teachers.slow.engine.model_source={SLOW}", f"training.student={STUDENT}", "evaluation.models=[]"]
    config = load(None, [f"run.storage_path={folder}", *models, *overrides])
    try:
        return preflight.check(config, frozen.resolved(config)[0])
    finally:
        assert not list((folder / "cache").rglob("*.safetensors"))


def test_whole_models_pass(tmp_path: Path) -> None:
    assert check(tmp_path) == []


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["teachers.slow.engine.engine_kwargs.max_model_len=8000"], "max_model_len: 8,000, and the model reads 1,024"),
        (["teachers.slow.engine.engine_kwargs.tensor_parallel_size=3"], "tensor_parallel_size: 3 parts of its 4"),
        (["teachers.slow.sampling_params.max_tokens=100000"], "max_tokens: 100,000 and a prompt of"),
        (["training.lora={target_modules: [nonsense]}"], "training.lora.target_modules: 'nonsense' is no linear layer"),
        (["training.chat_template_kwargs={add_generation_promt: true}"], ""),
        (["training.attn_implementation=flash_attention_3"], "training.attn_implementation"),
    ],
)
def test_settings_that_cannot_be_right_are_told_without_a_cache(
    overrides: list[str], says: str, tmp_path: Path
) -> None:
    if not says:
        assert "does not look at 'add_generation_promt'" in check(tmp_path, *overrides)[0]
        return
    with pytest.raises(UserError) as told:
        check(tmp_path, *overrides)
    assert says in str(told.value)


def test_a_student_whose_files_or_class_are_not_right_is_told_without_a_cache(web: FakeHub, tmp_path: Path) -> None:
    web.push(
        "org/half", files_of("student-base") | {WEIGHTS: header(shapes(TINY_MODELS / "student-base" / WEIGHTS, 5))}
    )
    with pytest.raises(
        UserError, match=r"training.student: its files lack 6 of its tensors: lm_head.weight, model.embed_tokens.weight"
    ):
        check(tmp_path, "training.student=org/half")
    web.push("org/quantised", files_of("student-base", quantization_config={"quant_method": "awq"}))
    with pytest.raises(UserError, match=r"training.student: its weights are quantised \(awq\)"):
        check(tmp_path, "training.student=org/quantised")
    web.push("org/tomorrow", files_of("teacher-r1", architectures=["OfTomorrowForCausalLM"]))
    with pytest.raises(UserError, match=r"teachers.slow: vLLM has no class for OfTomorrowForCausalLM"):
        check(tmp_path, "teachers.slow.engine.model_source=org/tomorrow")


def test_weights_in_the_cache_are_read_there(web: FakeHub) -> None:
    """Where the hub is away, as on a cluster without a network."""
    whole = web.push(STUDENT, files_of("student-base"))
    half = web.push(
        "org/half", files_of("student-base") | {WEIGHTS: header(shapes(TINY_MODELS / "student-base" / WEIGHTS, 5))}
    )
    models = f"{STUDENT}@{whole}", f"org/half@{half}"
    for model in models:
        hub.snapshot(model, weights=True)
    hub.snapshot(models[0], weights=False)
    web.status = 403
    hub.snapshot.cache_clear()
    assert weight_files.wrong_student(models[0]) == ""
    assert "its files lack 6 of its tensors" in (weight_files.wrong_student(models[1]) or "")


def test_weights_that_the_hub_does_not_send_are_remarked(web: FakeHub, tmp_path: Path) -> None:
    files = files_of("student-base")
    web.push(STUDENT, {name: data for name, data in files.items() if name != WEIGHTS} | {"pytorch_model.bin": b""})
    (text,) = check(tmp_path)
    assert text.startswith("training.student: the names of its weights could not be read; if some are missing")


def test_a_hub_that_sends_no_file_is_told(web: FakeHub, tmp_path: Path) -> None:
    config = load(None, [f"run.storage_path={tmp_path}", f"training.student={STUDENT}"])
    models = frozen.resolved(config)[0]
    web.commits.clear()
    with pytest.raises(UserError, match=r"training.student: its files at commit .* did not come: the hub has no"):
        preflight.check(config, models)


def test_a_plan_tells_names_that_the_hub_does_not_know_from_a_hub_that_is_away(web: FakeHub, tmp_path: Path) -> None:
    def told(source: str) -> str:
        """Of a plan; an error behind "error: "."""
        overrides = [f"run.storage_path={tmp_path}", "evaluation.models=[]", f"training.student={STUDENT}"]
        try:
            remarks = preflight.check_plan(
                load(None, [*overrides, f"teachers.slow.engine.model_source={source}"]), None
            )
        except UserError as error:
            return f"error: {error}"
        return "\n".join(remarks)

    assert "not checked" not in told(SLOW)
    unknown = (
        "error: teachers.slow.engine.model_source: there is no model folder 'org/unknwon', and the hub has no model"
    )
    assert told("org/unknwon").startswith(f"{unknown} of the name org/unknwon; correct it, or set HF_TOKEN")
    assert "the hub has no revision v9 of org/teacher" in told(f"{SLOW}@v9")
    web.push("org/gated", files_of("teacher-r1"))
    web.gated.add("org/gated")
    assert told("org/gated").startswith("error: teachers.slow: ")
    assert "org/gated is gated: accept its licence on the hub's page of it, and set HF_TOKEN" in told("org/gated")
    web.status = 503
    assert (
        "not checked: files, chat template, tokenizer, context and class of org/new; the hub cannot be reached (HTTP 503)"
        in told("org/new")
    )


def test_a_plan_takes_the_size_of_a_student_from_the_hub(tmp_path: Path) -> None:
    tiny = plan.student_parameters(load(None))
    assert tiny is not None
    assert tiny > 500_000
    assert plan.student_parameters(load(None, [f"training.student={STUDENT}"])) == tiny
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
