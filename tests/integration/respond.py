"""The stages that generate, alone, as a process that a test can stop.

python respond.py key=value ...
python respond.py --null-engine=SECONDS,START[,LOG] key=value ...    null engines, with these arguments of NullEngine
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)

from ray_distil import stages  # noqa: E402
from ray_distil.commands import cli  # noqa: E402
from ray_distil.config import load  # noqa: E402
from ray_distil.config.models import resolve_models  # noqa: E402
from ray_distil.problems import collecting  # noqa: E402
from ray_distil.runner.lease import run_lock  # noqa: E402
from ray_distil.runner.runs import Run  # noqa: E402
from tests import null_engine  # noqa: E402

NULL_ENGINE = "--null-engine="
EXAMPLES = "--examples"


def main() -> None:
    overrides = sys.argv[1:]
    if overrides[0].startswith(NULL_ENGINE):
        seconds, start, *log = overrides.pop(0).removeprefix(NULL_ENGINE).split(",")
        null_engine.install(float(seconds), float(start), *log)
    examples = overrides[0] == EXAMPLES
    config = load(None, overrides[examples:])
    run = Run(config, resolve_models(config))
    with run_lock(run.folder):
        problems = stages.make_instructions(run, collecting.collect(config.instructions, config.run.seed))
        responses = stages.make_responses(run, problems)
        rewrites = stages.make_rewrites(run, responses)
        if examples:
            stages.make_examples(run, responses, rewrites)
    assert "vllm" not in sys.modules, "the driver has loaded vLLM"  # only engines need it


if __name__ == "__main__":
    sys.exit(cli.guarded(main, lambda: Path.cwd() / "logs"))
