"""Write the report of a run anew, or compare several runs on one page.

python jobs/report.py runs/tiny                                  runs/tiny/report/report.html, from what the run holds
python jobs/report.py runs/tiny runs/eval --output both.html     the models of both, benchmark by benchmark

`--help` has more; the same as `ray-distil report`.
"""

import sys
from pathlib import Path

# Python puts jobs/ first on sys.path. The repository's root takes its place, so that ray_distil is found.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from ray_distil.commands import report

if __name__ == "__main__":
    sys.exit(report.main())
