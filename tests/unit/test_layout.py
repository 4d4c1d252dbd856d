"""The house: imports go down only, light modules stay light, files stay small."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "ray_distil"
LAYERS = [
    ["math_child", "math_process", "quantities", "spelling", "answers", "json_lists"],
    [
        "agreement",
        "results",
        "storage",
        "section",
        "engine_config",
        "evaluation_config",
        "plan_config",
        "training_config",
        "config",
        "schemas",
        "ids",
        "progress",
        "tiny.world",
    ],
    [
        "prompts",
        "choices",
        "reasoning",
        "conversations",
        "files",
        "sources",
        "attention",
        "small_copies",
        "deepspeed_config",
        "throughput",
        "repartition",
        "sequence_file",
        "session",
        "model_files",
        "models",
        "metrics",
        "manifest",
        "rate_limits",
        "tiny.muon",
    ],
    ["chat_templates", "replies", "tokenization", "tiny.texts", "tiny.tokenizer", "tiny.examples"],
    [
        "scores",
        "scorers",
        "gates",
        "blocks",
        "shards",
        "reuse",
        "watchdog",
        "suspects",
        "problems",
        "generation",
        "engine",
        "endpoint",
        "checkpoint",
        "follow",
        "failures",
        "states",
        "step_log",
    ],
    ["batches", "held_out", "loss"],
    ["instructions", "teacher", "long2short", "curation", "packing", "sft", "evaluation"],
    ["leaks", "waiting", "runs", "benchmarks"],
    ["resources", "preflight"],
    ["asking", "importing", "made_of"],
    ["stages", "comparing"],
    ["figures", "plan", "excerpts", "export", "benchmark_tables"],
    ["pictures"],
    ["report", "report_page"],
    ["pipeline", "published", "standalone", "cli", "config_reference", "tiny.answers", "tiny.train"],
    ["api"],
]
LAYER = {name: level for level, names in enumerate(LAYERS) for name in names}
STAGES = next({*names} for names in LAYERS if "teacher" in names)
MODULES = sorted(p for p in PACKAGE.rglob("*.py") if p.name != "__init__.py")


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def imported(path: Path) -> set[str]:
    """The modules of the package that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ray_distil":
            inner = (node.module or "").removeprefix("ray_distil").lstrip(".")
            found |= {inner} if inner in LAYER else {f"{inner}.{a.name}".lstrip(".") for a in node.names}
    return found & LAYER.keys()


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_module_has_a_layer_and_imports_go_down(path: Path) -> None:
    name = name_of(path)
    assert name in LAYER, f"{name} has no layer: give it one here and in docs/code.md"
    for other in imported(path):
        assert LAYER[other] <= LAYER[name], f"{name} imports {other} from above"
        assert not (name in STAGES and other in STAGES), f"the stages {name} and {other} know each other"


@pytest.mark.parametrize("path", [*MODULES, *(ROOT / "jobs").glob("*.py")], ids=lambda p: p.name)
def test_files_stay_small(path: Path) -> None:
    limit = 80 if path.parent.name == "jobs" else 350
    assert len(path.read_text().splitlines()) <= limit


@pytest.mark.parametrize(
    "module",
    ["config", "schemas", "sources", "shards", "instructions", "stages", "report", "plan", "pipeline", "export", "api"],
)
def test_nothing_heavy_is_imported_before_it_is_needed(module: str) -> None:
    code = f"import sys, ray_distil.{module}; print({{'ray', 'torch', 'vllm', 'transformers', 'deepspeed', 'datasets'}} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_the_page_of_the_code_annotates_every_module(path: Path) -> None:
    named = re.findall(r"[\w/]+\.py", (ROOT / "docs" / "code.md").read_text())
    assert str(path.relative_to(PACKAGE)) in named
