"""The JSON schema and the page are those of the code, and the schema takes what a run takes."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from ray_distil.config import RECIPES, load
from ray_distil.config.section import apply_overrides, read_mapping
from ray_distil.errors import ConfigError
from tools import config_reference

SHIPPED = sorted(RECIPES.glob("*.yaml"))


def mistakes(data: dict[str, Any]) -> list[str]:
    checked = Draft202012Validator(config_reference.schema())
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in checked.iter_errors(data)]


def test_the_files_are_made_from_the_code(tmp_path: Path) -> None:
    """Make them again by `python -m tools.config_reference`."""
    config_reference.write(tmp_path / "schema", tmp_path / "page")
    assert config_reference.SCHEMA_FILE.read_text() == (tmp_path / "schema").read_text()
    assert config_reference.PAGE_FILE.read_text() == (tmp_path / "page").read_text()


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_recipe_names_the_schema_and_keeps_to_it(path: Path) -> None:
    first = path.read_text().splitlines()[0]
    assert first == f"# yaml-language-server: $schema={config_reference.SCHEMA_FILE.name}"
    assert mistakes(read_mapping(path)) == []
    assert mistakes(yaml.safe_load(load(str(path)).to_yaml())) == []  # config.yaml of its run


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("training.lerning_rate=1", "'lerning_rate' was unexpected"),
        ("curation.choose=longest", "'longest' is not one of ['all', 'shortest', 'random']"),
        ("training=5", "5 is not of type 'object'"),
        ("run.seed=-1", "-1 is less than the minimum of 0"),
        ("teachers.slow.engine.concurrency=0", "teachers.slow: "),
        ("evaluation.models=[{model_source: student}]", "'name' is a required property"),
    ],
)
def test_what_a_run_refuses_the_schema_refuses(override: str, told: str) -> None:
    data = apply_overrides(read_mapping(RECIPES / "tiny.yaml"), [override])
    assert any(told in line for line in mistakes(data)), mistakes(data)
    with pytest.raises(ConfigError):
        load(None, [override])


@pytest.mark.parametrize("given", [2, [1, 4]])
def test_an_engine_pool_is_a_number_or_a_range(given: Any) -> None:
    data = apply_overrides(read_mapping(RECIPES / "tiny.yaml"), [f"teachers.slow.engine.concurrency={given}"])
    assert mistakes(data) == []


def test_every_link_of_the_page_has_its_heading() -> None:
    page = config_reference.page()
    headings = {re.sub(r"[^a-z0-9_ -]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^## (.+)$", page, re.M)}
    links = set(re.findall(r"\(#([^)]+)\)", page))
    assert links
    assert links <= headings


def test_every_key_has_a_meaning_or_a_section() -> None:
    """Of a key that is a section, its page says it."""
    silent = re.findall(r"^\| (`\w+`) \| (?!.*\[).* \|  \|$", config_reference.page(), re.M)
    assert silent == []
