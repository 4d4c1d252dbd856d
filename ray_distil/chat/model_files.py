"""The configuration and the tokenizer of a model, as Transformers reads them.

Some repositories bring Python code for them. It is run only for a model for which `engine_kwargs.trust_remote_code` is
true; Transformers would else ask on the console.
"""

import json
from pathlib import Path
from typing import Any

from ray_distil.store.hub import local_copy

TRUST = "trust_remote_code"  # of vLLM's engine arguments
_trusted = set[str]()


def trust(model: str, engine_kwargs: dict[str, Any]) -> None:
    """Run the code that a model brings, in this process, where an engine's arguments say so."""
    if engine_kwargs.get(TRUST):
        _trusted.add(model)


def has_tokenizer_code(model: str) -> bool:
    """Whether the model's tokenizer is a class of its repository that is not trusted."""
    file = Path(local_copy(model)) / "tokenizer_config.json"
    settings = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return model not in _trusted and "AutoTokenizer" in (settings.get("auto_map") or {})


def read_config(model: str) -> Any:
    """The model's configuration. Raises ValueError for an architecture that Transformers lacks, OSError without a file."""
    from ray_distil.chat.auto_classes import AutoConfig

    return AutoConfig.from_pretrained(local_copy(model), trust_remote_code=model in _trusted)


def read_tokenizer(model: str) -> Any:
    """The model's tokenizer. Raises OSError, ValueError or TypeError where its files hold none."""
    from ray_distil.chat.auto_classes import AutoTokenizer

    return AutoTokenizer.from_pretrained(local_copy(model), trust_remote_code=model in _trusted)
