"""Follow a problem through a run: its texts, what became of each, and why.

python jobs/trace.py runs/tiny "Olga has 49"

`--help` has more; the same as `ray-distil trace`.
"""

import sys
from pathlib import Path

# Python puts jobs/ first on sys.path. The repository's root takes its place, so that ray_distil is found.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from ray_distil.commands import trace

if __name__ == "__main__":
    sys.exit(trace.main())
