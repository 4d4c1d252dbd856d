"""docs/artifacts.md names the columns that the schemas have, in their order."""

import re

import pytest

from ray_distil.store import schemas
from tests.unit.test_layout import ROOT

PAGE = (ROOT / "docs" / "artifacts.md").read_text()


NAMES = ["instructions", "responses", "rewrites", "sft_examples", "packed", "benchmarks", "eval", "timing", "_rejects"]


@pytest.mark.parametrize("name", NAMES)
def test_the_page_has_the_columns_of_an_artifact(name: str) -> None:
    section = PAGE.split(f"\n## {name}\n")[1].split("\n## ")[0]
    schema = {"benchmarks": "BENCHMARK", "_rejects": "REJECTS"}.get(name, name.upper())
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == getattr(schemas, schema).names
