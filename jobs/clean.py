"""Remove what a run has superseded: the rows and training states of earlier settings or inputs.

python jobs/clean.py runs/one-gpu                     lists the folders in runs/one-gpu/superseded, and removes nothing
python jobs/clean.py runs/one-gpu --yes               removes them
python jobs/clean.py s3://BUCKET/runs/first --yes     the same in an object store

`--help` has more; the same as `ray-distil clean`.
"""

import sys
from pathlib import Path

# Python puts jobs/ first on sys.path. The repository's root takes its place, so that ray_distil is found.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from ray_distil.commands import clean

if __name__ == "__main__":
    sys.exit(clean.main())
