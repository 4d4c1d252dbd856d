"""The commits of a run's hub models, in RUN/models.json: each model stays what it was when the run first named it.

    {"Qwen/Qwen3-8B": "b968826d9c46dd6066d109eabc6255188de91218"}

A commit to a model's card, or a hub that does not answer, changes nothing of a run that has begun. Folders and buckets
have no commits; what their files hold is in the fingerprints.
"""

import json

from ray_distil.config import StagesConfig
from ray_distil.config.models import model_sources
from ray_distil.store import hub
from ray_distil.store.storage import Folder

FILE = "models.json"
MOVED_TIMEOUT_S = 5.0


def freeze(config: StagesConfig, models: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """`(models, commits)`: the models with each hub name as NAME@COMMIT, and name -> commit.

    models: section -> model, as `resolve_models` returns them. A name whose commit nobody knows stays as it is.
    """
    saved = read(config.run_folder)
    commits, frozen = dict[str, str](), dict(models)
    for key in model_sources(config):
        section = key.removesuffix(".engine.model_source")
        model = models[section]
        if not hub.is_hub_name(model) or Folder(model).exists():
            continue
        if (revision := _revision(config, section)) is not None and "@" not in model:
            model = f"{model}@{revision}"
        if model not in commits and (commit := saved.get(model) or hub.commit_of(model)) is not None:
            commits[model] = commit
        if model in commits:
            frozen[section] = f"{hub.split(model)[0]}@{commits[model]}"
    return frozen, commits


def _revision(config: StagesConfig, section: str) -> str | None:
    """The revision that a section's engine arguments name for its model."""
    own = config.engines.get(f"{section}.engine")
    return None if own is None else own.engine_kwargs.get("revision")


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


def moved(run: Folder) -> list[str]:
    """A line for each model of a run that has begun for which the hub has another commit now, or does not answer."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    lines = []
    for name, commit in read(run).items():
        if hub.is_at_commit(name):
            continue
        uses = f"this run goes on with {name} at commit {commit[:12]}, with which it began"
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
