"""docs/artifacts.md names the columns that the schemas have, in their order."""

import re

import pyarrow as pa
import pytest

from ray_distil.store.schemas import ARTIFACTS, REJECTS
from tests.unit.test_layout import ROOT

PAGE = (ROOT / "docs" / "artifacts.md").read_text()
SCHEMAS = {name: kind.schema for name, kind in ARTIFACTS.items() if kind.schema is not None} | {"_rejects": REJECTS}


@pytest.mark.parametrize(("name", "schema"), SCHEMAS.items())
def test_the_page_has_the_columns_of_an_artifact(name: str, schema: pa.Schema) -> None:
    section = PAGE.split(f"\n## {name}\n")[1].split("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == schema.names
