"""Stage 2 of the DistilQwen2.5-0324 recipe, from the recipe's own file: trains a student on `instruction` and `output`.

python jobs/train.py --config=distilqwen2.5-0324_stage2.json

`--help` has more; the same as `ray-distil train`.
"""

import sys
from pathlib import Path

# Python puts jobs/ first on sys.path. The repository's root takes its place, so that ray_distil is found.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from ray_distil.commands import published

if __name__ == "__main__":
    sys.exit(published.train_student())
