"""Each command that cluster/ gives to Ray starts in what the image holds, with the problems in a bucket."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from ray_distil.chat.auto_classes import AutoConfig
from ray_distil.config.models import TINY_MODELS
from ray_distil.store.storage import Folder
from ray_distil.train.small_copies import without_weights
from tests.fake_hub import FakeHub, header
from tests.integration.conftest import ROOT
from tests.object_store import BUCKET, CREDENTIALS, ObjectStore

CLUSTER = ROOT / "cluster"
FILES = ("instructions.jsonl", "aime2024.jsonl")  # as the README has them put into the bucket


def commands() -> list[str]:
    """The entrypoint of the RayJob, and all that the README submits; each once. Of gs:// there is no server here."""
    entrypoint = yaml.safe_load((CLUSTER / "kuberay" / "rayjob.yaml").read_text())["spec"]["entrypoint"]
    text = re.sub(r"\\\n\s*", "", (CLUSTER / "README.md").read_text())
    submitted = re.findall(r"ray job submit .* -- (python .*)", text)
    assert len(submitted) == text.count("ray job submit --address http://127.0.0.1:8265 -- ") == 4
    found = {
        re.sub(r"\$?\bBUCKET\b", BUCKET, command).replace("gs://", "s3://") for command in [entrypoint, *submitted]
    }
    return sorted({shlex.join(sorted(shlex.split(command)[2:])): command for command in found}.values())


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the Dockerfile copies."""
    folder = tmp_path_factory.mktemp("image")
    docker = (CLUSTER / "Dockerfile").read_text()
    for line in re.findall(r"^COPY --chown=\S+ (.+)$", docker, re.MULTILINE):
        for source in line.split()[:-1]:
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, folder / source, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / source, folder)
    return folder


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    """A Hugging Face hub that has every model: a small one with the tiny tokenizer, as many heads as tensor parallel engines
    need, and long positions.
    """
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 832}
    heads = {"num_attention_heads": 16, "num_key_value_heads": 8, "max_position_embeddings": 200_000}
    config = AutoConfig.for_model("qwen2", architectures=["Qwen2ForCausalLM"], **sizes, **heads)
    student = TINY_MODELS / "student-base"
    files = {
        name: (student / name).read_bytes()
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
    }
    files["config.json"] = config.to_json_string().encode()
    shapes = {name: tensor.shape for name, tensor in without_weights(config).state_dict().items()}
    with FakeHub(files | {"model.safetensors": header(shapes)}) as served:
        yield served.url


@pytest.fixture(scope="module")
def environment(hub: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """That of a node: a bucket with the problems, a hub, the secrets that the README asks for."""
    readme = (CLUSTER / "README.md").read_text()
    assert all(name in readme for name in ("DEEPSEEK_API_KEY", "AWS_ENDPOINT_URL"))
    assert f"aws s3 cp {FILES[0]} s3://$BUCKET/ && aws s3 cp {FILES[1]} s3://$BUCKET/" in readme
    problems = [{"instruction": f"{k} + 1?", "answer": str(k + 1)} for k in range(40)]
    with pytest.MonkeyPatch.context() as own, ObjectStore(tmp_path_factory.mktemp("s3") / "log") as store:
        for name, value in CREDENTIALS.items():
            own.setenv(name, value)
        for name, rows in zip(FILES, (problems[:30], problems[30:]), strict=True):
            Folder.at(store.uri("")).write_text(name, "\n".join(map(json.dumps, rows)))
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        endpoint = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{store.port}", "AWS_REGION": "us-east-1"}
        # On a cluster, whose GPUs may come: a Ray of this machine would be refused for them. It is not reached here.
        yield (
            kept
            | endpoint
            | {
                "HF_ENDPOINT": hub,
                "HF_HOME": str(tmp_path_factory.mktemp("hub")),
                "DEEPSEEK_API_KEY": "k",
                "RAY_ADDRESS": "127.0.0.1:1",
            }
        )


@pytest.mark.parametrize("command", commands())
def test_a_command_starts_in_the_image(command: str, image: Path, environment: dict[str, str]) -> None:
    program, *arguments = shlex.split(command)
    assert program == "python"
    job = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=image,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert job.stdout is not None
    said = []
    for line in job.stdout:  # to where the first stage that costs something begins
        said.append(line)
        if re.match(r"responses +started", line):
            break
    job.send_signal(signal.SIGINT)
    said.append(job.communicate(timeout=60)[0])
    assert job.returncode == 130, "".join(said)
    assert re.search(r"^instructions .*: [\d,]+ in, [\d,]+ out, 0 rejected", "".join(said), re.MULTILINE), said
