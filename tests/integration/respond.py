"""The stages that generate, alone, as a process that a test can stop: python respond.py key=value ..."""

import sys
from pathlib import Path

from ray_distil import cli, instructions, stages
from ray_distil.config import load
from ray_distil.models import resolve_models
from ray_distil.runs import Run, run_lock


def main() -> None:
    config = load(None, sys.argv[1:])
    run = Run(config, resolve_models(config))
    with run_lock(run.folder):
        problems = stages.make_instructions(run, instructions.collect(config.instructions, config.run.seed))
        stages.make_rewrites(run, stages.make_responses(run, problems))


if __name__ == "__main__":
    sys.exit(cli.guarded(main, lambda: Path.cwd() / "logs"))
