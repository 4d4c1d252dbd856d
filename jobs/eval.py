"""Compare models on benchmarks, without a distillation: accuracy with its interval, and tokens.

python jobs/eval.py --benchmarks tiny --models slow=tiny:student-slow base=tiny:student-base
python jobs/eval.py --benchmarks aime24,math500 --models mine=PATH Qwen/Qwen2.5-7B-Instruct --plan
python jobs/eval.py --benchmarks gpqa_diamond=gpqa_diamond.csv --models api=https://HOST/v1#MODEL --api-key-env KEY
python jobs/eval.py --status runs/eval

`--help` has more; the same as `ray-distil eval`.
"""

import sys
from pathlib import Path

# Python puts jobs/ first on sys.path. The repository's root takes its place, so that ray_distil is found.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from ray_distil.commands import evaluate

if __name__ == "__main__":
    sys.exit(evaluate.main())
