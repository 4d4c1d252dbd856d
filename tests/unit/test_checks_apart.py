"""The checks before a run, in a process of their own: the same remarks and errors, and nothing of torch in the driver."""

import subprocess
import sys
from pathlib import Path

import pytest

from ray_distil.checks import checks_apart, preflight
from ray_distil.config import load
from ray_distil.config.models import resolve_models
from ray_distil.errors import ConfigError
from ray_distil.problems import collecting


def test_remarks_and_mistakes_are_those_of_the_checks() -> None:
    config = load(None, ["teachers.slow.num_samples=2"])
    models, problems = resolve_models(config), collecting.collect(config.instructions, 0)
    remarks = checks_apart.check(config, models, problems)
    assert remarks == preflight.check(config, models, problems)
    assert any("2 samples at temperature 0" in remark for remark in remarks)
    wrong = load(None, ["packing.max_length=16"])
    with pytest.raises(ConfigError, match="packing.max_length: 16, and the shortest prompt has"):
        checks_apart.check(wrong, models, problems)


def test_an_error_of_the_checks_has_its_traceback(tmp_path: Path) -> None:
    config = load(None, [])
    with pytest.raises(RuntimeError, match="TypeError") as raised:
        checks_apart.check(config, None)  # type: ignore[arg-type]
    assert "in check" in str(raised.value)


def test_a_process_that_dies_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks_apart, "WORK", "import os; os.kill(os.getpid(), 9)")
    with pytest.raises(RuntimeError, match="ended with -9"):
        checks_apart.check(load(None, []), {})


def test_the_driver_loads_no_model_code() -> None:
    code = """
import sys
from ray_distil.config import load
from ray_distil.config.models import resolve_models
from ray_distil.checks import checks_apart
config = load(None, [])
checks_apart.check(config, resolve_models(config))
assert not {"torch", "transformers"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
