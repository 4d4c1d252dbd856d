"""Write the texts of a run as a JSON list of `instruction` and `output`, or as JSON lines.

ray-distil export runs/one-gpu training.json                              the training examples
ray-distil export runs/one-gpu r1.jsonl --artifact responses              what the teachers answered
ray-distil export s3://BUCKET/runs/first short.json --artifact rewrites   the rewrites by long2short
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ray_distil.commands import cli
from ray_distil.errors import NoRowsLeft, UserError
from ray_distil.report.provenance import check_run
from ray_distil.stages.packed import BEFORE_PACKING
from ray_distil.store import schemas
from ray_distil.store.artifact import Artifact
from ray_distil.store.manifest import most_common, read_manifest, why_none
from ray_distil.store.storage import TEMPORARY, Folder


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.CommandParser("export", __doc__)
    parser.add_argument("run", metavar="RUN_FOLDER")
    parser.add_argument("output", metavar="OUTPUT", type=Path, help="file; JSON lines where it ends in .jsonl")
    parser.add_argument("--artifact", default="sft_examples", help=f"{', '.join(SCHEMAS)}; default: %(default)s")
    arguments = parser.parse_args(argv)

    def job() -> None:
        num_rows = export(Folder.at(arguments.run), arguments.artifact, arguments.output)
        print(f"{num_rows:,} rows of {arguments.artifact} in {arguments.output}")

    return cli.guarded(job)


EXPORTED = Path("export/training.json")  # in the folder of a run without training
SCHEMAS = {"sft_examples": schemas.SFT_EXAMPLES, "responses": schemas.RESPONSES, "rewrites": schemas.REWRITES}
COLUMNS = {  # ours -> the record's
    "sft_examples": {"prompt": "instruction", "completion": "output", "origin": "origin"},
    "responses": {"instruction": "instruction", "response": "output"}
    | {name: name for name in ("teacher", "finish_reason")},
    "rewrites": {"instruction": "instruction", "reasoning": "output", "verdict": "verdict"},
}


def export(run: Folder, artifact: str, output: Path) -> int:
    """Write the accepted rows of an artifact; returns their number. Raises UserError for one that is not complete, or empty."""
    check_run(run)
    complete = {name: finished for name in SCHEMAS if (finished := _complete(run, name)) is not None}
    if artifact not in complete:
        choice = f"complete are {', '.join(complete)}" if complete else f"none of {', '.join(SCHEMAS)} is complete"
        raise UserError(f"--artifact: {artifact!r} of {run} is not complete, or is none that can be exported; {choice}")
    manifest = read_manifest(run / artifact)
    if manifest is not None and not manifest.rows_out:
        why = most_common(manifest.rejects) or "there were none"
        raise UserError(f"{artifact} of {run} has no rows ({why}); nothing is written")
    return write_records(output, _records(complete[artifact], COLUMNS[artifact]))


def write_examples(run: Folder) -> None:
    """Write the training examples of a run as RUN/export/training.json. Raises NoRowsLeft where there is none."""
    examples = _complete(run, "sft_examples")
    if examples is None or not examples.count("example_id"):
        raise NoRowsLeft(f"sft_examples: no example passed the gates: {why_none(run, BEFORE_PACKING)}")
    with (run / EXPORTED.parent.name).writable() as folder:
        write_records(folder / EXPORTED.name, _records(examples, COLUMNS["sft_examples"]))


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
    artifact = Artifact(run, name, SCHEMAS[name], manifest.fingerprint) if manifest is not None else None
    return artifact if artifact is not None and artifact.is_complete() else None


def _records(artifact: Artifact, columns: dict[str, str]) -> Iterator[dict[str, Any]]:
    for table in artifact.tables(list(columns)):
        yield from table.rename_columns(columns).to_pylist()
