"""The problems of a declared benchmark, read once for all models."""

from ray_distil.config import TINY
from ray_distil.config.evaluation_config import BenchmarkConfig
from ray_distil.problems.benchmark_rows import content, problems
from ray_distil.runner.runs import Run
from ray_distil.runner.stage import Made, Stage
from ray_distil.runner.stage_settings import StageSettings
from ray_distil.store.artifact import Artifact
from ray_distil.store.schemas import BENCHMARK
from ray_distil.store.shards import table_of

NAME = "benchmark"  # in fingerprints
VERSION = 2


class Benchmarks(Stage):
    """The problems of one benchmark, in benchmarks/NAME."""

    fingerprint_name, version = NAME, VERSION
    schema, unit = BENCHMARK, "problems"

    def __init__(self, run: Run, benchmark: BenchmarkConfig) -> None:
        self.run, self.benchmark, self.artifact = run, benchmark, f"benchmarks/{benchmark.name}"
        self.settings, self.inputs = settings_of(benchmark), [content(benchmark)]

    def make(self, artifact: Artifact) -> Made:
        rows = problems(self.benchmark)
        if not rows:
            self.run.display.say(f"{self.benchmark.name}: {self.benchmark.path!r} holds no problem")
        artifact.write_table(table_of(rows, BENCHMARK), self.artifact)
        return len(rows), {"limit": self.benchmark.limit}


def settings_of(config: BenchmarkConfig) -> StageSettings:
    """What makes the problems: neither how often they are asked, nor the path. The content at the path is an input."""
    keys = {"name", "columns", "keep", "answer", "answer_after", "no_choice", "limit"}
    values = config.model_dump(mode="json", include=keys) | {"prompt": config.template}
    return StageSettings(values | ({"num_problems": config.num_problems} if config.path == TINY else {}))
