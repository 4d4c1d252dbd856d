"""How the models of a configuration are asked: engine or endpoint, chat template, sampling, and what changes their texts."""

from dataclasses import asdict
from typing import Any

from ray_distil import endpoint, engine
from ray_distil.chat_templates import ChatSettings, writes_date
from ray_distil.engine import Generate
from ray_distil.engine_config import Asked, SamplingParams
from ray_distil.manifest import model_fingerprint
from ray_distil.runs import Run

# Of an endpoint's request_params, those that change no text.
SILENT_PARAMS = {"stream_options", "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"}


def generate(run: Run, asked: Asked, model: str) -> Generate:
    """Generation by the engine or the endpoint of a section; `model`: folder or hub name, or the endpoint's name of it."""
    if asked.engine is not None:
        return engine.build(asked.engine, model, chat_settings(run, model, asked.engine.chat_template_kwargs))
    assert asked.endpoint is not None  # the configuration has seen to it
    return endpoint.build(asked.endpoint)


def imports(*asked: Asked) -> tuple[str, ...]:
    """The modules that generation by these sections loads."""
    return engine.IMPORTS if any(one.engine is not None for one in asked) else ()


def params(sampling: SamplingParams) -> dict[str, Any]:
    """Sampling parameters for a request: those that are set."""
    return sampling.model_dump(exclude_none=True)


def chat_settings(run: Run, model: str, template_kwargs: dict[str, Any]) -> ChatSettings:
    """What the model's chat template is given: the date only where it writes one, so that no other run depends on it."""
    return ChatSettings.of(template_kwargs, run.date if writes_date(model) else None)


def texts_of(run: Run, asked: Asked, model: str) -> dict[str, Any]:
    """What changes the texts: the model and its arguments; not how many engines there are, nor where an endpoint is."""
    if asked.engine is None:
        assert asked.endpoint is not None
        params = {k: v for k, v in asked.endpoint.request_params.items() if k not in SILENT_PARAMS}
        return {"model": model} | ({"request_params": params} if params else {})
    chat = chat_settings(run, model, asked.engine.chat_template_kwargs)
    return {"model": model_fingerprint(model), "engine_kwargs": asked.engine.engine_kwargs, "chat": asdict(chat)}
