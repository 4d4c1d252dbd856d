"""Write the texts of a run as a JSON list of `instruction` and `output`, or as JSON lines.

ray-distil export runs/one-gpu training.json                              the training examples
ray-distil export runs/one-gpu r1.jsonl --artifact responses              what the teachers answered
ray-distil export s3://BUCKET/runs/first short.json --artifact rewrites   the rewrites by long2short
"""

from collections.abc import Sequence
from pathlib import Path

from ray_distil.commands import cli
from ray_distil.run.export import SCHEMAS, export
from ray_distil.store.storage import Folder


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
