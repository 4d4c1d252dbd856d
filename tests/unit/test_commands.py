"""`ray-distil COMMAND`, the scripts of jobs/, and the package where it is installed without a checkout."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from ray_distil.commands import main
from tests.unit.test_layout import ROOT

SCRIPTS = {name for name in main.COMMANDS if name not in ("plan", "status")}


def command(
    *arguments: str, folder: Path = ROOT, before: str = "", environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """`ray-distil` with these arguments, in a process of its own."""
    code = (
        f"{before}\nimport sys; from ray_distil.commands import main; sys.argv[0] = 'ray-distil'; sys.exit(main.main())"
    )
    environment = os.environ | {"HF_HUB_OFFLINE": "1"} | (environment or {})
    line = [sys.executable, "-c", code, *arguments]
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=120, check=False, env=environment)


def test_each_command_has_a_script_that_calls_the_same_function() -> None:
    assert {path.stem for path in (ROOT / "jobs").glob("*.py")} == SCRIPTS
    for name in SCRIPTS:
        text = (ROOT / "jobs" / f"{name}.py").read_text()
        assert f"{main.COMMANDS[name].module}.main()" in text
        assert f"python jobs/{name}.py" in text


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_help_shows_the_command_as_it_was_started(name: str) -> None:
    script = subprocess.run([sys.executable, f"jobs/{name}.py", "--help"], cwd=ROOT, capture_output=True, text=True)
    console = command(name, "--help")
    assert script.returncode == console.returncode == 0, script.stderr + console.stderr
    assert f"usage: python jobs/{name}.py" in script.stdout
    assert f"usage: ray-distil {name}" in console.stdout
    assert "ray-distil" not in script.stdout
    assert "jobs/" not in console.stdout
    words = [
        re.sub(r"python jobs/\w+\.py|ray-distil \w+|\s+", " ", out).split() for out in (script.stdout, console.stdout)
    ]
    assert words[0] == words[1]


def test_the_usage_lists_the_commands_and_a_wrong_name_is_told() -> None:
    assert all(name in command("--help").stdout for name in main.COMMANDS)
    wrong = command("distil", "--plan")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "no command 'distil'; did you mean 'distill'?" in wrong.stderr
    assert command("--version").stdout.startswith("ray-distil 0.")


@pytest.mark.parametrize("arguments", [["plan"], ["--plan"], ["distill", "--plan"], ["plan", "--config", "tiny"]])
def test_a_plan_from_any_folder(arguments: list[str], tmp_path: Path) -> None:
    result = command(*arguments, "instructions.num_eval=7", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "long2short" in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    result = command("plan", "--config", "one-gpus", folder=tmp_path)
    assert result.returncode == 2
    assert "one-gpus: cannot be read" in result.stderr
    assert "distilqwen2.5-0324-7b" in result.stderr
    assert "one-gpu" in result.stderr


def test_status_of_a_run_that_is_not_there(tmp_path: Path) -> None:
    result = command("status", "runs/none", folder=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert "there is no run folder" in result.stderr


def test_the_wheel_works_from_another_folder(tmp_path: Path) -> None:
    """Built and unpacked: its own recipes, models and pages, without a checkout."""
    source = tmp_path / "source"
    source.mkdir()
    tracked = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "ray_distil", "pyproject.toml", "README.md", "LICENSE"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    names = tracked.stdout.split() or [
        str(path.relative_to(ROOT)) for path in (ROOT / "ray_distil").rglob("*") if path.is_file()
    ] + ["pyproject.toml", "README.md", "LICENSE"]
    for name in names:
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), "."]
    built = subprocess.run(build, cwd=source, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as file:
        file.extractall(installed)
    assert (
        "ray-distil = ray_distil.commands.main:main"
        in (next(installed.glob("*.dist-info")) / "entry_points.txt").read_text()
    )

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    path = {"PYTHONPATH": str(installed)}
    check = f"import ray_distil; assert ray_distil.__file__.startswith({str(installed)!r}), ray_distil.__file__"
    plan = command("--plan", folder=elsewhere, before=check, environment=path)
    assert plan.returncode == 0, plan.stderr
    assert "long2short" in plan.stdout
    program = (
        f"{check}; from ray_distil import load_config; print(load_config().run.name, load_config('one-gpu').run.name)"
    )
    line = [sys.executable, "-c", program]
    loaded = subprocess.run(line, cwd=elsewhere, capture_output=True, text=True, env=os.environ | path, check=False)
    assert loaded.stdout == "tiny one-gpu\n", loaded.stderr
    evaluation = command("eval", "--plan", "--models", "tiny:student-base", folder=elsewhere, environment=path)
    assert evaluation.returncode == 0, evaluation.stderr
