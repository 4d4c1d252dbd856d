"""Write the texts of a run as a JSON list of `instruction` and `output`, or as JSON lines.

python jobs/export.py runs/one-gpu training.json                              the training examples
python jobs/export.py runs/one-gpu r1.jsonl --artifact responses              what the teachers answered
python jobs/export.py s3://BUCKET/runs/first short.json --artifact rewrites   the rewrites by long2short
"""

import argparse
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from ray_distil.run import cli
from ray_distil.run.export import SCHEMAS, export
from ray_distil.store.storage import Folder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN_FOLDER")
    parser.add_argument("output", metavar="OUTPUT", type=Path, help="file; JSON lines where it ends in .jsonl")
    parser.add_argument("--artifact", default="sft_examples", help=f"{', '.join(SCHEMAS)}; default: %(default)s")
    arguments = parser.parse_args()

    def job() -> None:
        number = export(Folder.at(arguments.run), arguments.artifact, arguments.output)
        print(f"{number:,} rows of {arguments.artifact} in {arguments.output}")

    return cli.guarded(job, lambda: None)


if __name__ == "__main__":
    sys.exit(main())
