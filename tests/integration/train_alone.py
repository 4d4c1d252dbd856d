"""The training of a run alone, as a process that a test can kill: examples that are there, packed, and the student.

python train_alone.py key=value ...
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)

from ray_distil import stages  # noqa: E402
from ray_distil.commands import cli  # noqa: E402
from ray_distil.config import StagesConfig  # noqa: E402
from ray_distil.config.models import resolve_models  # noqa: E402
from ray_distil.config.section import apply_overrides, validate  # noqa: E402
from ray_distil.runner.lease import run_lock  # noqa: E402
from ray_distil.runner.runs import Run  # noqa: E402
from ray_distil.stages import make_checkpoint  # noqa: E402
from ray_distil.stages.sft_examples import ImportedExamples  # noqa: E402

NUM_WORKERS, NUM_EPOCHS = 2, 6
DATA = {
    "packing": {"max_length": 128},
    "training": {
        "student": "tiny:student-base",
        "num_workers": NUM_WORKERS,
        "resources_per_worker": {"student": 1},
        "num_train_epochs": NUM_EPOCHS,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "learning_rate": 1e-3,
        "bf16": False,
        "eval_fraction": 0.2,
    },
}


def record(k: int) -> dict[str, str]:
    steps = " ".join(f"Step {n}: {k} + {n} = {k + n}." for n in range(1, 2 + k % 4))
    return {"instruction": f"Ann has {k} pens. She buys 4 more. How many has she?", "output": f"{steps} \\boxed{{{k}}}"}


def main() -> None:
    config = validate(StagesConfig, apply_overrides(DATA, sys.argv[1:]))
    run = Run(config, resolve_models(config))
    with run_lock(run.folder):
        examples = run.make(ImportedExamples(run, [record(k) for k in range(60)], "records"))
        make_checkpoint(run, stages.make_packed(run, examples))


if __name__ == "__main__":
    sys.exit(cli.guarded(main, lambda: Path.cwd() / "logs"))
