"""The environments for CPUs and for GPUs: neither is installed over the other, and a wrong torch is told in a line."""

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


def make(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """`make` in a folder with this Makefile, as from a shell. No Python is there that could install anything."""
    command = ["make", "PYTHON=false", *arguments]
    shell = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}  # not `make test`'s own
    return subprocess.run(command, cwd=folder, env=shell, capture_output=True, text=True, check=False)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in ("Makefile", "requirements-cpu.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv").mkdir()
    return tmp_path


def test_a_gpu_environment_is_used_while_it_is_fresh(checkout: Path) -> None:
    (checkout / ".venv" / ".gpu").touch()
    (checkout / ".venv" / ".ready").touch()
    assert make(checkout, "-q", "setup").returncode == 0


@pytest.mark.parametrize("is_old", [True, False])  # else its installation was broken off
def test_the_cpu_environment_is_not_installed_over_a_gpu_one(is_old: bool, checkout: Path) -> None:
    (checkout / ".venv" / ".gpu").touch()
    if is_old:
        (checkout / ".venv" / ".ready").touch()
        os.utime(checkout / ".venv" / ".ready", (1, 1))
    ended = make(checkout, "setup")
    assert ended.returncode == 2
    assert ended.stdout == ".venv is a GPU environment: run make setup-gpu, or make clean for one for CPUs\n"
    assert "venv" in make(checkout, "-n", "setup-gpu").stdout


@pytest.mark.parametrize("file", ["Makefile", "cluster/Dockerfile"])
def test_what_installs_for_gpus_ends_with_a_line_where_torch_is_for_cpus(file: str) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    (code,) = re.findall(r'python -c "(.*torch\.version\.cuda.*)"', text)
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if torch.version.cuda is not None:
        assert ended.returncode == 0
    else:
        assert ended.returncode == 1
        assert ended.stderr.startswith(f"torch {torch.__version__} is no build for NVIDIA GPUs; ")
        assert len(ended.stderr.splitlines()) == 1
    assert re.search(r'\.\[gpu.*\]" torch===\d', text)


@pytest.mark.parametrize("name", ["torchvision", "torchaudio"])
def test_a_library_of_another_build_than_torch_is_told_in_a_line(name: str, tmp_path: Path) -> None:
    """A package whose import fails as torchvision for CUDA does beside a torch for CPUs."""
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text(f'raise RuntimeError("operator {name}::nms does not exist")\n')
    (tmp_path / f"{name}-0.28.0.dist-info").mkdir()
    (tmp_path / f"{name}-0.28.0.dist-info" / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.28.0\n"
    )
    paths = os.pathsep.join([str(tmp_path), str(ROOT)])
    ended = subprocess.run(
        [sys.executable, str(ROOT / "jobs" / "distill.py"), "--plan"],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    (line,) = ended.stderr.splitlines()
    assert ended.returncode == 2
    pair = (
        f"error: torch {version('torch')} and {name} 0.28.0 do not fit together (operator {name}::nms does not exist)"
    )
    assert line.startswith(f"{pair}; install them anew, of one build: `make setup-gpu`")


def test_variables_of_who_starts_the_tests_change_no_result(tmp_path: Path) -> None:
    """Colours, a narrow console, another cluster, no hub, and a temporary folder with a blank in its name."""
    variables = dict.fromkeys(("FORCE_COLOR", "TTY_COMPATIBLE"), "1") | {
        "COLUMNS": "37",
        "RAY_ADDRESS": "10.1.2.3:6379",
        "HF_HUB_OFFLINE": "1",
    }
    (tmp_path / "a blank").mkdir()
    environment = (
        os.environ | variables | {"TMPDIR": str(tmp_path / "a blank"), "TZ": "Pacific/Kiritimati", "LC_ALL": "C"}
    )
    tests = [
        "tests/unit/test_status.py::test_how_the_last_command_failed_is_shown_until_something_is_finished",
        "tests/unit/test_frozen.py::test_a_model_that_is_named_with_a_commit_is_that_commit",
    ]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stdout
