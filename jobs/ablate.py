"""Train the student without a gate, or without the rewriting, and compare it with the student of the full run.

python jobs/ablate.py --seeds 1 --without shorter long2short          the tiny recipe, two variants
python jobs/ablate.py --config FILE                                   each gate that is on, and the rewriting, three seeds

`--help` has more; the same as `ray-distil ablate`.
"""

import sys
from pathlib import Path

# Python puts jobs/ first on sys.path. The repository's root takes its place, so that ray_distil is found.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from ray_distil.commands import ablate

if __name__ == "__main__":
    sys.exit(ablate.main())
