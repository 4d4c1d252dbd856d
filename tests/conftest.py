"""Hooks of all tests, and their environment: variables of who starts them change no result.

Torch, Ray and sympy make a million objects at their import, which stay to the end. Python's garbage collector would look
at all of them again and again, and each stage of a run collects besides: a third of the unit tests' time.
"""

import gc
import os
import sys

import pytest

# What consoles and libraries read: how wide and coloured a text is, which cluster, hub, store or endpoint is asked by whom.
# They are taken away before anything that reads them is imported, also from the processes that tests start.
NAMES_OF_CALLER = {
    *("FORCE_COLOR", "NO_COLOR", "CLICOLOR_FORCE", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS", "LINES"),
    *("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MAKEOVERRIDES"),
    *("RAY_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR", "VLLM_LOGGING_LEVEL"),
    *("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "OPENAI_API_KEY"),
}
for name in [name for name in os.environ if name in NAMES_OF_CALLER or name.startswith("AWS_")]:
    del os.environ[name]

gc.set_threshold(50_000, 20, 100)
num_modules = 0  # that were imported when the collector last left out what is there
# Files that begin before all others, so that workers end together: the first makes the small run, then the longest.
FIRST = [
    "test_chain",
    "test_cluster_run",
    "test_poison",
    "test_published_commands",
    "test_chaos",
    "test_vllm_reference",
    "test_engine_sizes",
    "test_endpoint",
    "test_killed_merges",
    "test_patience",
    "test_remaking",
    "test_preflight",
    "test_checks_apart",
    "test_eval",
    "test_agreement",
    "test_commands",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(FIRST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(FIRST)))


def pytest_collection_finish() -> None:
    leave_out_imports()


def pytest_runtest_logfinish() -> None:
    """Some libraries are imported where a test first needs them."""
    if len(sys.modules) > num_modules + 100:
        leave_out_imports()


def leave_out_imports() -> None:
    global num_modules
    gc.collect()
    gc.freeze()
    num_modules = len(sys.modules)


def pytest_unconfigure() -> None:
    gc.unfreeze()
