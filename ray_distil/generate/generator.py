"""A model that generates texts, resolved: the model, its engine or endpoint, sampling, prompt, and what marks its texts.

`generators.py` finds those of a configuration. Stages generate with them, fingerprints hold their marks, preflight
checks them, and the plan counts their tokens and GPUs.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from math import ceil
from typing import Any

from ray_distil.chat.chat_templates import ChatSettings, chat_settings
from ray_distil.chat.families import special_tokens
from ray_distil.config.engine_config import BackendConfig, EndpointConfig, EngineConfig, SamplingParams
from ray_distil.generate import endpoint, engine, own_backend
from ray_distil.generate.engine_arguments import of_texts
from ray_distil.generate.generation import Generate
from ray_distil.generate.question import Question
from ray_distil.runtime.user_code import current_mark
from ray_distil.store import hub
from ray_distil.store.hub import local_copy
from ray_distil.store.manifest import model_fingerprint, versions

# The sampling parameters that `vllm serve` takes from a model's generation_config.json. max_new_tokens is not among them
# here: `max_tokens` is always set.
OF_THE_MODEL = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
# An endpoint's request_params that change no text: they set place, speed and price.
SILENT_PARAMS = {"stream_options", "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"}
# vLLM's engine arguments that earlier versions of this package left out of the marks of texts; all others were in them.
SILENT_BEFORE = {
    "block_size", "compilation_config", "cpu_offload_gb", "disable_log_stats", "distributed_executor_backend",
    "download_dir", "enable_chunked_prefill", "enable_prefix_caching", "enforce_eager", "gpu_memory_utilization",
    "kv_cache_memory_bytes", "load_format", "max_model_len", "max_num_batched_tokens", "max_num_seqs",
    "max_parallel_loading_workers", "pipeline_parallel_size", "swap_space", "tensor_parallel_size",
}  # fmt: skip


@dataclass(frozen=True)
class Generator:
    """A model that generates texts.

    section: where the configuration has its sampling, e.g. "teachers.slow". backend_section: where it has the engine or
    the endpoint. model: a folder, a hub name, or the endpoint's name for it. system_prompt: None: the chat template's
    own. suffix: text behind each problem. split: the part of the run's own problems that it answers, "train" or "eval";
    "": other texts. date: the day that chat templates write, if any does. untrained: the model whose chat template and
    generation config stand in the marks, where `model` is a student that this run trains.
    """

    section: str
    backend_section: str
    model: str
    backend: EngineConfig | EndpointConfig | BackendConfig
    sampling: SamplingParams
    system_prompt: str | None = None
    suffix: str = ""
    seed: int = 0
    split: str = ""
    date: Callable[[], str] | None = None
    untrained: str | None = None

    @property
    def engine(self) -> EngineConfig | None:
        return self.backend if isinstance(self.backend, EngineConfig) else None

    @property
    def endpoint(self) -> EndpointConfig | None:
        return self.backend if isinstance(self.backend, EndpointConfig) else None

    @property
    def label(self) -> str:
        """The engine and its version, or the endpoint's model, as the report names them."""
        if self.endpoint is not None:
            return f"endpoint {self.endpoint.model}"
        if isinstance(self.backend, BackendConfig):
            return self.backend.build
        return next((f"{name} {number}" for name, number in versions().items() if name.startswith("vllm")), "vllm")

    @property
    def imports(self) -> tuple[str, ...]:
        """The modules that generation imports, to load them while Ray starts."""
        return engine.IMPORTS if self.engine is not None else ()

    @property
    def is_slow_teacher(self) -> bool:
        """Whether the slow teacher's engine or endpoint generates, be it rewrites."""
        return self.backend_section == "teachers.slow"

    @property
    def num_gpus(self) -> int:
        """The GPUs that its engines hold at once; 0 for an endpoint."""
        return num_gpus(self.engine)

    def chat(self, model: str | None = None) -> ChatSettings:
        """What the chat template of `model`, by default its own, gets beside the messages."""
        variables = self.engine.chat_template_kwargs if self.engine is not None else {}
        return chat_settings(model or self.model, variables, self.date)

    def question(self, num_samples: int = 1, fraction: float = 1.0) -> Question:
        """How it is asked about each problem; see `Question`."""
        return Question(self.sampling_params, num_samples, self.seed, fraction, self.suffix, self.system_prompt)

    def generate(self, num_rows: int) -> Generate:
        """Generation of at most `num_rows` rows."""
        if isinstance(self.backend, EndpointConfig):
            return endpoint.build(self.backend, num_rows)
        if isinstance(self.backend, BackendConfig):
            return own_backend.build(self.backend, f"{self.backend_section}.backend", num_rows)
        return engine.build(self.backend, self.model, self.chat(), num_rows)

    def one_at_a_time(self) -> "Generator":
        """The same with one engine, or one connection, that works on one request at a time."""
        alone: dict[str, Any] = {"max_concurrency": 1}
        if self.engine is not None:
            alone = {"concurrency": (1, 1), "batch_size": 1, "max_concurrent_batches": 1}
        return replace(self, backend=self.backend.model_copy(update=alone))

    @cached_property
    def sampling_params(self) -> dict[str, Any]:
        """The sampling parameters of a request, without those that nobody sets.

        Where temperature or top_p is null, the model's own values take the place of what is not set. An endpoint sets
        them itself; for an engine they are read from the model's generation_config.json; of a student that this run
        trains, from that of the untrained one.
        """
        values = self.sampling.model_dump()
        if self.engine is not None and None in (self.sampling.temperature, self.sampling.top_p):
            defaults = generation_config(self._marked)
            values |= {name: defaults.get(name) for name in OF_THE_MODEL if values[name] is None}
        return {name: value for name, value in values.items() if value is not None}

    def texts(self, by_earlier_rules: bool = False) -> dict[str, Any]:
        """All that changes its texts; a hash of it marks them.

        It has neither the number of engines nor an endpoint's address. Nor the limits `max_tokens` and `max_model_len`: a
        text that ends in time is the same under a larger limit. At temperature 0 nothing is drawn, and neither the seed
        nor top_p counts.
        """
        sampling = {name: value for name, value in self.sampling_params.items() if name != "max_tokens"}
        seed = self.seed
        if not by_earlier_rules and sampling.get("temperature") == 0:
            seed, sampling = 0, sampling | {"top_p": 1.0}
        prompt = {"seed": seed, "suffix": self.suffix, "system_prompt": self.system_prompt}
        return prompt | {"sampling_params": sampling} | self._identity(by_earlier_rules)

    @property
    def limits(self) -> dict[str, int | None]:
        """The limits to the length of its texts."""
        context = self.engine.engine_kwargs.get("max_model_len") if self.engine is not None else None
        return {"max_tokens": self.sampling.max_tokens, "max_model_len": context}

    @property
    def _marked(self) -> str:
        return self.untrained or self.model

    def _identity(self, by_earlier_rules: bool) -> dict[str, Any]:
        """The model and those of its arguments that change texts."""
        model = self._marked
        if isinstance(self.backend, EndpointConfig):
            params = {name: v for name, v in self.backend.request_params.items() if name not in SILENT_PARAMS}
            return {"model": model} | ({"request_params": params} if params else {})

        if isinstance(self.backend, BackendConfig):
            build = current_mark(self.backend.build, f"{self.backend_section}.backend.build")
            return {"model": model, "backend": build, "kwargs": self.backend.kwargs}

        chat, kwargs = self.chat(model), self.backend.engine_kwargs
        # Texts of an engine that left out the marks of thinking are others.
        marks = {"special_tokens": "kept"} if special_tokens(model) else {}
        if not by_earlier_rules:
            texts = {"model": model_fingerprint(model), "engine_kwargs": of_texts(kwargs), "chat": asdict(chat)}
            return texts | marks
        if "revision" in kwargs and hub.is_at_commit(model):
            model = hub.split(model)[0]  # the revision was not looked up
        kwargs = {name: value for name, value in kwargs.items() if name not in SILENT_BEFORE}
        return {"model": model_fingerprint(model), "engine_kwargs": kwargs, "chat": asdict(chat)}


def num_gpus(config: EngineConfig | None) -> int:
    """The GPUs that a pool of engines holds at once; 0 without one."""
    if config is None or not config.num_gpus:
        return 0
    return ceil(config.num_gpus * config.num_workers) * config.concurrency[1]


def generation_config(model: str) -> dict[str, Any]:
    """The values that the model's generation_config.json sets; {} without one."""
    from ray_distil.chat.auto_classes import GenerationConfig

    try:
        return dict(GenerationConfig.from_pretrained(local_copy(model)).to_diff_dict())
    except OSError:  # no generation_config.json
        return {}
