"""Write the texts of a run: as records for another trainer, or as a data set with its card.

ray-distil export runs/one-gpu training.json                              the training examples, as a JSON list
ray-distil export runs/one-gpu r1.jsonl --artifact responses              what the teachers answered, as JSON lines
ray-distil export s3://BUCKET/runs/first short.json --artifact rewrites   the rewrites by long2short
ray-distil export runs/one-gpu --hub FOLDER --license cc-by-4.0           Parquet files and a card, as Hugging Face's hub has them
ray-distil export runs/one-gpu --hub FOLDER --artifact responses          with the teachers' responses beside the examples
ray-distil export runs/one-gpu --hub FOLDER --push OWNER/NAME             uploaded too, with HF_TOKEN or the login
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ray_distil.commands import cli
from ray_distil.errors import NoRowsLeft, UserError
from ray_distil.publication import hub_folder, hub_upload
from ray_distil.publication.data_files import LAYOUTS, exportable
from ray_distil.report.provenance import check_run
from ray_distil.stages.packed import BEFORE_PACKING
from ray_distil.store.artifact_reader import ArtifactReader, finished
from ray_distil.store.manifest import why_none
from ray_distil.store.storage import TEMPORARY, Folder


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.CommandParser("export", __doc__)
    parser.add_argument("run", metavar="RUN_FOLDER")
    parser.add_argument("output", metavar="OUTPUT", nargs="?", help="file; JSON lines where it ends in .jsonl")
    parser.add_argument(
        "--artifact",
        action="append",
        default=[],
        help=f"{', '.join(LAYOUTS)}; default: sft_examples. With --hub, beside sft_examples, and may be given more than once",
    )
    parser.add_argument("--hub", metavar="FOLDER", help="a data set in the form of Hugging Face's hub")
    parser.add_argument("--license", metavar="ID", help="with --hub: the hub's name of its licence, e.g. cc-by-4.0")
    parser.add_argument(
        "--push", metavar="OWNER/NAME", help="with --hub: upload it to the hub, where only you can read it"
    )
    parser.add_argument("--public", action="store_true", help="with --push: everybody can read it")
    arguments = parser.parse_args(argv)

    def job() -> None:
        run, artifacts = Folder.at(arguments.run), arguments.artifact
        if arguments.hub is not None:
            if arguments.output is not None:
                raise UserError(
                    f"{arguments.output!r} and --hub: a file and a folder are two exports; give one of them"
                )
            _export_data_set(run, arguments.hub, artifacts, arguments.license, arguments.push, arguments.public)
            return

        # One file of records.
        if arguments.output is None:
            raise UserError("there is no place for the export; give a file, or --hub FOLDER")
        for option in ("license", "push", "public"):
            if getattr(arguments, option):
                raise UserError(f"--{option}: is for a data set; give --hub FOLDER in place of the file")
        if len(artifacts) > 1:
            raise UserError(
                f"--artifact: a file takes one of {', '.join(artifacts)}; give one, or --hub FOLDER for several"
            )
        artifact = artifacts[0] if artifacts else "sft_examples"
        num_rows = export(run, artifact, Path(arguments.output))
        print(f"{num_rows:,} rows of {artifact} in {arguments.output}")

    return cli.guarded(job)


def _export_data_set(
    run: Folder, place: str, artifacts: list[str], licence: str | None, name: str | None, public: bool
) -> None:
    if "://" in place:
        raise UserError(f"--hub: {place!r} is no folder on a disk; give one, and copy it from there")
    if public and name is None:
        raise UserError("--public: nothing is uploaded; add --push OWNER/NAME")
    if name is not None:
        hub_upload.check_name(name)
    for configuration, num_rows in hub_folder.export(run, Path(place), artifacts, licence, name).items():
        print(f"{num_rows:,} rows of {configuration} in {place}")
    if name is not None:
        address = hub_upload.upload(Path(place), name, public)
        print(f"uploaded to {address}; look at its card before you show it to others")


EXPORTED = Path("export/training.json")  # in the folder of a run without training
COLUMNS = {  # ours -> the record's
    "sft_examples": {"prompt": "instruction", "completion": "output", "origin": "origin"},
    "responses": {"instruction": "instruction", "response": "output"}
    | {name: name for name in ("teacher", "finish_reason")},
    "rewrites": {"instruction": "instruction", "reasoning": "output", "verdict": "verdict"},
}


def export(run: Folder, artifact: str, output: Path) -> int:
    """Write the accepted rows of an artifact; returns their number. Raises UserError for one that is not complete, or empty."""
    check_run(run)
    records = _records(exportable(run, artifact), COLUMNS[artifact])
    return write_records(output, records)


def write_examples(run: Folder) -> None:
    """Write the training examples of a run as RUN/export/training.json. Raises NoRowsLeft where there is none."""
    examples = finished(run, "sft_examples")
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


def _records(artifact: ArtifactReader, columns: dict[str, str]) -> Iterator[dict[str, Any]]:
    for table in artifact.tables(list(columns)):
        yield from table.rename_columns(columns).to_pylist()
