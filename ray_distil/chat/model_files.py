"""The configuration and the tokenizer of a model, as Transformers reads them.

Some repositories bring Python code for them. It is run only for a model for which `engine_kwargs.trust_remote_code` is
true; Transformers would else ask on the console.
"""

import json
from pathlib import Path
from typing import Any

from ray_distil.errors import UserError
from ray_distil.store.hub import local_copy

TRUST = "trust_remote_code"  # of vLLM's engine arguments
_trusted = set[str]()


def trust(model: str, engine_kwargs: dict[str, Any]) -> None:
    """Run the code that a model brings, in this process, where an engine's arguments say so."""
    if engine_kwargs.get(TRUST):
        _trusted.add(model)


def has_tokenizer_code(model: str) -> bool:
    """Whether the model's tokenizer is a class of its repository that is not trusted."""
    return model not in _trusted and _brings_tokenizer(model)


def needs_tokenizer_code(model: str) -> bool:
    """Whether only code of its repository can read the model's tokenizer."""
    from ray_distil.chat.auto_classes import AutoTokenizer

    if not _brings_tokenizer(model):
        return False
    try:
        AutoTokenizer.from_pretrained(local_copy(model), trust_remote_code=False)
    except (OSError, ValueError, TypeError):
        return True
    return False


def _brings_tokenizer(model: str) -> bool:
    settings = read_settings(Path(local_copy(model)) / "tokenizer_config.json")
    return "AutoTokenizer" in (settings.get("auto_map") or {})


def read_settings(file: Path) -> dict[str, Any]:
    """A JSON file of a model; {} where it is not there. Raises UserError where it is none."""
    if not file.is_file():
        return {}
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(f"{str(file)!r} is no JSON file of a model ({error}); copy it again") from error


def read_config(model: str) -> Any:
    """The model's configuration. Raises ValueError for an architecture that Transformers lacks, OSError without a file."""
    from ray_distil.chat.auto_classes import AutoConfig

    folder = local_copy(model)
    try:  # a class of Transformers first: a training knows no other
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except ValueError:
        if model not in _trusted:
            raise
    return AutoConfig.from_pretrained(folder, trust_remote_code=True)


def read_tokenizer(model: str) -> Any:
    """The model's tokenizer. Raises OSError, ValueError or TypeError where its files hold none."""
    from ray_distil.chat.auto_classes import AutoTokenizer

    return AutoTokenizer.from_pretrained(local_copy(model), trust_remote_code=model in _trusted)
