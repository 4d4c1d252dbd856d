"""Who generates text, and how: vLLM engines or an endpoint, and sampling. Engines read these sections."""

import json
import re
from math import prod
from typing import Annotated, Any, Literal

from pydantic import Field, WithJsonSchema, field_validator, model_validator

from ray_distil.config.section import SECRET, ImportPath, Section

OWN_KEYS = {"model": "see endpoint.model", "messages": "see system_prompt", "stream": "see endpoint.stream"}

_NUMBER = {"type": "integer", "minimum": 1}
NUMBER_OR_RANGE = {"anyOf": [_NUMBER, {"type": "array", "items": _NUMBER, "minItems": 2, "maxItems": 2}]}
_URL = {"type": "string", "pattern": "^https?://"}
URL_OR_LIST = {"anyOf": [_URL, {"type": "array", "items": _URL, "minItems": 1}]}

# Arguments of `apply_chat_template` that are its own, and not variables of a template.
RESERVED = {
    "conversation", "messages", "chat_template", "tools", "documents", "add_generation_prompt", "continue_final_message",
    "tokenize", "padding", "truncation", "max_length", "return_tensors", "return_dict", "return_assistant_tokens_mask",
    "tokenizer_kwargs",
}  # fmt: skip


def check_template_kwargs(variables: dict[str, Any]) -> dict[str, Any]:
    """Raises ValueError where a variable of a chat template has the name of an argument that the run sets."""
    if taken := sorted(RESERVED & variables.keys()):
        raise ValueError(f"chat_template_kwargs: {taken[0]!r} is set by the run; give variables of the template only")
    return variables


class SamplingParams(Section):
    """vLLM's SamplingParams, by their own names. Not here is what a run sets itself: n, seed, and where a text ends.

    With `temperature` or `top_p` null, an engine samples as `vllm serve` does: temperature, top_p, top_k, min_p and
    repetition_penalty come from the model's generation_config.json, except those that are set here.
    """

    temperature: float | None = Field(0.0, ge=0, description="0 is greedy; null: the model's own")
    top_p: float | None = Field(1.0, gt=0, le=1, description="nucleus mass; null: the model's own")
    top_k: int | None = Field(None, ge=-1, description="most likely tokens that are drawn from; 0 or -1: all")
    min_p: float | None = Field(None, ge=0, le=1, description="least probability, as a share of the likeliest token's")
    repetition_penalty: float | None = Field(None, gt=0, description="on tokens of prompt and text; 1: none")
    presence_penalty: float | None = Field(None, ge=-2, le=2, description="on tokens that the text has; 0: none")
    frequency_penalty: float | None = Field(None, ge=-2, le=2, description="the same, for each time; 0: none")
    min_tokens: int | None = Field(None, ge=0, description="tokens before a text may end")
    bad_words: list[str] | None = Field(None, description="words that are never generated")
    allowed_token_ids: list[int] | None = Field(None, description="the only tokens that may be generated")
    thinking_token_budget: int | None = Field(None, ge=0, description="tokens of thought, then the thought is ended")
    max_tokens: int = Field(4096, ge=1, description="tokens; a text that reaches it is rejected, never cut to fit")

    @model_validator(mode="before")
    @classmethod
    def _of_the_model(cls, value: Any) -> Any:
        """Where the temperature is the model's own, so is top_p, unless it is set."""
        if isinstance(value, dict) and value.get("temperature", 0) is None:
            return {"top_p": None, **value}
        return value


class EngineConfig(Section):
    """A pool of vLLM engines for one model."""

    model_source: str = Field(
        min_length=1, description="model folder, ORG/NAME or ORG/NAME@REVISION of the hub, or tiny:NAME"
    )
    engine_kwargs: dict[str, Any] = Field(default_factory=dict, description="vLLM's engine arguments, unchanged")
    chat_template_kwargs: dict[str, Any] = Field(
        default_factory=dict, description="variables of the model's chat template, e.g. {enable_thinking: false}"
    )
    concurrency: Annotated[tuple[int, int], WithJsonSchema(NUMBER_OR_RANGE)] = Field(
        (1, 1), description="engines; a number, or [MIN, MAX]: as many as there is work and room for"
    )
    batch_size: int = Field(32, ge=1, description="rows a Ray Data batch, saved together; fewer where rows are few")
    max_concurrent_batches: int = Field(
        128,
        ge=1,
        description="batches in one engine, fewer where rows are few; max_concurrent_batches x batch_size is best at 4 "
        "times max_num_seqs or more: a batch is done when its longest row is, and leaves its places empty until then",
    )
    num_cpus: float = Field(1, ge=0, description="CPUs that each of an engine's workers reserves")
    num_gpus: float = Field(
        0,
        ge=0,
        description="GPUs that each of an engine's workers reserves: 1, or a share of one; an engine has "
        "tensor_parallel_size x pipeline_parallel_size workers",
    )
    accelerator_type: str | None = Field(None, description="Ray's name of the GPU type, e.g. H100")
    resources: dict[str, float] = Field(
        default_factory=dict, description="Ray's custom resources that each of an engine's workers reserves"
    )
    placement_group_strategy: Literal["PACK", "STRICT_PACK", "SPREAD", "STRICT_SPREAD"] | None = Field(
        None,
        description="of an engine's workers over nodes, as Ray's placement groups have it; null: STRICT_PACK where a "
        "node holds them all, else PACK",
    )
    env_vars: dict[str, str] = Field(
        default_factory=dict,
        description="environment of the engine's processes; a value under a name such as HF_TOKEN is written nowhere",
    )
    log_engine_metrics: bool | None = Field(None, description="vLLM's metrics among Ray's; null: on a cluster")

    @field_validator("chat_template_kwargs")
    @classmethod
    def _variables(cls, value: dict[str, Any]) -> dict[str, Any]:
        return check_template_kwargs(value)

    @field_validator("engine_kwargs")
    @classmethod
    def _numbers(cls, numbers: dict[str, Any]) -> dict[str, Any]:
        for name in ("tensor_parallel_size", "pipeline_parallel_size", "max_model_len"):
            value = numbers.get(name, 1)
            is_auto = name == "max_model_len" and value in (None, -1)
            if not is_auto and (type(value) is not int or value < 1):
                raise ValueError(f"engine_kwargs.{name}: {value!r} is no number of 1 or more")
        return numbers

    @model_validator(mode="after")
    def _a_gpu_a_worker(self) -> "EngineConfig":
        if self.num_workers > 1 and self.num_gpus > 1:
            raise ValueError(
                f"num_gpus: {self.num_gpus:g} for each of the engine's {self.num_workers} workers "
                f"(tensor_parallel_size x pipeline_parallel_size) are {self.num_gpus * self.num_workers:g} GPUs, and a "
                "worker uses one; set num_gpus=1"
            )
        return self

    @property
    def num_workers(self) -> int:
        """Workers of one engine, each with `num_cpus`, `num_gpus` and `resources` of its own."""
        return prod(int(self.engine_kwargs.get(f"{kind}_parallel_size", 1)) for kind in ("tensor", "pipeline"))

    @field_validator("concurrency", mode="before")
    @classmethod
    def _least_and_most(cls, value: Any) -> tuple[int, int]:
        least, largest = value if isinstance(value, list | tuple) and len(value) == 2 else (value, value)
        if type(least) is not int or type(largest) is not int or not 1 <= least <= largest:
            raise ValueError(f"concurrency: {value!r} is not a number of engines; give one, or [MIN, MAX]")
        return least, largest


def wrong_key(key: str, variable: str) -> str:
    """Why a key cannot be sent to an endpoint; "" if it can. The key itself is not in the text."""
    if key and not re.fullmatch(r"[!-~]+", key):
        return (
            f"the key in {variable} holds a blank, a line break or a character that no HTTP header takes, as quotation marks "
            "of a text editor; export it anew"
        )
    return ""


class EndpointConfig(Section):
    """An OpenAI-compatible endpoint. Its key is read from the environment of the nodes and written nowhere."""

    base_url: Annotated[str | list[str], WithJsonSchema(URL_OR_LIST)] = Field(
        description="e.g. https://api.deepseek.com/v1; or a list of URLs that serve the same model, e.g. of a fleet of "
        "`vllm serve`: a request goes to the one with the fewest in flight, and from one that is away to another"
    )
    model: str = Field(min_length=1, description="name that the endpoint gives the model")
    api_key_env: str | None = Field("OPENAI_API_KEY", description="environment variable with the key; null: none")
    max_concurrency: int = Field(
        64, ge=1, description="requests in flight, at all URLs together; each thousand has a client process of its own"
    )
    requests_per_minute: float | None = Field(
        None, gt=0, description="in the mean, to all URLs; sections that name one server have a limit each; null: none"
    )
    tokens_per_minute: float | None = Field(None, gt=0, description="of prompts and replies, in the mean; as above")
    max_retries: int = Field(
        8, ge=0, description="further tries of a request, with growing pauses: 8 take about 90 seconds"
    )
    timeout_s: float = Field(600, gt=0, description="seconds without a sign of the endpoint, once a request is sent")
    total_timeout_s: float | None = Field(3600, gt=0, description="seconds of one try; null: no limit")
    stream: bool = Field(False, description="replies come in parts: for endpoints that close long silent requests")
    request_params: dict[str, Any] = Field(
        default_factory=dict,
        description="more of each request, e.g. {enable_thinking: false}; null leaves one out that is sent else, "
        "e.g. {max_tokens: null, max_completion_tokens: 4096, seed: null, stream_options: null}",
    )
    num_cpus: float = Field(0.1, ge=0, description="CPUs that a client process reserves")

    @property
    def urls(self) -> list[str]:
        """The base URLs, each once."""
        return list(dict.fromkeys([self.base_url] if isinstance(self.base_url, str) else self.base_url))

    @field_validator("base_url", mode="before")
    @classmethod
    def _each_is_a_url(cls, value: Any) -> Any:
        urls = value if isinstance(value, list) else [value]
        for url in urls:
            if not isinstance(url, str) or not re.match(_URL["pattern"], url):
                raise ValueError(f"base_url: {url!r} is no URL; give e.g. http://HOST:8000/v1, or a list of such URLs")
        if not urls:
            raise ValueError("base_url: the list is empty; give at least one URL")
        return value

    @field_validator("request_params")
    @classmethod
    def _not_ours(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in ("model", "messages", "stream"):
            if name in value:
                raise ValueError(f"request_params: {name!r} is set by the run; " + OWN_KEYS[name])
        if value.get("n") not in (None, 1):
            raise ValueError("request_params: n is 1, each sample is a request of its own; set num_samples")
        return value


class BackendConfig(Section):
    """An engine of your own, built by a function of yours (docs/doors.md)."""

    build: ImportPath = Field(description="a function of your own that builds generation, as `my_engine:build`")
    model: str = Field(min_length=1, description="name of the model, for fingerprints and the report")
    kwargs: dict[str, Any] = Field(default_factory=dict, description="arguments of the function; they change texts")
    batch_size: int = Field(16, ge=1, description="rows of a block, saved together")

    @field_validator("kwargs")
    @classmethod
    def _no_secrets(cls, value: dict[str, Any]) -> dict[str, Any]:
        if secrets := [name for name in value if SECRET.search(name)]:
            raise ValueError(
                f"kwargs: {secrets[0]!r} is the name of a secret, and would be written into the run; let the function read it from the environment"
            )
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"kwargs: they must have a form in JSON ({error})") from error
        return value


class Asked(Section):
    """Who generates: engines of our own, an endpoint, or an engine of the user's own."""

    engine: EngineConfig | None = None
    endpoint: EndpointConfig | None = None
    backend: BackendConfig | None = None

    @property
    def backends(self) -> list[str]:
        """The names of those that are set."""
        return [name for name in ("engine", "endpoint", "backend") if getattr(self, name) is not None]
