"""Distil a slow-thinking teacher into a fast-thinking student: from instructions to a student and a report.

python jobs/distill.py                                       the tiny recipe, on this machine
python jobs/distill.py --config FILE run.name=first          a configuration, with overrides
python jobs/distill.py instructions.path=problems.jsonl      your own instructions
python jobs/distill.py --plan --config FILE                  rows, tokens, GPU-hours and disk, before anything starts
python jobs/distill.py --status runs/tiny                    what a run holds, finished or not

`--help` has more; the same as `ray-distil distill`.
"""

import sys
from pathlib import Path

# Python puts jobs/ first on sys.path. The repository's root takes its place, so that ray_distil is found.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from ray_distil.commands import distill

if __name__ == "__main__":
    sys.exit(distill.main())
