"""Whether vLLM can load a model: its registry of architectures, read from its source, since its import takes ten seconds."""

import ast
from collections.abc import Iterator
from functools import lru_cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

from ray_distil.chat.model_files import read_settings
from ray_distil.config.engine_config import EngineConfig
from ray_distil.store.hub import local_copy

# The tables of the registry whose models generate text.
TABLES = (
    "_TEXT_GENERATION_MODELS",
    "_MULTIMODAL_MODELS",
    "_TRANSFORMERS_SUPPORTED_MODELS",
    "_TRANSFORMERS_BACKEND_MODELS",
)
# Arguments with which only vLLM itself can say which class it takes.
OWN_CLASS = {"trust_remote_code", "hf_overrides", "config_format", "model_impl", "load_format"}


def wrong_model(model: str, engine: EngineConfig) -> Iterator[tuple[str, str]]:
    """`(engine argument or "", what is wrong)` of a model that vLLM would refuse when its engines start."""
    settings = read_settings(Path(local_copy(model)) / "config.json")
    if OWN_CLASS & engine.engine_kwargs.keys():
        return
    architectures = settings.get("architectures") or []
    if unknown := unknown_classes([architectures] if isinstance(architectures, str) else architectures):
        yield "", f"vLLM has no class for {unknown}; give another model, or ask for it at an endpoint"
    text = {**settings, **(settings.get("text_config") or {})}
    heads, parts = text.get("num_attention_heads"), engine.engine_kwargs.get("tensor_parallel_size", 1)
    if isinstance(heads, int) and heads % parts:
        yield "tensor_parallel_size", f"{parts} parts of its {heads} attention heads are not equal; give a divisor"


def unknown_classes(architectures: list[str]) -> str:
    """The architectures, where vLLM has a class for none of them and cannot use that of Transformers; else ""."""
    if (
        _has_plugin()
        or not architectures
        or not (registered := known_classes())
        or registered.intersection(architectures)
    ):
        return ""
    import transformers

    classes = [getattr(transformers, name, None) for name in architectures]
    usable = any(model_class is not None and model_class.is_backend_compatible() for model_class in classes)
    return "" if usable else ", ".join(architectures)


def _has_plugin() -> bool:
    """Whether a package other than vLLM adds something to it, which may be an architecture."""
    return any(not point.value.startswith("vllm.") for point in entry_points(group="vllm.general_plugins"))


@lru_cache(maxsize=1)
def known_classes() -> frozenset[str]:
    """The architectures that vLLM's registry names; empty where its source has another form."""
    package = find_spec("vllm")
    folders = package.submodule_search_locations if package is not None else None
    source = Path(folders[0], "model_executor", "models", "registry.py") if folders else None
    if source is None or not source.is_file():
        return frozenset()
    names = set[str]()
    for node in ast.parse(source.read_text("utf-8")).body:
        targets = {target.id for target in getattr(node, "targets", []) if isinstance(target, ast.Name)}
        if targets.intersection(TABLES) and isinstance(getattr(node, "value", None), ast.Dict):
            keys = node.value.keys  # type: ignore[attr-defined]
            names |= {str(key.value) for key in keys if isinstance(key, ast.Constant)}
    return frozenset(names)
