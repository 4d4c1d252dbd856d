"""Generation by local vLLM engines through ray.data.llm, with the contract of `generation.py`.

Prompts are encoded and checked before the engine sees them: one bad prompt can end an engine and lose the rows in
flight.
"""

import ast
import os
from collections.abc import Iterator, Mapping
from dataclasses import fields
from difflib import get_close_matches
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray_distil.chat.chat_templates import ChatSettings
from ray_distil.chat.model_files import TRUST
from ray_distil.config.engine_config import EngineConfig
from ray_distil.config.findings import Finding
from ray_distil.config.section import SECRET
from ray_distil.generate.engine_arguments import DUMMY
from ray_distil.generate.generation import Generate
from ray_distil.generate.suspects import deaths_actor, watched
from ray_distil.generate.token_rows import encode_batch, finish_batch, finish_options
from ray_distil.runtime.session import is_local
from ray_distil.store.hub import local_copy

if TYPE_CHECKING:
    from ray.data import Dataset

IMPORTS = ("ray_distil.chat.auto_classes", "ray_distil.generate.ray_llm")  # `build` loads them, which takes seconds
PICKLES = ("pt", "npcache")  # of `load_format`: weights that are not safetensors


def unknown_arguments(engines: dict[str, EngineConfig]) -> Iterator[Finding]:
    """A finding for each engine argument that vLLM does not know. `engines`: key -> engine."""
    for key, engine in sorted(engines.items()):
        for name in sorted(engine.engine_kwargs.keys() - known_arguments()):
            near = get_close_matches(name, known_arguments(), n=1)
            hint = f"did you mean {near[0]!r}?" if near else "see vLLM's engine arguments"
            yield Finding(f"{key}.engine_kwargs.{name}", f"vLLM has no such argument; {hint}")


@lru_cache(maxsize=1)
def known_arguments() -> frozenset[str]:
    """vLLM's engine arguments. They are read from its source, since its import takes more than ten seconds."""
    package = find_spec("vllm")
    folders = package.submodule_search_locations if package is not None else None
    source = Path(folders[0], "engine", "arg_utils.py") if folders else None
    if source is not None and source.exists():
        names = {
            item.target.id
            for node in ast.parse(source.read_text("utf-8")).body
            if isinstance(node, ast.ClassDef) and node.name in ("EngineArgs", "AsyncEngineArgs")
            for item in node.body
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
        }
        if names:
            return frozenset(names)
    from vllm import AsyncEngineArgs

    return frozenset(field.name for field in fields(AsyncEngineArgs))


def batches_of(config: EngineConfig, num_rows: int) -> tuple[int, int]:
    """Rows of a batch, and batches that an engine has at once, so that each engine of the pool gets its share of the rows.

    Ray Data gives batches to the engines that are ready. Else the first one would take all batches of a small stage:

        240 rows, 8 engines, batch_size 32, max_concurrent_batches 128   ->   batches of 30, 1 at once
    """
    share = max(1, -(-num_rows // config.concurrency[1]))  # rows of an engine, rounded up
    batch_size = min(config.batch_size, share)
    return batch_size, min(config.max_concurrent_batches, -(-share // batch_size))


def build(config: EngineConfig, model: str, chat: ChatSettings, num_rows: int) -> Generate:
    """Generation by a pool of local vLLM engines (ray.data.llm), for at most `num_rows` rows.

    `model` is a folder or a hub name.
    """
    batch_size, batches_at_once = batches_of(config, num_rows)
    # On one machine they are off by default: vLLM observes several values for each token, and Ray's agent handles each.
    log_metrics = not is_local() if config.log_engine_metrics is None else config.log_engine_metrics
    engine_kwargs = {"disable_log_stats": not log_metrics, **config.engine_kwargs}
    trusts = bool(engine_kwargs.get(TRUST))
    secret = {name: value for name, value in config.env_vars.items() if SECRET.search(name)}

    def generate(dataset: "Dataset") -> "Dataset":
        from ray.data.llm import build_processor, vLLMEngineProcessorConfig

        import ray_distil.generate.ray_llm  # noqa: F401  else `build_processor` imports vLLM

        processor = build_processor(
            vLLMEngineProcessorConfig(
                model_source=local_copy(model),
                engine_kwargs=dict(engine_kwargs),
                concurrency=config.concurrency,
                batch_size=batch_size,
                max_concurrent_batches=batches_at_once,
                max_tasks_in_flight_per_actor=batches_at_once,  # by default twice as many: the others stay idle
                accelerator_type=config.accelerator_type,
                placement_group_config={
                    "bundle_per_worker": {"CPU": config.num_cpus, "GPU": config.num_gpus, **config.resources},
                    "strategy": config.placement_group_strategy or strategy(config),
                },
                runtime_env={"env_vars": {name: v for name, v in config.env_vars.items() if name not in secret}},
                log_engine_metrics=log_metrics,
                should_continue_on_error=True,
                # `encode_batch` and vLLM do the work of these three stages; each stage would cost throughput.
                chat_template_stage=False,
                tokenize_stage=False,
                detokenize_stage=False,
            ),
            preprocess=_identity,
            postprocess=_identity,
        )
        name = "vLLMEngineStage"
        stage = processor.get_stage_by_name(name)
        capacity = batch_size * batches_at_once
        actor = with_environment(offline(whole_responses(stage.fn, model, engine_kwargs)), secret)
        changed = {"fn": watched(actor, deaths_actor(), capacity)}
        processor.stages[name] = stage.model_copy(update=changed)  # an assignment would lose its placement group
        # One block for each batch, so that all batches can be in flight and each is saved by itself. `repartition` must
        # stand right before `encode_batch`: Ray would fuse it with other operators, whose output is one block again.
        blocks = dataset.repartition(target_num_rows_per_block=batch_size)
        encoded = blocks.map_batches(
            encode_batch,
            batch_size=batch_size,
            batch_format="pyarrow",
            fn_kwargs={"model": model, "max_model_len": context_of(config), "chat": chat, TRUST: trusts},
        )
        options = finish_options(model, chat, trusts)
        return processor(encoded).map_batches(finish_batch, batch_size=None, batch_format="pyarrow", fn_kwargs=options)

    return generate


def with_environment(engine: type, values: Mapping[str, str]) -> type:
    """The actor of an engine, with environment variables set before the engine starts.

    This is for secrets, e.g. HF_TOKEN: Ray writes the `env_vars` of a runtime environment into its logs.
    """

    class WithEnvironment(engine):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            os.environ.update(values)  # the engine's own processes inherit it
            super().__init__(*arguments, **options)

    WithEnvironment.__name__ = engine.__name__  # Ray shows it as the name of the actor
    return WithEnvironment


def strategy(config: EngineConfig) -> str:
    """STRICT_PACK where a node of this Ray holds all workers of an engine, else PACK.

    With PACK, Ray divides an engine between two nodes that each have room for a part of it: its workers would exchange
    tensors over the network in each layer.
    """
    import ray

    needed = {"CPU": config.num_cpus, "GPU": config.num_gpus, **config.resources}
    holds = any(
        all(node["Resources"].get(name, 0) >= number * config.num_workers for name, number in needed.items())
        for node in ray.nodes()
        if node["Alive"]
    )
    return "STRICT_PACK" if holds else "PACK"


def context_of(config: EngineConfig) -> int | None:
    """max_model_len of an engine; None for the model's own length, for which vLLM takes -1 too."""
    max_model_len = config.engine_kwargs.get("max_model_len")
    return max_model_len if max_model_len != -1 else None


def offline(engine: type) -> type:
    """The actor class of an engine, with as many rows and tokens in a step as vLLM's own class for offline work, `LLM`.

    vLLM chooses `max_num_seqs` and `max_num_batched_tokens` by the card and by who uses the engine. ray.data.llm does not
    say who it is. Then vLLM takes 128 rows and 2,048 tokens on every card; for `LLM` on an H100, 1,024 and 16,384.
    """

    class Offline(engine):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            from vllm import AsyncEngineArgs
            from vllm.usage.usage_lib import UsageContext

            create = AsyncEngineArgs.create_engine_config

            def create_offline(self: Any, usage_context: Any = None, **more: Any) -> Any:
                return create(self, UsageContext.LLM_CLASS, **more)

            AsyncEngineArgs.create_engine_config = create_offline  # this process has one engine
            super().__init__(*arguments, **options)

    Offline.__name__ = engine.__name__  # Ray shows it as the name of the actor
    return Offline


def whole_responses(engine: type, uri: str, engine_kwargs: Mapping[str, Any]) -> type:
    """The actor class of an engine with two changes for which ray.data.llm has no option.

    - vLLM makes one output at the end (FINAL_ONLY). By default it makes an output for each token, with the whole text
      so far, and ray.data.llm reads only the last one.
    - `local_copy` downloads the model, as `load_format` and `download_dir` say. ray.data.llm's own download from an
      object store needs boto3 and does not know the options of a URI.
    """

    load_format = engine_kwargs.get("load_format")
    files: dict[str, Any] = {"weights": load_format != DUMMY, "every_format": load_format in PICKLES}
    files["cache"] = engine_kwargs.get("download_dir")

    class WholeResponses(engine):
        def __init__(self, *arguments: Any, model: str, **options: Any) -> None:
            super().__init__(*arguments, model=local_copy(uri, **files), **options)
            from vllm.sampling_params import RequestOutputKind

            generate = self.llm.engine.generate

            def generate_whole(*, sampling_params: Any, **request: Any) -> Any:
                sampling_params.output_kind = RequestOutputKind.FINAL_ONLY
                return generate(sampling_params=sampling_params, **request)

            self.llm.engine.generate = generate_whole

    WholeResponses.__name__ = engine.__name__  # Ray shows it as the name of the actor
    return WholeResponses


def _identity(row: dict[str, Any]) -> dict[str, Any]:
    return row
