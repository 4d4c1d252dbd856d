"""The loss of a training step without the logits of all positions.

The logits of a row of 16,384 tokens over a vocabulary of 151,936 are 9.3 GiB in float32, and a plain loss holds three such
tensors. Here only positions whose next token is learnt reach the output layer, some thousand at a time, and each chunk's
logits are gone before the next.
"""

import inspect
import types
from typing import Any

import torch
from torch.nn.functional import linear

from ray_distil.train.attention import BORDERS
from ray_distil.train.small_copies import VOCABULARY, small_copy

NUM_TRIED = 8  # positions
# Logits in a chunk: enough for a GPU's matrix units; on a CPU no more than its caches bear.
CHUNK = {"cuda": 2**29, "cpu": 2**25}


def chunk_size(vocabulary: int, device: str) -> int:
    """Positions whose logits are made together, a multiple of 128."""
    return max(1, CHUNK.get(device, CHUNK["cuda"]) // vocabulary // 128) * 128


class _SummedLoss(torch.autograd.Function):
    """Cross-entropy of `hidden @ weight.T`, summed. Forward makes the gradients too, while it has a chunk's logits."""

    @staticmethod
    def forward(ctx: Any, hidden: Any, weight: Any, targets: Any) -> Any:
        from deepspeed.runtime.chunked_cross_entropy import chunked_cross_entropy

        size = chunk_size(len(weight), hidden.device.type)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        of_hidden = torch.empty_like(hidden)
        # In bf16 a sum of many chunks would lose the small ones.
        of_weight = torch.zeros_like(weight, dtype=torch.float32)
        for start in range(0, len(targets), size):
            chunk = slice(start, start + size)
            with torch.enable_grad():
                h, w = hidden[chunk].detach().requires_grad_(), weight.detach().requires_grad_()
                loss = chunked_cross_entropy(linear(h, w), targets[chunk], reduction="sum")
                of_hidden[chunk], part = torch.autograd.grad(loss, (h, w))
            of_weight += part
            total += loss.detach()
            del loss, part
        ctx.save_for_backward(of_hidden, of_weight.to(weight.dtype))
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        of_hidden, of_weight = ctx.saved_tensors
        return of_hidden * gradient, of_weight * gradient, None  # a scalar leaves their dtype


class LossHead(torch.nn.Linear):
    """An output layer that, given targets, returns the loss in place of the logits.

    A layer of its own and no function, so that ZeRO-3 gathers its weight like any other's.
    """

    def forward(self, hidden: Any, targets: Any = None) -> Any:
        """hidden (K, D), targets (K,): cross-entropy summed over all, float32. Without targets: logits (..., V)."""
        return super().forward(hidden) if targets is None else _SummedLoss.apply(hidden, self.weight, targets)


def packed_logits(model: Any, tensors: dict[str, Any]) -> Any:
    """Logits (B, T, V) of a micro-batch, by the model's own forward; examples kept apart.

    Transformers finds the borders in position_ids only if there is no attention_mask and no cache; with either of
    them it lets the examples see each other without a word.
    """
    return model(**_inputs(tensors)).logits


def _inputs(tensors: dict[str, Any]) -> dict[str, Any]:
    given = {name: tensors[name] for name in ("input_ids", "position_ids", *BORDERS) if name in tensors}
    return given | {"use_cache": False}


def _learn(model: Any, learnt: Any, targets: Any, **tensors: Any) -> Any:
    hidden = model.base_model(**_inputs(tensors)).last_hidden_state
    return model.get_output_embeddings()(hidden.flatten(0, 1).index_select(0, learnt), targets)


def _learn_from_logits(model: Any, learnt: Any, targets: Any, **tensors: Any) -> Any:
    from deepspeed.runtime.chunked_cross_entropy import chunked_cross_entropy

    rows, length = tensors["input_ids"].shape
    forward, kept = type(model).forward, {}
    if "logits_to_keep" in inspect.signature(forward).parameters:
        mask = torch.zeros(rows * length, dtype=torch.bool, device=learnt.device)
        kept = {"logits_to_keep": learnt if rows == 1 else mask.index_fill(0, learnt, True).view(rows, length)}
    logits = forward(model, **_inputs(tensors), **kept).logits
    logits = logits.flatten(0, -2) if kept else logits.flatten(0, 1).index_select(0, learnt)
    return chunked_cross_entropy(logits, targets, reduction="sum")


def prepare(model: Any) -> bool:
    """Make the model's forward take a micro-batch (see `batches.tensors_of`) and return its summed loss.

    True: by a LossHead. False: its logits are more than `hidden @ weight.T`, so its own forward makes them, those of
    learnt positions where it can. Names of parameters stay, and so does the class, whose forward gives logits.
    """
    head = model.get_output_embeddings()
    plain = type(head) is torch.nn.Linear and head.bias is None and _has_plain_logits(model)
    if plain:
        head.__class__ = LossHead  # the tensor stays the one that other layers and ZeRO know
    model.forward = types.MethodType(_learn if plain else _learn_from_logits, model)
    return plain


def _has_plain_logits(model: Any) -> bool:
    """Whether its logits are the output layer's on what its base model returns: no cap, no scale, nothing in between.

    Tried on a small copy: weights that ZeRO-3 has shared out cannot be used before there is an engine.
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
    except Exception:  # noqa: BLE001  what the code of an architecture raises at unusual sizes has no list
        return False
    return logits.shape == plain.shape and torch.allclose(logits, plain, rtol=1e-4, atol=1e-4)
