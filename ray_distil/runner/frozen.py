"""The commits of a run's hub models, in RUN/models.json: each model stays what it was when the run first named it.

    {"Qwen/Qwen3-8B": "b968826d9c46dd6066d109eabc6255188de91218"}

A commit to a model's card, or a hub that does not answer, changes nothing of a run that has begun. Folders and buckets
have no commits; what their files hold is in the fingerprints.
"""

import json

from ray_distil.config import StagesConfig
from ray_distil.config.models import model_sources, resolve_models
from ray_distil.errors import ConfigError
from ray_distil.store import hub
from ray_distil.store.storage import Folder

FILE = "models.json"
MOVED_TIMEOUT_S = 5.0


def resolved(config: StagesConfig) -> tuple[dict[str, str], dict[str, str]]:
    """`(models, commits)` of a run: as `freeze`. Raises what `resolve_models` raises.

    A model whose commit the run knows is not looked up, so that the run goes on where the hub does not answer.
    """
    saved = read(config.run_folder)
    at_commit = {
        source for key, source in model_sources(config).items() if _name_with_revision(config, key, source) in saved
    }
    return freeze(config, resolve_models(config, at_commit))


def freeze(config: StagesConfig, models: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """`(models, commits)`: the models with each hub name as NAME@COMMIT, and name -> commit.

    models: section -> model, as `resolve_models` returns them. A name whose commit nobody knows stays as it is. Raises
    ConfigError where two revisions of a model are named.
    """
    saved = read(config.run_folder)
    commits, frozen = dict[str, str](), dict(models)
    for key in model_sources(config):
        section = key.removesuffix(".engine.model_source")
        if section not in models or not hub.is_hub_name(models[section]) or Folder(models[section]).exists():
            continue
        model = _name_with_revision(config, key, models[section])
        if model not in commits and (commit := saved.get(model) or hub.commit_of(model)) is not None:
            commits[model] = commit
        if model in commits:
            frozen[section] = f"{hub.split(model)[0]}@{commits[model]}"
    return frozen, commits


def _name_with_revision(config: StagesConfig, key: str, source: str) -> str:
    """A model source, with the revision that its engine's arguments name."""
    section = "evaluation" if key.startswith("evaluation.models.") else key.removesuffix(".engine.model_source")
    engine = config.engines.get(f"{section}.engine")
    revision = None if engine is None else engine.engine_kwargs.get("revision")
    if revision is None or not hub.is_hub_name(source):
        return source
    name, named_revision = hub.split(source)
    if named_revision not in (None, revision):
        raise ConfigError(
            f"{key}: {source!r} names a revision, and engine_kwargs.revision is {revision!r}; give one of them"
        )
    return f"{name}@{revision}"


def read(run: Folder) -> dict[str, str]:
    """Name -> commit of the models of a run that has begun; {} before."""
    try:
        return dict(json.loads(run.read_text(FILE)))
    except FileNotFoundError:
        return {}


def save(run: Folder, commits: dict[str, str]) -> None:
    """Keep the commits in the run, beside those of models that it has named before."""
    saved = read(run)
    if commits.keys() - saved.keys():
        run.write_text(FILE, json.dumps(saved | commits, indent=1, sort_keys=True) + "\n")


def moved(commits: dict[str, str]) -> list[str]:
    """A line for each model for which the hub has another commit than the run, or does not answer. commits: of the run."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    lines = []
    for name, commit in commits.items():
        if hub.is_at_commit(name):
            continue
        uses = f"this run uses {name} at commit {commit[:12]}, as when it began"
        try:
            new = hub.newest(name, MOVED_TIMEOUT_S)
        except OfflineModeIsEnabled:
            continue
        except Exception as error:  # noqa: BLE001  of many types: no network, too many requests, gone
            lines.append(f"Hugging Face does not answer ({type(error).__name__}); {uses}")
            continue
        if new != commit:
            lines.append(
                f"Hugging Face has commit {new[:12]} now; {uses}. For the new one, name {hub.split(name)[0]}@{new}"
            )
    return lines
