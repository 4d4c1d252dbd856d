"""A folder in the form of Hugging Face's hub: Parquet files of each configuration, and README.md, the card.

The folder appears whole or not at all: it is written beside its place and renamed.
"""

import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ray_distil.errors import UserError
from ray_distil.publication import dataset_card, problem_columns
from ray_distil.publication.data_files import LAYOUTS, exportable, write
from ray_distil.publication.dataset_card import DEFAULT, MADE_BY, Contents, TokenCounts
from ray_distil.report.provenance import check_run
from ray_distil.store.manifest import CARD
from ray_distil.store.storage import TEMPORARY, Folder

# What an export holds, and what clients of a hub leave beside it. Another file is somebody's own.
FILES = re.compile(rf"README\.md|\.gitattributes|\.(?:git|cache)/.*|(?:{'|'.join(LAYOUTS)})/train-\d+-of-\d+\.parquet")
LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]*")


def export(
    run: Folder, folder: Path, artifacts: Sequence[str] = (), licence: str | None = None, name: str | None = None
) -> dict[str, int]:
    """Write a run's training examples, and the rows of other artifacts, as a data set; configuration -> its rows.

    licence: the hub's name of the licence of the whole, e.g. "cc-by-4.0". name: as `load_dataset` will take the data set;
    None: the folder's. Raises UserError for an artifact that is not complete or empty, for a place that holds anything but
    an earlier export, and where the folder cannot be written.
    """
    check_run(run)
    check_licence(licence)
    readers = {artifact: exportable(run, artifact) for artifact in dict.fromkeys([DEFAULT, *artifacts])}
    folder = folder.absolute()
    check_place(folder)
    problems, tokens = problem_columns.read(run), TokenCounts()

    staging: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=TEMPORARY, dir=folder.parent))
        new = staging / folder.name
        new.mkdir()
        written = {}
        for artifact, reader in readers.items():
            watch = tokens.add if artifact == DEFAULT else None
            written[artifact] = write(reader, problems, new / artifact, watch)
        contents = Contents(run, name or folder.name, licence, written, problems, tokens)
        (new / CARD).write_text(dataset_card.card(contents), encoding="utf-8")
        if folder.exists():
            folder.rename(staging / "earlier")
        new.rename(folder)
    except OSError as error:
        raise UserError(f"cannot write {str(folder)!r}: {error.strerror or error}; give another folder") from error
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
    return {artifact: figures.num_examples for artifact, figures in written.items()}


def check_place(folder: Path) -> None:
    """Raises UserError where something stands at a folder's place that no export has written."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"--hub: {str(folder)!r} is a file; give a folder, which may be new")
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
    strangers = [name for name in names if not FILES.fullmatch(name)]
    card = folder / CARD
    if names and not strangers and not (card.is_file() and MADE_BY in card.read_text("utf-8", errors="replace")):
        strangers = names
    if strangers:
        raise UserError(
            f"--hub: {str(folder)!r} holds {strangers[0]!r}, which no export has written; give another folder, or move it away"
        )


def check_licence(licence: str | None) -> None:
    """Raises UserError for a licence that no hub's name of one can be."""
    if licence is not None and not LICENCE.fullmatch(licence):
        raise UserError(
            f"--license: {licence!r} is none of the hub's names of licences, which are small letters, digits, dots and "
            "hyphens; give e.g. apache-2.0, mit, cc-by-4.0 or other"
        )
