"""Attention of packed examples, segment by segment: no mask is built, and no work is spent on hidden tokens.

    row        P P C C | P C C | P C     three examples in one row, without padding
    borders    0         4       7    9  `cu_seq_lens_q`, int32
    each token sees its own segment up to itself

After `register`, Transformers knows this attention as `varlen` and gives it the borders as it gives them to flash
attention (see FlashAttentionKwargs there). On a GPU it calls torch's varlen_attn in bf16 and fp16; elsewhere sdpa, a
segment at a time.
"""

import inspect
from typing import Any

VARLEN = "varlen"
# These get the borders as arguments, so that a micro-batch is one row. Other kinds find the borders in position_ids,
# row by row.
FLAT = (VARLEN, "flash_attention_2")
BORDERS = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k")


# Whether this process has the GPU kernel, and its extra arguments. `register` looks once: compiled code may not ask.
_kernel: dict[str, Any] = {"there": False, "more": {}}


def register() -> None:
    """Make `attn_implementation="varlen"` known to Transformers in this process."""
    import torch
    from torch.nn.attention.varlen import varlen_attn
    from transformers import AttentionInterface

    AttentionInterface.register(VARLEN, varlen_attention)
    _kernel["there"] = torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)
    # torch 2.13 needs enable_gqa where keys have fewer heads than queries; torch 2.11 works without this argument.
    _kernel["more"] = {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}


def varlen_attention(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    cu_seq_lens_q: Any = None,
    max_length_q: int | None = None,
    **kwargs: Any,
) -> tuple[Any, None]:
    """Causal attention (1, T, H, D) within each segment of a row. With `sliding_window`, a token sees that many tokens.

    query (1, H, T, D); key and value (1, G, T, D), G a divisor of H; cu_seq_lens_q (N + 1,) int32 on the same device;
    max_length_q: length of the longest segment, or a larger number. The order of arguments is that of Transformers'
    AttentionInterface.

    Raises ValueError for a call that it cannot serve: without borders, or with a mask, dropout, capped logits, sinks or
    chunks.
    """
    options = {
        "no borders": cu_seq_lens_q is None or max_length_q is None,
        "a mask": attention_mask is not None,
        "dropout": bool(dropout),
        "softcap": kwargs.get("softcap") is not None,
        "sinks": kwargs.get("s_aux") is not None,
        "chunks": getattr(getattr(module, "config", None), "attention_chunk_size", None) is not None,
    }
    if any(options.values()):
        raise ValueError(f"attention by segments was given {', '.join(name for name, it in options.items() if it)}")
    if _has_kernel(query, value):
        return _on_gpu(query, key, value, scaling, sliding_window, cu_seq_lens_q, max_length_q)[None], None
    return _by_segment(query, key, value, scaling, sliding_window, cu_seq_lens_q.diff().tolist()), None


def _has_kernel(query: Any, value: Any) -> bool:
    """Whether torch's varlen_attn takes these tensors: bf16 or fp16, on an Ampere GPU or newer, query and value of the
    same head size, which is a multiple of 8 up to 256.
    """
    import torch

    if query.device.type != "cuda" or query.dtype not in (torch.bfloat16, torch.float16):
        return False
    size = query.shape[-1]
    return bool(_kernel["there"]) and size == value.shape[-1] and size <= 256 and size % 8 == 0


def _on_gpu(query: Any, key: Any, value: Any, scaling: Any, window: Any, borders: Any, longest: Any) -> Any:
    from torch.nn.attention.varlen import varlen_attn

    rows = (x[0].transpose(0, 1) for x in (query, key, value))  # (T, heads, D)
    window_sizes = (-1, 0) if window is None else (window - 1, 0)  # tokens before itself, and after
    return varlen_attn(
        *rows, borders, borders, longest, longest, scale=scaling, window_size=window_sizes, **_kernel["more"]
    )


def _by_segment(query: Any, key: Any, value: Any, scaling: Any, window: Any, lengths: list[int]) -> Any:
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    parts = []
    for q, k, v in zip(*(x.split(lengths, dim=2) for x in (query, key, value)), strict=True):
        length = q.shape[2]
        narrow = window is not None and length > window
        mask = torch.ones(length, length, dtype=torch.bool, device=q.device) if narrow else None
        mask = mask.tril().triu(1 - window) if mask is not None else None
        parts.append(
            scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=q.shape[1] != k.shape[1]
            )
        )
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous()  # some architectures view it as (1, T, H * D)
