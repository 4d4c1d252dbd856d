"""`ray-distil COMMAND`, the scripts of jobs/, and the package where it is installed without a checkout."""

import os
import re
import subprocess
import sys
import zipfile
from importlib import import_module
from pathlib import Path

import pytest

from ray_distil.commands import cli, distill, main
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
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=600, check=False, env=environment)


def test_each_command_has_a_script_that_calls_the_same_function() -> None:
    assert {path.stem for path in (ROOT / "jobs").glob("*.py")} == SCRIPTS
    for name in SCRIPTS:
        text = (ROOT / "jobs" / f"{name}.py").read_text()
        assert f"{main.COMMANDS[name].module}.{main.COMMANDS[name].function}()" in text
        assert f"python jobs/{name}.py" in text


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_help_shows_the_command_as_it_was_started(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = {}
    module = import_module(f"ray_distil.commands.{main.COMMANDS[name].module}")
    for started, program in ((f"python jobs/{name}.py", f"jobs/{name}.py"), (f"ray-distil {name}", "bin/ray-distil")):
        monkeypatch.setattr(sys, "argv", [program])
        with pytest.raises(SystemExit) as ended:
            getattr(module, main.COMMANDS[name].function)(["--help"])
        assert ended.value.code == 0
        shown[started] = capsys.readouterr().out
        assert f"usage: {started}" in shown[started]
    script, console = shown.values()
    assert "ray-distil" not in script
    assert "jobs/" not in console
    words = [re.sub(r"python jobs/\w+\.py|ray-distil \w+|\s+", " ", text).split() for text in (script, console)]
    assert words[0] == words[1]


def test_a_script_runs_from_any_folder(tmp_path: Path) -> None:
    line = [sys.executable, str(ROOT / "jobs" / "export.py"), "runs/none", "x.json"]
    result = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 2
    assert "there is no run folder" in result.stderr


def test_the_usage_lists_the_commands_and_a_wrong_name_is_told() -> None:
    assert all(name in command("--help").stdout for name in main.COMMANDS)
    wrong = command("distil", "--plan")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "no command 'distil'; did you mean 'distill'?" in wrong.stderr
    assert command("--version").stdout.startswith("ray-distil 0.")


@pytest.mark.parametrize(
    ("arguments", "passed"),
    [
        (["plan", "--config", "x"], ["--plan", "--config", "x"]),
        (["--plan", "run.name=x"], ["--plan", "run.name=x"]),
        (["run.name=x", "--plan"], ["run.name=x", "--plan"]),
        (["status", "runs/x"], ["--status", "runs/x"]),
        (["distill"], []),
        (["status", "--help"], ["--help"]),
    ],
)
def test_words_reach_the_command(monkeypatch: pytest.MonkeyPatch, arguments: list[str], passed: list[str]) -> None:
    calls = []
    monkeypatch.setattr(distill, "main", lambda argv: calls.append(argv) or 0)
    monkeypatch.setattr(sys, "argv", ["ray-distil", *arguments])
    assert main.main() == 0
    assert calls == [passed]


@pytest.mark.parametrize(
    "arguments",
    [
        ["run.name=a", "--remake", "training=null", "--config", "tiny"],
        ["--config", "tiny", "run.name=a", "training=null", "--remake"],
        ["run.name=a", "training=null", "--remake", "--config=tiny"],
    ],
)
def test_options_stand_anywhere_among_the_keys(arguments: list[str]) -> None:
    parsed = cli.ConfigParser("distill", None).parse_args(arguments)
    assert parsed.overrides == ["run.name=a", "training=null", "run.remake=true"]
    assert parsed.config == "tiny"


def test_a_recipe_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    result = command("plan", "--config", "one-gpus", folder=tmp_path)
    assert result.returncode == 2
    assert "one-gpus: cannot be read" in result.stderr
    assert "distilqwen2.5-0324-7b" in result.stderr
    assert "one-gpu" in result.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_console_that_lacks_characters_shows_the_others(encoding: str) -> None:
    result = command("plan", environment={"PYTHONIOENCODING": encoding})
    assert (result.returncode, result.stderr) == (0, "")
    assert "instructions           2,300              ?" in result.stdout


def test_names_with_brackets_and_colons_are_shown_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "my[bold]:smile:.jsonl").write_text('{"instruction": "2 + 3?"}\n{"instruction": "3 + 3?"}\n')
    result = command("plan", "instructions.path='my[bold]:smile:.jsonl'", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "'my[bold]:smile:.jsonl': 2 records" in result.stdout


@pytest.mark.parametrize("arguments", [["export", "file", "x.json"], ["clean", "file"], ["report", "file", "file"]])
def test_a_file_is_no_run(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    result = command(*arguments, folder=tmp_path)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert "which is a file; a run lives in STORAGE_PATH/NAME" in result.stderr


def test_the_recipes_own_files_are_found_by_their_names(tmp_path: Path) -> None:
    result = command("infer", "--config=distilqwen2.5-0324_stage1.json", folder=tmp_path)
    assert result.returncode == 2
    assert "dataset.input_path: there is no file './raw.json'" in result.stderr


def test_a_file_of_compared_models_is_for_another_command(tmp_path: Path) -> None:
    result = command("plan", "--config", "eval/cpu", folder=tmp_path)
    assert result.returncode == 2
    assert "models alone are compared by: ray-distil eval --config eval/cpu" in result.stderr
    assert "a configuration is whole: copy a recipe, such as" in result.stderr
    assert "models alone" not in command("plan", "training.student=x", "teachers.x=1", folder=tmp_path).stderr


def test_eval_names_its_own_option(tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text('{"instruction": "2 + 3?", "answer": "5"}\n')
    options = ["--benchmarks", "mine=mine.jsonl", "--models", "slow=tiny:student-slow", "--plan"]
    result = command("eval", *options, folder=tmp_path)
    assert result.returncode == 2
    assert "error: --max-tokens (evaluation.sampling_params.max_tokens): 4,096 and a prompt of" in result.stderr
    assert command("eval", *options, "--max-tokens", "600", folder=tmp_path).returncode == 0


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
    assert "rewrites" in plan.stdout
    program = (
        f"{check}; from ray_distil import load_config; print(load_config().run.name, load_config('one-gpu').run.name)"
    )
    line = [sys.executable, "-c", program]
    loaded = subprocess.run(line, cwd=elsewhere, capture_output=True, text=True, env=os.environ | path, check=False)
    assert loaded.stdout == "tiny one-gpu\n", loaded.stderr
    assert (installed / "ray_distil" / "recipes" / "eval" / "cpu.yaml").is_file()
