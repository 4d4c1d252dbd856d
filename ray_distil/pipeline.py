"""The ordered stages of a run; those already complete are skipped."""

import fcntl
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from ray_distil import UserError, curation, instructions, long2short, schemas, teacher
from ray_distil.config import DistillConfig, EngineConfig, resolve_model
from ray_distil.engine import build
from ray_distil.shards import Artifact, Manifest, fingerprint, model_fingerprint, write_text

# Writes the artifact's shards; returns how many rows went in, and the manifest's summary.
Make = Callable[[Artifact], tuple[int, dict[str, Any]]]

# One definition of what every worker process sees, on this machine and on a cluster.
WORKER_ENV = {
    "TOKENIZERS_PARALLELISM": "false",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
}


class Run:
    """A run's folder while its stages are made."""

    def __init__(self, config: DistillConfig, say: Callable[[str], None] = print) -> None:
        self.config, self.say, self.folder = config, say, config.run_folder

    def stage(
        self,
        module: Any,
        artifact: str,
        schema: pa.Schema,
        unit: str,
        settings: dict[str, Any],
        inputs: list[str],
        make: Make,
    ) -> Artifact:
        """One stage: skipped if its artifact is complete, else made (or gone on with) and its manifest written."""
        made_of = fingerprint(module.STAGE, module.VERSION, settings, inputs)
        target = Artifact(self.folder / artifact, schema, made_of)
        manifest = target.manifest()
        if manifest is not None:
            self.say(f"{module.STAGE:<12} complete: {_counts(manifest)}")
            return target
        started = time.monotonic()
        target.start()
        rows_in, summary = make(target)
        manifest = target.finish(module.STAGE, unit, rows_in, time.monotonic() - started, summary)
        self.say(f"{module.STAGE:<12} {manifest.seconds:6.1f} s: {_counts(manifest)}")
        return target


def run(config: DistillConfig, say: Callable[[str], None] = print) -> Path:
    """Make what the run does not have yet; returns its folder.

    Raises UserError for mistakes, before anything is written, and StageError where a stage cannot finish.
    """
    models = resolve_models(config)
    records = instructions.collect(config.instructions, config.run.seed)
    this = Run(config, say)
    with run_lock(this.folder):
        write_text(this.folder / "config.yaml", config.to_yaml())
        problems = make_instructions(this, records)
        responses = make_responses(this, problems, models)
        rewrites = make_rewrites(this, responses, models)
        make_examples(this, responses, rewrites)
    return this.folder


def resolve_models(config: DistillConfig) -> dict[str, str]:
    """Key of the configuration -> folder or hub name of its model. Raises ConfigError for one that is not there."""
    named = {"training.student": config.training.student}
    for name, asked in (("direct", config.teachers.direct), ("slow", config.teachers.slow)):
        if asked is not None:
            named[f"teachers.{name}.engine.model_source"] = asked.engine.model_source
    if config.long2short.engine is not None:
        named["long2short.engine.model_source"] = config.long2short.engine.model_source
    for index, model in enumerate(config.evaluation.models):
        if model.model_source != "student":
            named[f"evaluation.models.{index}.model_source"] = model.model_source
    return {key: resolve_model(source, key) for key, source in named.items()}


def make_instructions(this: Run, records: pa.Table) -> Artifact:
    config = this.config.instructions
    settings = config.model_dump(mode="json", exclude={"suffix"}) | {"seed": this.config.run.seed}

    def make(artifact: Artifact) -> tuple[int, dict[str, Any]]:
        artifact.write_table(records, instructions.STAGE)
        return records.num_rows, {}

    inputs = instructions.source_fingerprint(config)
    return this.stage(instructions, "instructions", schemas.INSTRUCTIONS, "instructions", settings, inputs, make)


def make_responses(this: Run, problems: Artifact, models: dict[str, str]) -> Artifact:
    config, seed, suffix = this.config.teachers, this.config.run.seed, this.config.instructions.suffix
    teachers = {name: asked for name, asked in (("direct", config.direct), ("slow", config.slow)) if asked is not None}
    model_of = {name: models[f"teachers.{name}.engine.model_source"] for name in teachers}
    settings = {"seed": seed, "suffix": suffix}
    for name, asked in teachers.items():
        settings[name] = asked.model_dump(mode="json", exclude={"engine"}) | _engine_settings(
            asked.engine, model_of[name]
        )

    def make(artifact: Artifact) -> tuple[int, dict[str, Any]]:
        start_ray(this.config)
        table = problems.read_table(["instruction_id", "split"])
        train = table.filter(pa.compute.equal(table["split"], "train"))["instruction_id"].to_pylist()
        done = artifact.done_ids()
        rows_in, made = 0, []
        for name, asked in teachers.items():
            rows_in += teacher.num_requests(train, name, asked.fraction, asked.num_samples)
            made.append(
                teacher.responses(
                    problems.read(rows_per_block=asked.engine.batch_size),
                    build(asked.engine, model_of[name]),
                    name,
                    model_of[name],
                    done,
                    fraction=asked.fraction,
                    num_samples=asked.num_samples,
                    sampling_params=asked.sampling_params.model_dump(),
                    seed=seed,
                    suffix=suffix,
                )
            )
        artifact.write(made, teacher.STAGE, this.config.run.parallel_engines)
        return rows_in, {}

    return this.stage(teacher, "responses", schemas.RESPONSES, "responses", settings, [problems.fingerprint], make)


def make_rewrites(this: Run, responses: Artifact, models: dict[str, str]) -> Artifact | None:
    config, slow, seed = this.config.long2short, this.config.teachers.slow, this.config.run.seed
    if not config.enabled or slow is None:
        return None
    engine = config.engine or slow.engine
    model = models["long2short.engine.model_source" if config.engine else "teachers.slow.engine.model_source"]
    gates = enabled_gates(this.config)
    params = config.sampling_params.model_dump()
    settings = {"sampling_params": params, "gates": gates, "seed": seed, **_engine_settings(engine, model)}

    def make(artifact: Artifact) -> tuple[int, dict[str, Any]]:
        start_ray(this.config)
        table = responses.read_table(["response_id", "teacher"])
        rows_in = table.filter(pa.compute.equal(table["teacher"], "slow")).num_rows
        sources = responses.read(rows_per_block=engine.batch_size).filter(lambda row: row["teacher"] == "slow")
        unfit, rewritten = long2short.rewrites(
            sources, build(engine, model), model, gates, params, seed, artifact.done_ids()
        )
        artifact.write([unfit, rewritten], long2short.STAGE)
        return rows_in, {}

    return this.stage(long2short, "rewrites", schemas.REWRITES, "rewrites", settings, [responses.fingerprint], make)


def make_examples(this: Run, responses: Artifact, rewrites: Artifact | None) -> Artifact:
    gates, suffix = enabled_gates(this.config), this.config.instructions.suffix
    inputs = [responses.fingerprint] + ([rewrites.fingerprint] if rewrites else [])

    def make(artifact: Artifact) -> tuple[int, dict[str, Any]]:
        start_ray(this.config)
        table = responses.read_table(["response_id", "teacher"])
        used = table.num_rows
        if rewrites is not None:
            used = table.filter(pa.compute.not_equal(table["teacher"], "slow")).num_rows
        rows_in = used + (rewrites.read_table(["rewrite_id"]).num_rows if rewrites is not None else 0)
        made = curation.curate(responses.read(), rewrites.read() if rewrites is not None else None, gates, suffix)
        artifact.write(made, curation.STAGE)
        return rows_in, {}

    settings = {"gates": gates, "suffix": suffix}
    return this.stage(curation, "sft_examples", schemas.SFT_EXAMPLES, "candidates", settings, inputs, make)


def enabled_gates(config: DistillConfig) -> list[str]:
    return [name for name, on in config.gates.model_dump().items() if on]


def _engine_settings(engine: EngineConfig, model: str) -> dict[str, Any]:
    """What of an engine changes its texts: the model and its arguments, not how many engines there are."""
    return {"model": model_fingerprint(model), "engine_kwargs": engine.engine_kwargs}


def start_ray(config: DistillConfig) -> None:
    """Connect to the cluster that the job runs on, else start a Ray on this machine."""
    import ray
    import ray.data

    for name in ("ray", "ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if not ray.is_initialized():
        ray.init(
            num_cpus=None if _on_a_cluster() else config.ray.num_cpus,
            runtime_env={"env_vars": WORKER_ENV},
            log_to_driver=False,
            logging_level=logging.ERROR,
            include_dashboard=None if _on_a_cluster() else False,
        )
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False


def _on_a_cluster() -> bool:
    import os

    return "RAY_ADDRESS" in os.environ


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """One process at a time in a run's folder. Raises UserError where another one is in it."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another process is making {folder}; wait for it, or give this run another run.name"
            ) from None
        yield


def _counts(manifest: Manifest) -> str:
    return f"{manifest.rows_in:,} in, {manifest.rows_out:,} out, {manifest.rows_rejected:,} rejected ({manifest.unit})"
