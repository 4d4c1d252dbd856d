"""Download models into folders that a configuration can name.

python jobs/download.py 7B                                        alibaba-pai/DistilQwen2.5-DS3-0324-7B; 14B and 32B too
python jobs/download.py 7B 14B 32B --from modelscope --to models  from ModelScope (pip install modelscope)
python jobs/download.py Qwen/Qwen2.5-7B-Instruct                  any model of the hub

`--help` has more; the same as `ray-distil download`.
"""

import sys
from pathlib import Path

# Python puts jobs/ first on sys.path. The repository's root takes its place, so that ray_distil is found.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from ray_distil.commands import download

if __name__ == "__main__":
    sys.exit(download.main())
