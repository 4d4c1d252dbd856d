"""Stage 1 of the DistilQwen2.5-0324 recipe, from the recipe's own file: rewrites long reasoning into short reasoning.

ENDPOINT=https://api.deepseek.com/v1 TOKEN=... python jobs/infer.py --config=distilqwen2.5-0324_stage1.json

`--help` has more; the same as `ray-distil infer`.
"""

import sys
from pathlib import Path

# Python puts jobs/ first on sys.path. The repository's root takes its place, so that ray_distil is found.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from ray_distil.commands import published

if __name__ == "__main__":
    sys.exit(published.infer())
