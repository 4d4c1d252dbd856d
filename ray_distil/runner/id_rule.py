"""How a run's rows get their ids: hashes of their texts alone, or, in runs of earlier versions, also of their file's name.

A run keeps its rule: by other ids, nothing that was made of these rows would be found again.
"""

from ray_distil.store.artifact_reader import FINGERPRINT
from ray_distil.store.storage import Folder
from ray_distil.store.superseded import saved_made_of

IDS_BY_SOURCE = "ids_by_source"  # a file in the run's folder


def ids_by_source(run: Folder, artifact: str) -> bool:
    """Whether an artifact has rows whose ids depend on the name of their source, by the rule of earlier versions."""
    if run.exists(IDS_BY_SOURCE):
        return True
    folder = run / artifact
    return folder.exists(FINGERPRINT) and saved_made_of(folder).get("settings", {}).get("ids") != "text"


def keep_ids_by_source(run: Folder, artifact: str) -> bool:
    """`ids_by_source`; where it is true, a file in the run says so, before the artifact can move."""
    is_by_source = ids_by_source(run, artifact)
    if is_by_source and not run.exists(IDS_BY_SOURCE):
        run.write_text(
            IDS_BY_SOURCE, "The ids of this run's rows are hashes of their texts and of the name of their file.\n"
        )
    return is_by_source
