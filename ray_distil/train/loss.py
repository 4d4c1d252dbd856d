"""The loss of a training step without the logits of all positions.

The logits of a row of 16,384 tokens over a vocabulary of 151,936 are 9.3 GiB in float32, and a plain loss holds three such
tensors. Here the output layer sees only positions whose next token is learnt. They come in chunks of some thousand
positions, and the logits of a chunk are freed before the next chunk.
"""

import inspect
import types
from typing import Any

import torch
from torch.nn.functional import linear

from ray_distil.train.attention import BORDERS
from ray_distil.train.small_copies import VOCABULARY, small_copy

NUM_TRIED = 8  # positions
# Logits in a chunk: on a GPU enough for its matrix units, on a CPU few enough for its caches.
CHUNK = {"cuda": 2**29, "cpu": 2**25}


def chunk_size(vocabulary: int, device: str) -> int:
    """Positions whose logits are made together, a multiple of 128."""
    return max(1, CHUNK.get(device, CHUNK["cuda"]) // vocabulary // 128) * 128


class _SummedLoss(torch.autograd.Function):
    """Cross-entropy of `hidden @ weight.T`, summed. Forward makes the gradients too, while a chunk's logits exist."""

    @staticmethod
    def forward(ctx: Any, hidden: Any, weight: Any, targets: Any) -> Any:
        from deepspeed.runtime.chunked_cross_entropy import chunked_cross_entropy

        size = chunk_size(len(weight), hidden.device.type)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        of_hidden = torch.empty_like(hidden)
        trains = ctx.needs_input_grad[1]  # False with adapters (LoRA): the weight is frozen
        # float32: a bf16 sum over many chunks would lose the small ones.
        of_weight = torch.zeros_like(weight, dtype=torch.float32) if trains else None
        for start in range(0, len(targets), size):
            chunk = slice(start, start + size)
            with torch.enable_grad():
                h, w = hidden[chunk].detach().requires_grad_(), weight.detach().requires_grad_(trains)
                loss = chunked_cross_entropy(linear(h, w), targets[chunk], reduction="sum")
                of_hidden[chunk], *part = torch.autograd.grad(loss, (h, w) if trains else (h,))
            if of_weight is not None:
                of_weight += part[0]
            total += loss.detach()
            del loss, part
        ctx.save_for_backward(of_hidden, of_weight.to(weight.dtype) if of_weight is not None else None)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        of_hidden, of_weight = ctx.saved_tensors
        return (
            of_hidden * gradient,
            None if of_weight is None else of_weight * gradient,
            None,
        )  # `gradient` is a scalar: the products keep their dtype


class LossHead(torch.nn.Linear):
    """An output layer that returns the loss in place of the logits where it is given targets.

    It is a layer and not a function, so that ZeRO-3 gathers its weight like that of any other layer.
    """

    def forward(self, hidden: Any, targets: Any = None) -> Any:
        """hidden (K, D), targets (K,): cross-entropy summed over all, float32. Without targets: logits (..., V)."""
        if targets is None:
            return super().forward(hidden)
        if not torch.is_grad_enabled():  # held-out sequences: no gradient of the weight, which has as many bytes
            return _summed_loss(hidden, self.weight, targets)
        return _SummedLoss.apply(hidden, self.weight, targets)


def _summed_loss(hidden: Any, weight: Any, targets: Any) -> Any:
    """Cross-entropy of `hidden @ weight.T`, summed, float32; no gradient."""
    from deepspeed.runtime.chunked_cross_entropy import chunked_cross_entropy

    size = chunk_size(len(weight), hidden.device.type)
    total = torch.zeros((), dtype=torch.float32, device=hidden.device)
    for start in range(0, len(targets), size):
        chunk = slice(start, start + size)
        total += chunked_cross_entropy(linear(hidden[chunk], weight), targets[chunk], reduction="sum")
    return total


def packed_logits(model: Any, tensors: dict[str, Any]) -> Any:
    """Logits (B, T, V) of a micro-batch, by the model's own forward; examples kept apart.

    Transformers finds the borders in position_ids only if there is no attention_mask and no cache. With a mask or a
    cache, the examples would see each other, and no error would say so.
    """
    return model(**_inputs(tensors)).logits


def _inputs(tensors: dict[str, Any]) -> dict[str, Any]:
    inputs = {name: tensors[name] for name in ("input_ids", "position_ids", *BORDERS) if name in tensors}
    return inputs | {"use_cache": False}


def _learn(model: Any, learnt: Any, targets: Any, **tensors: Any) -> Any:
    hidden = model.base_model(**_inputs(tensors)).last_hidden_state
    return model.get_output_embeddings()(hidden.flatten(0, 1).index_select(0, learnt), targets)


def _learn_from_logits(model: Any, learnt: Any, targets: Any, **tensors: Any) -> Any:
    from deepspeed.runtime.chunked_cross_entropy import chunked_cross_entropy

    rows, length = tensors["input_ids"].shape
    forward, logits_kwargs = type(model).forward, {}
    if "logits_to_keep" in inspect.signature(forward).parameters:
        mask = torch.zeros(rows * length, dtype=torch.bool, device=learnt.device)
        logits_kwargs = {"logits_to_keep": learnt if rows == 1 else mask.index_fill(0, learnt, True).view(rows, length)}
    logits = forward(model, **_inputs(tensors), **logits_kwargs).logits
    logits = logits.flatten(0, -2) if logits_kwargs else logits.flatten(0, 1).index_select(0, learnt)
    return chunked_cross_entropy(logits, targets, reduction="sum")


def prepare(model: Any) -> bool:
    """Make the model's forward take a micro-batch (see `batches.tensors_of`) and return its summed loss.

    Returns True where a LossHead makes the loss. False where the logits are more than `hidden @ weight.T`, e.g. capped:
    then the model's own forward makes them, only at learnt positions if it has `logits_to_keep`. The names of
    parameters stay the same, and so does the model's class, whose forward still gives logits.
    """
    head = model.get_output_embeddings()
    plain = type(head) is torch.nn.Linear and head.bias is None and _has_plain_logits(model)
    if plain:
        head.__class__ = LossHead  # the weight stays the same tensor, which a tied embedding and ZeRO know
    model.forward = types.MethodType(_learn if plain else _learn_from_logits, model)
    return plain


def _has_plain_logits(model: Any) -> bool:
    """Whether the model's logits are its output layer applied to the base model's output: no cap, scale or other step.

    Tried on a small copy: weights that ZeRO-3 has shared out cannot be used before the engine exists.
    """
    try:
        small = small_copy(model.config, "eager")
        head = small.get_output_embeddings()
        if type(small) is not type(model) or small.base_model is small or type(head) is not torch.nn.Linear:
            return False
        torch.nn.init.normal_(head.weight, generator=torch.Generator().manual_seed(0))  # large logits meet every cap
        ids = torch.arange(NUM_TRIED)[None] % VOCABULARY
        with torch.no_grad():
            logits = small(input_ids=ids, use_cache=False).logits
            plain = head(small.base_model(input_ids=ids, use_cache=False).last_hidden_state)
    except Exception:  # noqa: BLE001  at unusual sizes, the code of an architecture may raise any error
        return False
    return bool(logits.shape == plain.shape and torch.allclose(logits, plain, rtol=1e-4, atol=1e-4))
