"""docs/artifacts.md names the columns that the schemas have, in their order."""

import re

import pytest

from ray_distil.store import schemas
from tests.unit.test_layout import ROOT

PAGE = (ROOT / "docs" / "artifacts.md").read_text()


@pytest.mark.parametrize(
    "name", ["instructions", "responses", "rewrites", "sft_examples", "packed", "eval", "timing", "_rejects"]
)
def test_the_page_has_the_columns_of_an_artifact(name: str) -> None:
    section = PAGE.split(f"\n## {name}\n")[1].split("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == getattr(schemas, name.strip("_").upper()).names
