"""A run's texts as a file of records, which the recipe's own commands and other trainers read.

Each record has `instruction`, `output` and the keys of the last column; the table names the artifact's columns.

    artifact        instruction    output        other keys
    sft_examples    prompt         completion    origin
    responses       instruction    response      teacher, finish_reason
    rewrites        instruction    reasoning     verdict

Rejected rows are not exported.
"""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from ray_distil.errors import UserError
from ray_distil.store import schemas
from ray_distil.store.artifact import Artifact
from ray_distil.store.manifest import read_manifest
from ray_distil.store.storage import TEMPORARY, Folder

SCHEMAS = {"sft_examples": schemas.SFT_EXAMPLES, "responses": schemas.RESPONSES, "rewrites": schemas.REWRITES}
COLUMNS = {  # ours -> the record's
    "sft_examples": {"prompt": "instruction", "completion": "output", "origin": "origin"},
    "responses": {"instruction": "instruction", "response": "output"}
    | {name: name for name in ("teacher", "finish_reason")},
    "rewrites": {"instruction": "instruction", "reasoning": "output", "verdict": "verdict"},
}


def export(run: Folder, artifact: str, output: Path) -> int:
    """Write the accepted rows of an artifact; returns their number. Raises UserError for one that is not complete."""
    if not run.exists():
        raise UserError(f"there is no run folder {str(run)!r}; a run lives in STORAGE_PATH/NAME, e.g. runs/tiny")
    complete = {name: made for name in SCHEMAS if (made := _complete(run, name)) is not None}
    if artifact not in complete:
        there = f"complete are {', '.join(complete)}" if complete else f"none of {', '.join(SCHEMAS)} is complete"
        raise UserError(f"--artifact: {artifact!r} of {run} is not complete, or is none that can be exported; {there}")
    return write_records(output, _records(complete[artifact], COLUMNS[artifact]))


def write_records(path: Path, records: Iterable[dict[str, Any]]) -> int:
    """Write JSON lines where the name ends in .jsonl, else a JSON list with one record a line; returns their number.

    The file appears whole or not at all. One record is in memory at a time. Raises UserError where the file cannot be
    written.
    """
    begin, between, end = ("", "\n", "\n") if path.suffix == ".jsonl" else ("[\n ", ",\n ", "\n]\n")
    temporary = path.with_name(f"{path.name}.{os.getpid()}{TEMPORARY}")
    number = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as file:
            for number, record in enumerate(records, 1):
                file.write((between if number > 1 else begin) + json.dumps(record, ensure_ascii=False))
            file.write(end if number else "" if path.suffix == ".jsonl" else "[]\n")
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write {str(path)!r}: {error.strerror or error}; give another file") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return number


def _complete(run: Folder, name: str) -> Artifact | None:
    manifest = read_manifest(run / name)
    made = Artifact(run, name, SCHEMAS[name], manifest.fingerprint) if manifest is not None else None
    return made if made is not None and made.is_complete() else None


def _records(artifact: Artifact, columns: dict[str, str]) -> Iterator[dict[str, Any]]:
    for table in artifact.tables(list(columns)):
        yield from table.rename_columns(columns).to_pylist()
