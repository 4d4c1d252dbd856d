"""Calls, options and names that programs and scripts of users rely on: what is listed here stays, more may come."""

import inspect
import re
from dataclasses import fields
from importlib import import_module
from typing import Any

import pytest

import ray_distil
from ray_distil import errors
from ray_distil.commands.main import COMMANDS
from ray_distil.commands.plan import Step
from ray_distil.config import DistillConfig

CALLS: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("load_config", (), {}),
    ("load_config", ("tiny", ["run.name=first"]), {}),
    ("load_config", (), {"path": "tiny", "overrides": []}),
    ("make_plan", ("config",), {}),
    ("run_pipeline", ("config",), {}),
    ("run_pipeline", (), {"config": "config", "display": None}),
    ("read_report", ("runs/first",), {}),
    ("read_rows", ("runs/first", "responses"), {}),
    ("read_rows", ("runs/first", "responses", ["response"]), {"rejects": True}),
    ("read_rows", (), {"run": "runs/first", "artifact": "packed", "columns": None}),
]
OPTIONS = {
    "distill": "--config --plan --status --remake --retry-failed",
    "eval": "--config --models --benchmarks --baseline --samples --limit --max-tokens --timed --api-key-env --plan "
    "--status --remake --retry-failed",
    "ablate": "--config --without --seeds --remake --retry-failed",
    "report": "--output",
    "export": "--artifact --hub --license --push --public",
    "clean": "--yes",
    "download": "--from --to",
    "infer": "--config",
    "train": "--config",
}
SECTIONS = "run ray instructions teachers long2short gates curation packing training evaluation plan"


@pytest.mark.parametrize(("name", "arguments", "options"), CALLS)
def test_these_calls_are_understood(name: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
    inspect.signature(getattr(ray_distil, name)).bind(*arguments, **options)


def test_each_argument_of_an_api_function_has_a_call_here() -> None:
    """A new argument joins CALLS: from then on it stays."""
    for name in {name for name, _, _ in CALLS}:
        signature = inspect.signature(getattr(ray_distil, name))
        used = {
            key for call, args, options in CALLS if call == name for key in signature.bind(*args, **options).arguments
        }
        assert used == set(signature.parameters), name


@pytest.mark.parametrize("command", OPTIONS)
def test_these_options_are_there(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = import_module(f"ray_distil.commands.{COMMANDS[command].module}")
    with pytest.raises(SystemExit):
        getattr(module, COMMANDS[command].function)(["--help"])
    offered = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", capsys.readouterr().out)) - {"--help"}
    assert set(OPTIONS[command].split()) <= offered


def test_the_commands_are_there() -> None:
    assert {*OPTIONS, "plan", "status"} <= set(COMMANDS)


def test_results_have_these_fields() -> None:
    assert {"models", "stages", "baseline", "student"} <= {field.name for field in fields(ray_distil.Report)}
    assert {"steps", "remarks"} <= {field.name for field in fields(ray_distil.Plan)}
    assert {"name", "rows", "tokens", "seconds", "dollars", "size"} <= {field.name for field in fields(Step)}
    assert set(SECTIONS.split()) <= set(DistillConfig.model_fields)


def test_errors_are_caught_by_these_classes() -> None:
    assert issubclass(ray_distil.UserError, ray_distil.DistilError)
    assert issubclass(ray_distil.StageError, ray_distil.DistilError)
    assert issubclass(errors.ConfigError, ray_distil.UserError)
    of_the_package = [
        cls for _, cls in inspect.getmembers(errors, inspect.isclass) if cls.__module__ == errors.__name__
    ]
    assert all(issubclass(cls, ray_distil.DistilError) for cls in of_the_package)
