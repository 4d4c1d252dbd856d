"""A section of a configuration: checked fields, read from YAML with overrides, and a message for each mistake."""

import difflib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError
from pydantic_core import PydanticCustomError

from ray_distil.errors import ConfigError
from ray_distil.runtime.redaction import redacted
from ray_distil.runtime.user_code import PATTERN

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
# Names of secrets: environment variables such as HF_TOKEN_2, and keys such as hf_token; not stop_token_ids or api_key_env.
SECRET = re.compile(
    r"(?:^|_)(?:API_?KEY|KEY|TOKEN|SECRET|PASSWORD|CREDENTIALS?)(?:_|$)"
    r"|(?i:(?:^|[_-])(?:api_?key|key|token|secret|password|passwd|credentials?|authorization)$)"
)


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


SectionT = TypeVar("SectionT", bound=Section)


def _import_path(value: str) -> str:
    if not PATTERN.fullmatch(value):
        message = "{value} is no import path; give package.module:function, as my_gates:no_pens"
        raise PydanticCustomError("import_path", message, {"value": repr(value)})
    return value


ImportPath = Annotated[str, AfterValidator(_import_path)]  # of a function of the user's own


def config_file(path: str | Path) -> Path:
    """The file that `--config` names: a path, or a shipped recipe by its name (`one-gpu`, `eval/gpu`).

    The published JSON files of the recipe have their whole names, as in its own commands.
    """
    shipped = RECIPES / (f"{path}" if str(path).endswith(".json") else f"{path}.yaml")
    return shipped if os.path.isfile(shipped) and not os.path.isfile(path) else Path(path)


def read_mapping(path: str | Path) -> dict[str, Any]:
    """A YAML file, or a JSON file, which is YAML as well. Raises ConfigError where it holds no mapping."""
    file = config_file(path)
    try:
        data = yaml.load(file.read_text(encoding="utf-8"), Loader=_UniqueKeys)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"--config {file}: cannot be read ({getattr(error, 'strerror', error)}); give a YAML file, or the name of a "
            f"shipped recipe: {', '.join(sorted(file.stem for file in RECIPES.glob('*.yaml')))}"
        ) from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: YAML takes 2026-13-45 for a date, which does not exist
        raise ConfigError(f"--config {file}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"--config {file}: expected sections such as `training:`, got {type(data).__name__}")
    return data


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which no key stands twice: of two, YAML keeps the last one without a word."""


def _mapping(loader: yaml.SafeLoader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    keys: set[str] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
            continue
        if key.value in keys:
            line = key.start_mark.line + 1
            raise yaml.YAMLError(f"{key.value!r} stands twice, the second time in line {line}; keep one of them")
        keys.add(key.value)
    loader.flatten_mapping(node)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=deep)


_UniqueKeys.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def apply_overrides(data: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Set `key.path=value`, values in YAML spelling. Raises ConfigError."""
    for override in overrides:
        _apply(data, override)
    return data


def validate(model: type[SectionT], data: dict[str, Any], overrides: Sequence[str] = ()) -> SectionT:
    """The mapping as a section. Raises ConfigError with one line a mistake.

    `overrides`: those that the mapping has. Where a key takes a text, the override's value is its text, as 2024.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        texts = {tuple(key.split(".")): override for override in overrides if (key := override.partition("=")[0])}
        no_texts = [tuple(map(str, line["loc"])) for line in error.errors() if line["type"] == "string_type"]
        changed = [override for key, override in texts.items() if key in no_texts or (*key, "str") in no_texts]
        if changed:
            for override in changed:
                _apply(data, override, is_text=True)
            return validate(model, data)
        raise ConfigError("\n".join(dict.fromkeys(_explain(line, model) for line in error.errors()))) from error


def _apply(data: dict[str, Any], override: str, is_text: bool = False) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"override {override!r}: expected key.path=value, e.g. training.num_train_epochs=2")
    try:
        value = text if is_text else yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(
            f"override {override!r}: {text!r} is not YAML ({str(error).splitlines()[0]}); quote it"
        ) from error
    if isinstance(value, dict) and not text.lstrip().startswith("{"):
        value = text  # " Answer: x" is a text: a mapping has braces
    *parents, leaf = key.split(".")
    node: Any = data
    for parent in parents:
        if isinstance(node, list):
            node = node[_index(node, parent, override)]
        else:
            if node.get(parent) is None:
                node[parent] = {}
            # A YAML anchor shares one mapping between sections. The copy keeps the override out of the other sections.
            node[parent] = node[parent].copy() if isinstance(node[parent], dict | list) else node[parent]
            node = node[parent]
        if not isinstance(node, dict | list):
            raise ConfigError(f"override {override!r}: {parent!r} holds {node!r}, which has no keys")
    if isinstance(node, list):
        node[_index(node, leaf, override)] = value
    else:
        node[leaf] = value


def _index(node: list[Any], text: str, override: str) -> int:
    if not text.isdigit() or int(text) >= len(node):
        raise ConfigError(f"override {override!r}: {text!r} is no position in a list of {len(node)}, counted from 0")
    return int(text)


def _explain(error: Any, model: type[BaseModel]) -> str:
    """One pydantic error as one line: where, what was given, what to do."""
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        known_keys = _known_keys(model, error["loc"][:-1])
        near = difflib.get_close_matches(str(error["loc"][-1]), known_keys, n=1, cutoff=0.5)
        return f"{where}: unknown key; " + (f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known_keys)}")
    if error["type"] == "missing":
        return f"{where}: missing; add it to the configuration"
    if error["type"] == "dict_type":
        pair = f"instruction: {error['input']}" if where.endswith("columns") else "KEY: VALUE"
        return f"{where}: {error['input']!r} is no mapping; write '{where}={{{pair}}}'"
    if error["type"] == "literal_error":
        expected = str(error["ctx"]["expected"])
        near = difflib.get_close_matches(str(error["input"]), re.findall(r"'([^']+)'", expected), n=1)
        return f"{where}: {error['input']!r} is not known; " + (
            f"did you mean {near[0]!r}?" if near else f"known: {expected}"
        )
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])

    # Names, and rules of a section's own.
    if error["type"] == "string_pattern_mismatch" and (last := re.search(r"\[([^]]+)\]\*\$$", error["ctx"]["pattern"])):
        signs = ["blanks" if sign == " " else sign for sign in last[1].replace("\\w", "_").replace("A-Za-z0-9", "")]
        name = re.sub(r"[^\w.-]+|^\W+", "-", error["input"]).strip("-._") or "first"
        return f"{where}: {error['input']!r} is no name; give letters, digits and {' '.join(signs)}, as {name!r}"
    if error["type"] in ("import_path", "pass_rate"):
        return f"{where}: {error['msg']}"
    return f"{where}: {error['msg'][0].lower()}{error['msg'][1:]}, but it is {error['input']!r}"


def _known_keys(model: type[BaseModel], location: Sequence[Any]) -> list[str]:
    """The keys of the section that lies at `location` in `model`."""
    for part in location:
        if isinstance(part, int):
            continue
        annotation: Any = model.model_fields[part].annotation
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        model = next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    return list(model.model_fields)


def without_secrets(value: Any, name: str = "") -> Any:
    """A configuration with *** for secrets: keys in URIs, and values under names such as HF_TOKEN."""
    if isinstance(value, dict):
        return {key: without_secrets(inner, str(key)) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_secrets(inner, name) for inner in value]
    if not isinstance(value, str):
        return value
    return "***" if SECRET.search(name) else redacted(value)
