"""The house: imports go down only, light modules stay light, files stay small."""

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

from ray_distil.runner.stage import Stage
from ray_distil.store.schemas import ARTIFACTS

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "ray_distil"
# From the bottom; a module may import those of its own room and of rooms below.
ROOMS = [
    "errors", "version", "tiny", "drawing", "runtime", "store", "selection", "chat", "records", "judge", "config", "problems", "generate", "train", "evaluation", "report", "planning", "runner", "publication",
    "stages", "checks", "commands",
]  # fmt: skip
OF_STAGES = tuple(ARTIFACTS)
STAGES = {f"stages.{name}" for name in OF_STAGES}
# Modules of under 100 lines with a single importer, and why they are not part of it. Commands are each an entry.
SATELLITES = {
    "selection.candidates": "files on a disk, beside pure functions of columns",
    "selection.pass_rates": "pure functions of columns, beside a stage's class",
    "selection.tallies": "counts for a report, beside the choice itself",
    "records.held_out": "a rule of its own, by rows alone: which problems are held out",
    "records.problem_file": "all that lies in a temporary file, beside what is decided of its rows",
    "checks.checks_apart": "what a process of its own runs, whose memory goes with it",
    "checks.libraries": "imports what no other module may: libraries that fail where they do not fit torch",
    "checks.idle_settings": "remarks by the configuration alone, without a model or a file",
    "checks.training_memory": "arithmetic alone, which no other check needs",
    "checks.trial_step": "a step and an export, which no check of a file needs",
    "checks.resources": "asks Ray alone",
    "config.gates_config": "a section of the configuration a file",
    "generate.ray_llm": "loaded before vLLM could be: it hides vLLM from the driver",
    "generate.servers": "a rule of its own: which server gets the next request",
    "drawing.formulas": "the only module that makes HTML of what a model wrote",
    "publication.hub_folder": "a folder that is whole or not there, beside what is in it",
    "publication.hub_upload": "the only module that writes to a hub",
    "planning.plan_steps": "the arithmetic of a plan, without its checks",
    "runner.rejecting": "a way to write shards; its caller decides which rows",
    "runner.waiting": "asks Ray alone",
    "runtime.gpu_hours": "the only module that reads Ray's tables of actors and placement groups",
    "stages.benchmarks": "a stage a file",
    "train.repartition": "the only module that knows how DeepSpeed lays out a state",
}
MODULES = sorted(p for p in PACKAGE.rglob("*.py") if p.name != "__init__.py")


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def imported(path: Path) -> set[str]:
    """The modules of the package that a file imports, anywhere in it; a room's own names stand for the whole room."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ray_distil":
            inner = (node.module or "").removeprefix("ray_distil").lstrip(".")
            found |= {inner} if inner in NAMES else {f"{inner}.{a.name}".lstrip(".") for a in node.names}
    return {name for name in found if name in NAMES or name.split(".")[0] in ROOMS}


NAMES = {name_of(path) for path in MODULES}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_down_from_room_to_room(path: Path) -> None:
    name = name_of(path)
    room = name.split(".")[0]
    if name == "api":  # on top of all
        return
    assert room in ROOMS, f"{name} is in no room: {', '.join(ROOMS)}"
    for other in imported(path):
        above = ROOMS.index(other.split(".")[0]) > ROOMS.index(room)
        assert not above, f"{name} imports {other} from above"
        is_pair = {name, other} <= STAGES and (name, other) != ("stages.timing", "stages.eval")
        assert not is_pair, f"the stages {name} and {other} know each other"


def test_no_modules_import_each_other_in_circles() -> None:
    arrows = {name_of(path): imported(path) & NAMES for path in MODULES}
    tuple(TopologicalSorter(arrows).static_order())  # raises CycleError, which names them


def test_a_small_module_with_a_single_importer_has_a_reason() -> None:
    importers: dict[str, set[str]] = {name: set() for name in NAMES}
    for path in [*MODULES, PACKAGE / "__init__.py", *PACKAGE.glob("*/__init__.py")]:
        for name in imported(path) & NAMES:
            importers[name].add(name_of(path))
    small = {name_of(path) for path in MODULES if len(path.read_text().splitlines()) < 100}
    alone = {name for name in small if len(importers[name]) < 2 and not name.startswith(("commands.", "api"))}
    assert alone == set(SATELLITES)


@pytest.mark.parametrize("path", [*MODULES, *(ROOT / "jobs").glob("*.py")], ids=lambda p: p.name)
def test_functions_stay_small(path: Path) -> None:
    functions = [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert [f"{node.name} at {node.lineno}" for node in functions if (node.end_lineno or 0) - node.lineno >= 60] == []


def test_the_recipe_in_eighty_lines_has_them_and_no_machinery() -> None:
    path = ROOT / "examples" / "recipe_in_eighty_lines.py"
    assert len(path.read_text().splitlines()) <= 80
    rooms = {name.split(".")[0] for name in imported(path)} - {"chat", "judge", "tiny"}
    assert rooms == {"config"}  # which finds the tiny models
    assert not re.search(r"^\s*(import|from) ray\b", path.read_text(), re.MULTILINE)


@pytest.mark.parametrize("room", [room for room in ROOMS if (PACKAGE / room).is_dir()])
def test_rooms_stay_small(room: str) -> None:
    files = [path for path in MODULES if path.parent == PACKAGE / room]
    assert len(files) <= 15
    assert sum(len(path.read_text().splitlines()) for path in files) <= 2500


@pytest.mark.parametrize("path", [*MODULES, *(ROOT / "jobs").glob("*.py")], ids=lambda p: p.name)
def test_files_stay_small(path: Path) -> None:
    limit = 80 if path.parent.name == "jobs" else 350
    assert len(path.read_text().splitlines()) <= limit


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    """Modules that are imported one after the other, in one process: the first that brings a library is named."""
    modules = [
        "config",
        "store.schemas",
        "records.sources",
        "store.artifact",
        "stages.instructions",
        "stages",
        "report.report",
        "commands.plan",
        "commands.pipeline",
        "commands.export",
        "commands.status",
        "commands.clean",
        "commands.main",
        "api",
    ]
    code = f"""
import importlib, sys
for module in {modules}:
    importlib.import_module(f"ray_distil.{{module}}")
    if heavy := {{"ray", "torch", "vllm", "transformers", "deepspeed", "datasets"}} & set(sys.modules):
        sys.exit(f"{{module}}: {{heavy}}")
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_ray_data_llm_is_loaded_without_vllm_which_can_be_loaded_later() -> None:
    code = (
        "import sys, ray_distil.generate.ray_llm; from importlib.util import find_spec; "
        "print('ray.llm._internal.batch.stages.vllm_engine_stage' in sys.modules, "
        "'vllm' in sys.modules, find_spec('vllm') is not None)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "True False True"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_arrow_is_given_no_file_of_python(path: Path) -> None:
    """Its threads can hold it beyond the end of Python, and then abort the process (apache/arrow issue 50482)."""
    assert not re.search(r"\bPythonFile\b|\bPyFileSystem\b", path.read_text())


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_the_page_of_the_code_annotates_every_module(path: Path) -> None:
    page = (ROOT / "docs" / "code.md").read_text()
    room = path.parent.name
    section = page.split(f" {room}/\n")[1]
    assert re.search(rf"^ +{path.name} +\w", re.split(r"\n {4,6}\w+/", section)[0], re.MULTILINE)


@pytest.mark.parametrize("name", OF_STAGES)
def test_a_stage_has_one_name(name: str) -> None:
    """Of its file, its class and its artifact."""
    module = import_module(f"ray_distil.stages.{name}")
    cls = getattr(module, "".join(word.capitalize() for word in name.split("_")))
    assert issubclass(cls, Stage)
    assert getattr(cls, "artifact", name) == name
