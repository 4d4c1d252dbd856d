"""A student is tried before anything is paid for: its files against its class, a step, its export, vLLM's registry."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ray_distil.chat.auto_classes import AutoConfig
from ray_distil.chat.model_files import trust
from ray_distil.checks import engine_models, model_checks, preflight, trial_step, weight_files
from ray_distil.checks.model_checks import CheckedModel
from ray_distil.config import load
from ray_distil.config.engine_config import EngineConfig
from ray_distil.config.models import TINY_MODELS
from ray_distil.errors import StageError, UserError
from ray_distil.store.schemas import stable_id
from ray_distil.store.storage import Folder
from ray_distil.train.small_copies import small_copy, unreached
from ray_distil.train.student_engine import freeze_unreached, load_student
from tests.architectures import folder_of, verdict
from tests.object_store import ObjectStore, store_with_credentials

ROOT = Path(__file__).resolve().parents[2]
STUDENT = TINY_MODELS / "student-base"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "a" * 64 + "\nsize 3585672\n"
WEIGHTS, PICKLE, INDEX = "model.safetensors", "pytorch_model.bin", "model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(STUDENT, tmp_path / "student"))


def write(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS, {"format": "pt"})


def settings(folder: Path, **values: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def shards(folder: Path, num_written: int, index: bool) -> None:
    """The weights in two files, of which `num_written` are there, with or without their index."""
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = sorted(tensors)
    files = {name: f"model-0000{1 + (k >= len(names) // 2)}-of-00002.safetensors" for k, name in enumerate(names)}
    for file in sorted(set(files.values()))[:num_written]:
        own = {name: tensors[name] for name in names if files[name] == file}
        save_file(own, folder / file, {"format": "pt"})
    if index:
        (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))


def half(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    write(folder, {name: tensors[name] for name in sorted(tensors)[: len(tensors) // 2]})


def other_prefix(folder: Path) -> None:
    write(folder, {f"base_model.model.{name}": tensor for name, tensor in load_file(folder / WEIGHTS).items()})


def adapter(folder: Path, alone: bool) -> None:
    if alone:
        (folder / WEIGHTS).unlink()
    save_file({"base_model.model.x.lora_A.weight": torch.zeros(2, 2)}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')


def pickled(folder: Path, **options: Any) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / PICKLE, **options)
    (folder / WEIGHTS).unlink()


def pointer(folder: Path, name: str) -> None:
    (folder / WEIGHTS).unlink()
    (folder / name).write_text(POINTER)


def wrong(folder: Path) -> str:
    """What the checks say of a student's files, as preflight asks them."""
    try:
        return (
            "\n".join(weight_files.wrong_files(str(folder), trained=True))
            or weight_files.wrong_student(str(folder))
            or ""
        )
    except UserError as error:
        return str(error)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (half, "its files lack 25 of its tensors: model.layers.2.input_layernorm"),
        (other_prefix, "; the files have base_model.model."),
        (lambda f: settings(f, num_hidden_layers=5, layer_types=["full_attention"] * 5), "model.layers.4."),
        (lambda f: settings(f, hidden_size=64), "another shape than config.json says: model.embed_tokens.weight has (832, "),
        (lambda f: shards(f, 1, index=True), "names model-00002-of-00002.safetensors, and there is no such file"),
        (lambda f: shards(f, 2, index=False), "Transformers loads model.safetensors, "),
        (lambda f: adapter(f, alone=True), "only an adapter (adapter_config.json); merge it into its model"),
        (lambda f: adapter(f, alone=False), "adapter_config.json lies beside its weights"),
        (lambda f: pointer(f, WEIGHTS), "is a pointer of Git LFS, and no weights; run `git lfs pull`"),
        (lambda f: pointer(f, PICKLE), "is a pointer of Git LFS, and no weights; run `git lfs pull`"),
        (lambda f: ((f / WEIGHTS).unlink(), torch.save({}, f / "training_args.bin")), "Transformers loads model.safetensors"),
        (lambda f: settings(f, quantization_config={"quant_method": "gptq", "bits": 4}), "its weights are quantised (gptq)"),
        (lambda f: settings(f, quantization_config={"quant_method": "mxfp4"}), "its weights are quantised (mxfp4)"),
        (lambda f: (f / WEIGHTS).write_bytes(b"{}" * 40), "is no whole file of weights"),
        (lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-9]), "is no whole file of weights (3,"),
    ],
)  # fmt: skip
def test_weights_that_are_not_there_are_told(change: Callable[[Path], Any], says: str, folder: Path) -> None:
    change(folder)
    assert says in wrong(folder)


def index_of_absent_files(folder: Path, name: str) -> None:
    """As in a copy of a hub's model without its pickles."""
    (folder / name).write_text('{"metadata": {}, "weight_map": {"model.norm.weight": "absent-00001-of-00002.bin"}}')


def extra(folder: Path) -> None:
    """A tensor that no class has, as the layers for several tokens at once (mtp) of published models."""
    write(folder, load_file(folder / WEIGHTS) | {"model.mtp.0.weight": torch.zeros(2, 2)})


def head_written(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    write(folder, tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()})


@pytest.mark.parametrize(
    "change",
    [
        lambda f: None,
        lambda f: shards(f, 2, index=True),
        pickled,
        extra,
        head_written,  # tied, and written twice
        lambda f: settings(f, quantization_config=None),
        lambda f: index_of_absent_files(f, f"{PICKLE}.index.json"),
        lambda f: index_of_absent_files(f, "consolidated.safetensors.index.json"),
        lambda f: index_of_absent_files(f, f"{WEIGHTS}.index.json"),
        lambda f: pickled(f, _use_new_zipfile_serialization=False),
        # A class of Transformers is taken before one of the repository.
        lambda f: settings(f, auto_map={"AutoConfig": "absent.Config"}),
        lambda f: (f / "optimizer.bin").write_bytes(b"not of the model"),
        lambda f: write(f, {name: tensor.half() for name, tensor in load_file(f / WEIGHTS).items()}),
    ],
)
def test_whole_files_pass(change: Callable[[Path], Any], folder: Path) -> None:
    change(folder)
    trust(str(folder), {"trust_remote_code": True})  # of an engine that asks the same model
    assert wrong(folder) == ""


def test_an_expert_that_is_not_there_is_told(tmp_path: Path) -> None:
    """Transformers makes one tensor of all experts."""
    small_copy(AutoConfig.for_model("qwen3_moe"), "sdpa").save_pretrained(tmp_path)
    assert weight_files.wrong_student(str(tmp_path)) == ""
    tensors = load_file(tmp_path / WEIGHTS)
    del tensors[next(name for name in tensors if ".experts.1.up_proj" in name)]
    write(tmp_path, tensors)
    assert "cannot put its tensors together" in weight_files.wrong_student(str(tmp_path))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with store_with_credentials(tmp_path_factory.mktemp("s3") / "log") as store:
        yield store


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda f: None, ""),
        (lambda f: shards(f, 2, index=True), ""),
        (lambda f: shards(f, 1, index=True), "there is no such file; copy the whole model"),
        (lambda f: pointer(f, WEIGHTS), "is a pointer of Git LFS"),
        (lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-9]), "is no whole file of weights"),
    ],
)
def test_a_model_in_an_object_store_is_checked_too(
    change: Callable[[Path], Any], says: str, folder: Path, store: ObjectStore, request: pytest.FixtureRequest
) -> None:
    change(folder)
    uri = store.uri(stable_id(request.node.name))
    for file in folder.iterdir():
        Folder(uri).write_bytes(file.name, file.read_bytes())
    for engine in (None, EngineConfig(model_source=uri)):
        findings = list(model_checks.weights(CheckedModel("training.student", uri, engine=engine)))
        assert len(findings) == bool(says)
        assert says in "".join(finding.text for finding in findings)


def test_an_engine_reads_what_its_index_names(folder: Path) -> None:
    index_of_absent_files(folder, f"{PICKLE}.index.json")
    assert list(weight_files.wrong_files(str(folder))) == []
    index_of_absent_files(folder, f"{WEIGHTS}.index.json")  # vLLM leaves out all files that it does not name
    assert "names absent-00001-of-00002.bin" in next(weight_files.wrong_files(str(folder)))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda f: settings(f, quantization_config={}), "has no `quant_method` attribute"),
        (lambda f: (shards(f, 2, index=True), (f / INDEX).write_text('{"weight_map": {"x": "y"}}')), "no index of weights ('metadata')"),
    ],
)  # fmt: skip
def test_what_transformers_refuses_ends_with_a_line(change: Callable[[Path], Any], says: str, folder: Path) -> None:
    change(folder)
    training = load(None, []).training
    assert training is not None
    (finding,) = preflight._not_loaded(str(folder), training)
    assert finding.is_error
    assert says in finding.text


def test_a_training_ends_where_a_weight_would_be_random(folder: Path) -> None:
    """Where the check could not see the files, as those of a hub that did not answer."""
    training = load(None, [f"training.student={folder}"]).training
    assert training is not None
    assert load_student(training, {}, seed=0) is not None
    half(folder)
    with pytest.raises(StageError, match=r"lack weights of it: model.layers.2.input_layernorm"):
        load_student(training, {}, seed=0)


@pytest.mark.parametrize(
    ("model_type", "way", "says"),
    [
        ("qwen3_moe", "varlen", "trained"),
        ("mistral3", "varlen", "trained"),
        ("gemma3", "varlen", "trained"),
        ("qwen2_5_vl", "varlen", "trained"),
        ("afmoe", "varlen", "trained"),
        ("qwen3_5", "varlen", "; set packing.enabled=false and training.attn_implementation=sdpa, or train another"),
        ("qwen3_5", "sdpa", "refused: packed examples see each other"),
        ("qwen3_5", "sdpa alone", "trained"),
        ("gpt_oss", "varlen", "set packing.enabled=false and training.attn_implementation=eager"),
        ("gpt_oss", "sdpa alone", "set training.attn_implementation=eager"),
        ("gpt_oss", "eager alone", "trained"),
        ("gemma3n", "varlen", "refused: its architecture needs a package that is not installed (TimmWrapperModel"),
        ("stablelm", "varlen", "set training.attn_implementation=sdpa"),
    ],
)
def test_an_architecture_is_trained_or_refused_with_a_remedy(
    model_type: str, way: str, says: str, tmp_path: Path
) -> None:
    assert says in verdict(folder_of(model_type, tmp_path), way)


def test_an_architecture_without_a_class_for_texts_is_refused(tmp_path: Path) -> None:
    AutoConfig.for_model("clip").save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"its architecture \(clip\) has no class of Transformers that generates text"):
        weight_files.wrong_student(shutil.copy(STUDENT / WEIGHTS, tmp_path) and str(tmp_path))


def test_parts_that_a_text_does_not_reach_are_frozen() -> None:
    config = AutoConfig.for_model("mistral3")
    assert unreached(config) == ["model.vision_tower", "model.multi_modal_projector"]
    model = small_copy(config, "sdpa")
    freeze_unreached(model)
    frozen = {name.split(".")[1] for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {"vision_tower", "multi_modal_projector"}
    assert unreached(AutoConfig.for_model("qwen3_moe")) == []  # experts that no token has chosen stay


def test_a_plan_that_tries_a_student_prints_nothing_of_libraries() -> None:
    """In a process of its own: DeepSpeed and Transformers warn once a process."""
    code = """if True:
        from ray_distil.checks import preflight
        from ray_distil.config import load
        print(preflight.check_plan(load(None, ["training.gradient_checkpointing=true"]), None))
    """
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (ended.stdout, ended.stderr) == ("[]\n", "")


def test_an_export_that_loses_a_weight_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    training = load(None, []).training
    assert training is not None
    assert trial_step.wrong_step(str(STUDENT), training, together=True) == ""
    export = trial_step.export_student

    def without_a_norm(engine: Any, *arguments: Any, **options: Any) -> Path:
        written = export(engine, *arguments, **options)
        tensors = load_file(written / WEIGHTS)
        del tensors["model.norm.weight"]
        write(written, tensors)
        return written

    monkeypatch.setattr(trial_step, "export_student", without_a_norm)
    assert "its export lacks model.norm.weight" in trial_step.wrong_step(str(STUDENT), training, together=True)


def test_a_model_that_no_engine_can_load_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def told(**arguments: Any) -> list[tuple[str, str]]:
        return list(engine_models.wrong_model(str(folder), EngineConfig(model_source="x", engine_kwargs=arguments)))

    assert told() == []
    assert told(tensor_parallel_size=2) == []
    ((key, text),) = told(tensor_parallel_size=3)
    assert (key, text) == ("tensor_parallel_size", "3 parts of its 4 attention heads are not equal; give a divisor")
    settings(folder, architectures=["DogeForCausalLM"])  # not vLLM's own, and Transformers' can be used
    assert told() == []
    settings(folder, architectures=["OfTomorrowForCausalLM"])
    assert told()[0][1].startswith("vLLM has no class for OfTomorrowForCausalLM; give another model")
    assert told(trust_remote_code=True) == []
    settings(folder, architectures="OfTomorrowForCausalLM")
    assert "no class for OfTomorrowForCausalLM;" in told()[0][1]
    plugin = EntryPoint("tomorrow", "of_tomorrow:register", "vllm.general_plugins")
    monkeypatch.setattr(engine_models, "entry_points", lambda group: [plugin])
    assert told() == []
