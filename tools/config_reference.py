"""The reference of the configuration, made from its code: a JSON schema for editors, and a page for readers.

    python -m tools.config_reference     writes jobs/recipes/config.schema.json and docs/configuration.md

An editor that knows YAML schemas (VS Code with Red Hat's YAML extension, JetBrains) completes and checks the keys of a
file whose first line is `# yaml-language-server: $schema=PATH/config.schema.json`.
"""

import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ray_distil.config import RECIPES, DistillConfig

SCHEMA_FILE = RECIPES / "config.schema.json"
PAGE_FILE = RECIPES.parents[1] / "docs" / "configuration.md"
HEAD = """# Configuration

A run is one YAML file: `python jobs/distill.py --config FILE`. Any key can be set on the command line besides, in YAML
spelling: `training.num_train_epochs=2`, `evaluation.models.0.name=old`. An unknown key ends the run at once, with the
nearest known one. What a run used lies in its folder as `config.yaml`.

This page is made from the code by `python -m tools.config_reference`, as is `jobs/recipes/config.schema.json`, by
which an editor completes and checks keys: `# yaml-language-server: $schema=config.schema.json` as the first line of a
file beside it, as the recipes have it.
"""


def schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of a run's configuration.

    What must be there, null or a section, says which key of the section is wrong, and not that nothing fits.
    """
    made = _with_null(_plain(DistillConfig.model_json_schema()))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "ray_distil configuration", **made}


def _with_null(whole: dict[str, Any]) -> dict[str, Any]:
    properties = whole["properties"]
    for key in whole["required"]:
        if "anyOf" in properties[key]:
            section, _ = properties[key]["anyOf"]
            properties[key] = {"if": {"type": "null"}, "else": section}
    return whole


def page() -> str:
    """The page: a table of keys for each section. Sections that stand under several keys come once, at the end."""
    whole = _plain(DistillConfig.model_json_schema())
    uses = _uses(whole)
    parts = [HEAD]
    for name in sorted(uses, key=lambda name: len(uses[name]) > 1):  # sorted keeps the order of the sections
        where = uses[name]
        parts.append(f"## {_title(name, uses)}\n")
        if len(where) > 1:
            parts.append("As " + ", ".join(f"`{place}`" for place in where) + ".\n")
        section = whole["$defs"][name]
        if section.get("description"):
            parts.append(f"{section['description']}\n")
        parts.append(_table(section, uses))
    return "\n".join(parts)


def _title(name: str, uses: dict[str, list[str]]) -> str:
    """The key of a section. A section under several keys is titled by its class instead, e.g. "sampling params"."""
    if len(uses[name]) == 1:
        return uses[name][0]
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name.removesuffix("Config")).lower()


def _plain(node: Any, inside: str = "") -> Any:
    """The schema without pydantic's titles and without the defaults of whole sections: each key has its own default."""
    if isinstance(node, list):
        return [_plain(one) for one in node]
    if not isinstance(node, dict):
        return node
    is_names = inside in ("properties", "$defs")
    return {
        key: inspect.cleandoc(value) if key == "description" and isinstance(value, str) else _plain(value, key)
        for key, value in node.items()
        if is_names or not (key == "title" or (key == "default" and isinstance(value, dict) and value))
    }


def _uses(whole: dict[str, Any]) -> dict[str, list[str]]:
    """Section -> the keys under which this section stands, in the order of the configuration."""
    found: dict[str, list[str]] = {}

    def walk(section: dict[str, Any], path: str) -> None:
        for key, value in section["properties"].items():
            for name, more in _sections_in(value):
                place = f"{path}{key}{more}"
                found.setdefault(name, []).append(place)
                walk(whole["$defs"][name], f"{place}.")

    walk(whole, "")
    return found


def _sections_in(value: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(section, suffix of the key) for each section in a key. Suffix: ""; in a list ".N"; in a mapping ".NAME"."""
    if "$ref" in value:
        yield value["$ref"].rpartition("/")[2], ""
    for one in value.get("anyOf", ()):
        yield from _sections_in(one)
    for kind, place in (("items", ".N"), ("additionalProperties", ".NAME")):
        if isinstance(value.get(kind), dict):
            yield from ((name, f"{place}{more}") for name, more in _sections_in(value[kind]))


def _table(section: dict[str, Any], uses: dict[str, list[str]]) -> str:
    lines = ["| key | value | default | meaning |", "|---|---|---|---|"]
    for key, value in section["properties"].items():
        default = "needed" if key in section.get("required", ()) else _default(value)
        cells = (f"`{key}`", _kind(value, uses), default, value.get("description", ""))
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _default(value: dict[str, Any]) -> str:
    if "default" in value:
        return f"`{json.dumps(value['default'], ensure_ascii=False)}`"
    return "`{}`" if value.get("type") == "object" else "`[]`" if value.get("type") == "array" else ""


def _kind(value: dict[str, Any], uses: dict[str, list[str]]) -> str:
    """The type and the bounds of a key, in words."""
    if "$ref" in value:
        name = value["$ref"].rpartition("/")[2]
        title = _title(name, uses)
        return f"[{title}](#{re.sub(r'[^a-z0-9_ -]', '', title.lower()).replace(' ', '-')})"
    if "anyOf" in value:
        return " or ".join(_kind(one, uses) for one in value["anyOf"])
    if "enum" in value:
        return ", ".join(f"`{one}`" for one in value["enum"])
    kind = {"object": "mapping", "array": "list"}.get(value.get("type", "any"), value.get("type", "any"))
    if isinstance(inner := value.get("items") or value.get("additionalProperties"), dict):
        kind += f" of {_kind(inner, uses)}"
    if several := value.get("prefixItems"):
        kind += f" of {len(several)}, each " + " or ".join(dict.fromkeys(_kind(one, uses) for one in several))
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    told = [f"{sign} {value[name]:g}" for name, sign in bounds.items() if name in value]
    return f"{kind} {', '.join(told)}" if told else kind


def write(schema_file: Path = SCHEMA_FILE, page_file: Path = PAGE_FILE) -> None:
    schema_file.write_text(json.dumps(schema(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    page_file.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    write()
