"""Write the texts of a run: as records for another trainer, or as a data set with its card.

python jobs/export.py runs/one-gpu training.json                              the training examples
python jobs/export.py runs/one-gpu r1.jsonl --artifact responses              what the teachers answered
python jobs/export.py s3://BUCKET/runs/first short.json --artifact rewrites   the rewrites by long2short
python jobs/export.py runs/one-gpu --hub FOLDER --license cc-by-4.0           a data set as on Hugging Face's hub

`--help` has more; the same as `ray-distil export`.
"""

import sys
from pathlib import Path

# Python puts jobs/ first on sys.path. The repository's root takes its place, so that ray_distil is found.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from ray_distil.commands import export

if __name__ == "__main__":
    sys.exit(export.main())
