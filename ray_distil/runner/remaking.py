"""What a command would throw away or buy again that was paid for, in the words of its one question.

    texts       rows whose part of the configuration has changed, so that a model is asked for them again
    students    a trained student, or the states of a stopped training, of other settings or other examples

Such a command ends before it changes anything, unless `run.remake` is true. Where nothing paid for is lost, nobody is asked.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow.compute as pc

from ray_distil.errors import UserError
from ray_distil.report import cost, provenance
from ray_distil.report.cost import StageFiles
from ray_distil.runner.reuse import Reuse
from ray_distil.store.ahead import ahead
from ray_distil.store.artifact import Artifact
from ray_distil.store.ids import Keys, keys_of
from ray_distil.store.manifest import Manifest, read_manifest
from ray_distil.store.schemas import CHAIN
from ray_distil.store.storage import Folder
from ray_distil.store.superseded import differences, marks_of, saved_made_of, superseded
from ray_distil.train import states

HOW_TO = "; to keep what is there, return to the old settings or give another run.name; to go on, add --remake"


def question(stage: str, loss: str, artifact: Artifact, made_with: dict[str, Any]) -> str:
    """E.g. "responses: slow.sampling_params.temperature 0.6 -> 1.0: 415 texts of slow would be asked for again; to keep ...".

    made_with: the present settings, by the rules by which the artifact was made.
    """
    return f"{stage}: {change(artifact, made_with)}: {loss}{cost_of(artifact)}{HOW_TO}"


def change(artifact: Artifact, made_with: dict[str, Any]) -> str:
    """What has changed since the artifact was made, e.g. "slow.sampling_params.temperature 0.6 -> 1.0"."""
    changed = changes(saved_made_of(artifact.folder), artifact.made_of | {"settings": made_with})
    return provenance.first_of(list(changed)) or "its settings or inputs have changed"


def changes(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    """Each setting that differs, as "key old -> new"; and that the inputs differ. Nothing where the old ones are unknown."""
    if not old:
        return
    yield from differences(old["settings"], new["settings"])
    if old["inputs"] != new["inputs"]:
        yield "the rows that it is made of have changed"


def lost_texts(artifact: Artifact, reuse: Reuse, max_tokens: dict[str, int | None]) -> str:
    """E.g. "415 texts of slow would be asked for again"; "" where none would.

    max_tokens: part -> the present limit; texts of the same settings that are longer would be asked for again too.
    """
    if not artifact.is_of_other_settings():
        return ""
    old, lost = marks_of(artifact.folder), Counter[str]()
    for part, (_, limits) in reuse.marks.items():
        old_marks = old.get(part, ["", ""])
        if not old_marks[0]:
            continue  # the part is new
        if not reuse.has_same_texts(part, old_marks[0]):
            num_there = _num_rows(artifact.folder, artifact, reuse.part_of, part)
            lost[part] += max(0, num_there - _num_set_aside(artifact, reuse, part))
        elif old_marks[1] != limits and (max_length := max_tokens.get(part)) is not None:
            longer = _num_rows(artifact.folder, artifact, reuse.part_of, part, longer_than=max_length)
            lost[part] += max(0, longer - _num_set_aside(artifact, reuse, part, limits))
    parts = [f"{number:,} texts{f' of {part}' if part else ''}" for part, number in lost.items() if number]
    return f"{' and '.join(parts)} would be asked for again" if parts else ""


def lost_ids(problems: Artifact, made_of: dict[str, Any]) -> str:
    """What a renamed file costs a run whose ids hold the names of files, as in earlier versions; "" for nothing.

    made_of: the present settings of the problems.
    """
    old_settings = saved_made_of(problems.folder).get("settings", {})
    if "ids" in made_of or not old_settings or old_settings.get("sources") == made_of.get("sources"):
        return ""
    responses = problems.run / "responses"
    tables = ahead(lambda file: responses.read_table(file, ["response_id"]), responses.files("part-", ".parquet"))
    number = sum(table.num_rows for table in tables)
    why = "the ids of this run's problems hold the names of their files"
    return f"{number:,} texts would be asked for again, because {why}" if number else ""


def num_with_texts(problems: Artifact, keys: Keys) -> int:
    """How many of the problems with these ids have responses. keys: as numbers."""
    responses, ids = problems.run / "responses", np.zeros(0, np.uint64)
    for table in ahead(
        lambda file: responses.read_table(file, ["instruction_id"]), responses.files("part-", ".parquet")
    ):
        ids = np.union1d(ids, np.intersect1d(keys_of(table["instruction_id"].to_pylist()), keys))
    return len(ids)


def _num_set_aside(artifact: Artifact, reuse: Reuse, part: str, limits: str | None = None) -> int:
    """The most rows of a part that one earlier making has with the present texts; with `limits`, with these too."""
    counts = [0]
    for folder in superseded(artifact.run, artifact.name):
        mark = marks_of(folder).get(part, ["", ""])
        if reuse.has_same_texts(part, mark[0]) and limits in (None, mark[1]):
            counts.append(_num_rows(folder, artifact, reuse.part_of, part))
    return max(counts)


def _num_rows(
    folder: Folder, artifact: Artifact, part_of: str | None, part: str, longer_than: int | None = None
) -> int:
    """The accepted rows of a part in a folder; with `longer_than`, those with more generated tokens."""
    columns = [part_of or artifact.counted, *([] if longer_than is None else ["num_generated_tokens"])]
    total = 0
    for table in ahead(lambda file: folder.read_table(file, columns), folder.files("part-", ".parquet")):
        rows = table.filter(pc.equal(table[part_of], part)) if part_of else table
        if longer_than is None:
            total += rows.num_rows
        else:
            total += pc.sum(pc.greater(rows["num_generated_tokens"], longer_than)).as_py() or 0
    return total


def lost_training(artifact: Artifact) -> str:
    """E.g. "a student of 477 steps would be trained again"; "" where nothing is lost.

    Raises UserError where files of the student are gone: it may have been moved.
    """
    manifest, state = read_manifest(artifact.folder), states.last_state(artifact.folder / states.STATES)
    if not artifact.is_of_other_settings():
        if manifest is not None and (gone := artifact.missing(manifest)):
            raise UserError(
                f"{manifest.artifact}: {artifact.folder / gone[0]} is gone, of {len(manifest.files)} files of the trained "
                "student; bring it back, or add --remake to train it again"
            )
        return ""
    if manifest is not None:
        return f"a student of {manifest.summary.get('num_steps', 0):,} steps would be trained again"
    return f"training states of {state.step:,} steps could not be used" if state is not None else ""


def cost_of(artifact: Artifact) -> str:
    """E.g. " (the stage has taken 1.20 GPU-hours, 3.60 USD)"; "" where that is not known."""
    manifest = read_manifest(artifact.folder)
    if manifest is None:
        return ""
    files = [StageFiles(manifest.artifact, manifest.seconds, manifest.files, manifest.made_of.get("config"))]
    costs = cost.costs(artifact.run, provenance.saved_config(artifact.run), files)
    if not costs:
        return ""
    (spent,) = costs
    parts = [f"{spent.gpu_hours:,.2f} GPU-hours"] if spent.gpu_hours else []
    parts += [f"{spent.dollars:,.2f} USD"] if spent.dollars else []
    parts = parts or ([f"{spent.seconds / 60:,.0f} min"] if spent.seconds >= 60 else [])
    return f" (the stage has taken {', '.join(parts)})" if parts else ""


def is_used(artifact: Artifact) -> bool:
    """Whether a later stage has begun with the rows that the artifact has now."""
    content = artifact.content()
    for name in provenance.successors(artifact.name):
        for folder in (artifact.run / name, *superseded(artifact.run, name)):
            made_of = saved_made_of(folder)
            if content in made_of.get("inputs", ()) or (not made_of and folder.exists() and folder.name == name):
                return True  # without made_of: of an earlier version, which did not say
    return False


def later_artifacts(artifact: Artifact, students: Iterable[str]) -> list[Manifest]:
    """The finished artifacts that would be made anew if the artifact had other rows. students: names of the trained model."""
    later = [artifact.run / name for name in CHAIN[CHAIN.index(artifact.name) + 1 :]]
    for name in students:
        place = artifact.run / "eval" / name
        later += [place / folder for folder in sorted({file.partition("/")[0] for file in place.files(recursive=True)})]
    return [manifest for manifest in map(read_manifest, later) if manifest is not None]
