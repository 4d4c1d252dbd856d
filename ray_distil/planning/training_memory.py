"""The memory that training takes on each GPU, by arithmetic: before anything is paid for.

    weights, gradients, optimizer    2 + 4 + 12 bytes a parameter in bf16, each divided as the ZeRO stage divides it
    activations                      what each layer keeps for the backward pass; with recompute its input alone
    buckets                          what DeepSpeed gathers and reduces at a time
    head, or one layer               the larger of two peaks: the output layer with its loss, or a layer computed again

The bytes of a layer, (22 h + 4 key width + 8 inner) a token, were measured on layers of Qwen2.5 from 0.5B to 32B
(`saved_tensors_hooks`). Two peaks on an H100 with a 0.5B student and 16,384 tokens were 32.0 and, with recompute, 11.6 GiB;
this gives 33.0 and 12.0. CUDA and NCCL take 2 to 3 GiB beside it.
"""

from dataclasses import dataclass
from typing import Any

GIB = 2**30
BUCKET = 5e8  # elements, DeepSpeed's reduce_bucket_size
BUCKET_BYTES = 6  # an element in bf16, and its float32 sum
GATHERED = 2e9  # bytes of weights that stage 3 gathers at most
LOGITS = 2**29  # elements at a time (`loss.py`)
LEARNT = 0.5  # share of the tokens whose loss is computed
OF_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


@dataclass(frozen=True)
class Sizes:
    """Of a decoder of dense layers. keys: the width of the keys of all heads."""

    hidden: int
    layers: int
    queries: int
    keys: int
    inner: int
    vocabulary: int
    is_tied: bool

    @classmethod
    def of(cls, config: Any) -> "Sizes | None":
        """From a Transformers configuration; None for a model of another kind, e.g. of experts."""
        text = getattr(config, "text_config", None) or config
        names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
        numbers = [getattr(text, name, None) for name in names]
        if not all(isinstance(number, int) and number for number in numbers):
            return None
        if any(getattr(text, name, None) for name in OF_EXPERTS):
            return None
        hidden, layers, heads, inner, vocabulary = (int(number) for number in numbers if number)
        width = getattr(text, "head_dim", None) or hidden // heads
        key_heads = getattr(text, "num_key_value_heads", None) or heads
        is_tied = bool(getattr(text, "tie_word_embeddings", False))
        return cls(hidden, layers, heads * width, key_heads * width, inner, vocabulary, is_tied)

    @property
    def layer(self) -> int:
        """Parameters of a layer, without norms."""
        return self.hidden * (2 * self.queries + 2 * self.keys + 3 * self.inner)

    @property
    def parameters(self) -> int:
        return self.layers * self.layer + self.vocabulary * self.hidden * (1 if self.is_tied else 2)

    @property
    def bytes_of_layer(self) -> int:
        """Bytes that a layer keeps of a token for the backward pass."""
        return 22 * self.hidden + 4 * self.keys + 8 * self.inner


@dataclass(frozen=True)
class Memory:
    """Bytes on each GPU. The peak has all of `states`, `activations` and `buckets`, and the larger of `head` and `layer`."""

    states: float
    activations: float
    buckets: float
    head: float
    layer: float

    @property
    def gib(self) -> float:
        return (self.states + self.activations + self.buckets + max(self.head, self.layer)) / GIB

    def __str__(self) -> str:
        """E.g. "49 GiB a GPU: states 31, activations 4.7, buckets 3.9, output layer and loss 9.3"."""
        last = ("output layer and loss", self.head) if self.head >= self.layer else ("one layer", self.layer)
        parts = [("states", self.states), ("activations", self.activations), ("buckets", self.buckets), last]
        return f"{self.gib:.0f} GiB a GPU: " + ", ".join(f"{name} {size / GIB:.1f}" for name, size in parts if size)


def of_training(
    sizes: Sizes, tokens: int, num_workers: int, stage: int, recompute: bool, bf16: bool = True, offload: bool = False
) -> Memory:
    """tokens: of a micro-step. stage: of ZeRO. offload: the optimizer lies in the host's memory."""
    divided_by = {0: (1, 1, 1), 1: (1, 1, num_workers), 2: (1, num_workers, num_workers), 3: (num_workers,) * 3}[stage]
    of_parameter = (2, 4, 12) if bf16 else (4, 4, 8)
    weights, gradients, optimizer = (
        size * sizes.parameters / parts for size, parts in zip(of_parameter, divided_by, strict=True)
    )
    if offload:
        gradients, optimizer = (gradients if stage == 3 else 0.0), 0.0

    # What a micro-step holds.
    width = 1 if bf16 else 2
    of_layer = width * sizes.bytes_of_layer * tokens
    logits = 4 * min(LOGITS, LEARNT * tokens * sizes.vocabulary) + 4 * LEARNT * tokens * sizes.hidden
    gathered = min(GATHERED, 4 * sizes.layer + 1e8) if stage == 3 else 0.0
    return Memory(
        states=weights + gradients + optimizer,
        activations=sizes.layers * (2 * width * sizes.hidden * tokens if recompute else of_layer),
        buckets=gathered + (BUCKET_BYTES * BUCKET if stage >= 2 else 0.0),
        head=sizes.vocabulary * sizes.hidden * (10 if stage == 3 else 8) + logits,
        layer=(1.4 if recompute else 0.4) * of_layer,
    )
