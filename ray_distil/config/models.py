"""Finds the models and the given responses that a configuration names, before anything starts."""

import os
from collections.abc import Container
from pathlib import Path

from ray_distil.config import TINY, TRAINED, StagesConfig, TeacherConfig
from ray_distil.config.engine_config import Asked, EndpointConfig, wrong_key
from ray_distil.errors import ConfigError, HubAway, UserError
from ray_distil.records import sources
from ray_distil.records.sources import Source
from ray_distil.runtime.redaction import redacted
from ray_distil.store import hub
from ray_distil.store.hub import is_refused, refusal
from ray_distil.store.manifest import model_fingerprint
from ray_distil.store.storage import ONE_SLASH, Folder, describe

TINY_MODELS = Path(__file__).resolve().parents[1] / "tiny" / "models"
PUBLISHED = {size: f"alibaba-pai/DistilQwen2.5-DS3-0324-{size}" for size in ("7B", "14B", "32B")}
HUBS = ("huggingface", "modelscope")
COPY_OF = ".copy_of"  # file in a finished copy: the fingerprint of the model that was copied


def resolve_models(config: StagesConfig, at_commit: Container[str] = ()) -> dict[str, str]:
    """Section of the configuration -> its model: a folder, a hub name, or the name that an endpoint gives the model.

    at_commit: hub names that are not looked up, because the run knows their commits. A teacher with given responses has
    no model. Raises ConfigError for a missing model folder, an unknown hub name, or an endpoint whose API key is not in
    the environment; UserError for a missing file of responses.
    """
    served = {}
    for key, section in _generating_sections(config).items():
        if section is not None and section.endpoint is not None:
            served[key] = resolve_endpoint(section.endpoint, f"{key}.endpoint")
        elif section is not None and section.backend is not None:
            served[key] = section.backend.model
        elif isinstance(section, TeacherConfig) and section.engine is None:
            sources.check(responses_of(section, key))
    for index, model in enumerate(config.evaluation.models):
        if model.endpoint is not None:
            key = f"evaluation.models.{index}"
            served[f"{key}.model_source"] = resolve_endpoint(model.endpoint, f"{key}.endpoint")
    resolved = {
        key: source if source in at_commit else resolve_model(source, key)
        for key, source in model_sources(config).items()
    }
    return {key.removesuffix(".engine.model_source"): source for key, source in resolved.items()} | served


def named_models(config: StagesConfig) -> dict[str, str]:
    """Section -> its model as the configuration names it, with the keys of `resolve_models`. Looks nothing up."""
    sources = {key.removesuffix(".engine.model_source"): source for key, source in model_sources(config).items()}
    for key, endpoint in config.endpoints.items():
        section = key.removesuffix(".endpoint")
        sources[f"{section}.model_source" if section.startswith("evaluation.models.") else section] = endpoint.model
    sources |= {key.removesuffix(".backend"): backend.model for key, backend in config.own_backends.items()}
    return sources


def responses_of(teacher: TeacherConfig, key: str) -> Source:
    """The source of a teacher's given responses; `key`: the teacher's section."""
    assert teacher.responses is not None
    return Source(
        teacher.responses,
        f"{key}.responses",
        teacher.dataset_split,
        name=teacher.dataset_name,
        columns={str(name): column for name, column in teacher.columns.items()},
        drop_system=teacher.drop_system,
    )


def model_sources(config: StagesConfig) -> dict[str, str]:
    """Key of the configuration -> model_source, for each model whose files the run loads (no endpoint's)."""
    sources = {"training.student": config.training.student} if config.training is not None else {}
    for key, section in _generating_sections(config).items():
        if section is not None and section.engine is not None:
            sources[f"{key}.engine.model_source"] = section.engine.model_source
    for index, model in enumerate(config.evaluation.models):
        if model.model_source not in (None, TRAINED):
            sources[f"evaluation.models.{index}.model_source"] = str(model.model_source)
    return sources


def _generating_sections(config: StagesConfig) -> dict[str, Asked | None]:
    sections: dict[str, Asked | None] = {"long2short": config.long2short}
    if config.teachers is not None:
        sections |= {"teachers.direct": config.teachers.direct, "teachers.slow": config.teachers.slow}
    return sections


def beyond_tiny(config: StagesConfig) -> str:
    """A word on tiny teachers that are asked about problems of another world than the tiny one; "" where none is."""
    sections = config.teachers.sections if config.teachers is not None else {}
    engines = [teacher.engine for teacher in sections.values() if teacher.engine is not None]
    if config.instructions.is_tiny or not any(e.model_source.startswith(f"{TINY}:") for e in engines):
        return ""
    return (
        "the tiny teachers know the problems of the tiny world alone, and answer few others rightly or none; for your own "
        "problems choose a recipe with real teachers, as --config one-gpu (--plan shows what is read of them)"
    )


def share_tiny_models(models: dict[str, str], run: Folder) -> dict[str, str]:
    """The models, with the tiny models of this package copied to the run's folder, which all nodes see.

    A submitted job works in a copy of the package, whose path differs from node to node.
    """
    shared = dict(models)
    for key, source in models.items():
        folder = Path(source)
        if folder.is_relative_to(TINY_MODELS):
            target, mark = run / "models" / folder.name, model_fingerprint(source)
            if not target.exists(COPY_OF) or target.read_text(COPY_OF) != mark:
                target.remove_all()
                target.upload(folder)
                target.write_text(COPY_OF, mark)
            shared[key] = target.uri
    return shared


def resolve_endpoint(endpoint: EndpointConfig, key: str) -> str:
    """The name that the endpoint gives the model. Raises ConfigError where its API key is not in the environment."""
    variable = endpoint.api_key_env
    if variable and (problem := wrong_key(os.environ.get(variable, "").strip(), variable)):
        raise ConfigError(f"{key}.api_key_env: {problem}")
    if variable and not os.environ.get(variable, "").strip():
        raise ConfigError(
            f"{key}.api_key_env: {endpoint.api_key_env!r} is not set in the environment; "
            f"export the key of {', '.join(endpoint.urls)}, or set api_key_env to null for an endpoint that takes none"
        )
    return endpoint.model


def resolve_model(model_source: str, key: str) -> str:
    """The folder of `tiny:NAME`; an absolute path for a model folder; a Hugging Face name unchanged.

    Raises ConfigError, naming `key`, where a path does not exist or holds no model, or where a hub name is neither in
    the hub's cache on this machine nor known to the hub.
    """
    # A tiny model.
    prefix, _, name = model_source.partition(":")
    if prefix == TINY and name:
        folder = TINY_MODELS / name
        if not (folder / "config.json").is_file():
            tiny_models = ", ".join(f"tiny:{p.parent.name}" for p in sorted(TINY_MODELS.glob("*/config.json")))
            raise ConfigError(f"{key}: there is no {model_source!r}; the tiny models are {tiny_models}")
        return str(folder)

    # A folder on a remote store.
    if "://" in model_source or ONE_SLASH.match(model_source):
        try:
            exists = Folder.at(model_source).exists("config.json")
        except UserError as error:
            raise ConfigError(f"{key}: {error}") from error
        except OSError as error:
            raise ConfigError(f"{key}: cannot read {redacted(model_source)!r}: {describe(error)}") from error
        if not exists:
            raise ConfigError(
                f"{key}: {redacted(model_source)!r} has no config.json; give a folder in Hugging Face format"
            )
        return model_source

    # A folder on this machine.
    path = Path(model_source).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ConfigError(f"{key}: {model_source!r} has no config.json; give a model folder in Hugging Face format")
        return str(path.resolve())

    # A name on the hub.
    if not hub.is_hub_name(model_source):
        raise ConfigError(f"{key}: there is no model folder {model_source!r}; give a folder, ORG/NAME, or tiny:NAME")
    try:
        if hub.cached(model_source, "config.json") is None:
            hub.newest(model_source)
    except Exception as error:  # its types are many: not found, gated, no network, hub switched off
        kind = HubAway if hub.is_away(error) else ConfigError
        reason = hub.refusal(model_source, error)
        raise kind(f"{key}: there is no model folder {model_source!r}, and {reason}") from error
    return model_source


def download(model: str, hub: str, target: Path) -> Path:
    """Download a hub's model, all files, into TARGET/NAME. `model`: ORG/NAME or a key of PUBLISHED. Returns the folder.

    Raises UserError where the hub does not give the model.
    """
    name = PUBLISHED.get(model.upper(), model)
    if name.count("/") != 1 or not all(name.split("/")):
        raise UserError(f"{model!r} names no model; give ORG/NAME, or one of {', '.join(PUBLISHED)}")
    folder = target / name.partition("/")[2]
    try:
        if hub == "modelscope":
            from modelscope import snapshot_download  # an extra of this project

            snapshot_download(name, local_dir=str(folder))
        else:
            from huggingface_hub import snapshot_download

            snapshot_download(name, local_dir=folder)
    except ImportError as error:
        raise UserError(f"--from modelscope: its library is missing ({error}); pip install modelscope") from error
    except Exception as error:  # its types are many: not found, gated, no network, no space on the disk
        if is_refused(error):
            raise UserError(refusal(name, error)) from error
        reason = (str(error).strip().splitlines() or [""])[0]
        raise UserError(
            f"{hub} did not give {name!r} ({type(error).__name__}: {reason}); files that have come stay in {folder}, "
            "and the same command goes on from there"
        ) from error
    if not (folder / "config.json").is_file():
        raise UserError(f"{name!r} of {hub} has no config.json; it is no model in Hugging Face format")
    return folder
