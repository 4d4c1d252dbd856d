"""Whether the examples of a micro-batch see each other, tried on a small copy of the student's architecture.

The copy has random weights. Attention is separated by borders between the examples, or by position_ids that start
again. A convolution or a recurrent state crosses such borders, and some architectures take no position_ids at all. No
architecture reports an error for this, so it is tried: packed examples must give the same logits as each one alone.
"""

from typing import Any

from ray_distil.chat.model_files import read_config
from ray_distil.stages.packed import pack_group
from ray_distil.train import attention
from ray_distil.train.attention import FLAT, VARLEN
from ray_distil.train.batches import tensors_of
from ray_distil.train.small_copies import VOCABULARY, small_copy

LENGTHS = (7, 5, 9)  # of the examples, in tokens
OTHERS = ("sdpa", "eager")
NO_SUCH = "its architecture has no attn_implementation="
UNPACKED = "can't keep packed sequences apart"  # Transformers' error of a recurrent layer without its kernels


def leak(model: str, attn_implementation: str = VARLEN, together: bool = True) -> str:
    """What is wrong with packing for this model's architecture and attention, and what to do; "" if nothing.

    `together` false: each example is alone in its row, so only the attention `varlen` is checked, against `eager`.
    Flash attention needs a GPU: `sdpa` is tried in its place. Raises the error of transformers where the small copy
    cannot be built.
    """
    problem = _visible_examples(model, attn_implementation, together)
    if not problem:
        return ""
    # Another attention with the same packing.
    lacks_attention = problem.startswith(NO_SUCH)
    alternatives = [name for name in OTHERS if name != attn_implementation]
    if attn_implementation == VARLEN or lacks_attention:
        for alternative in alternatives:
            if not _visible_examples(model, alternative, together):
                return f"{problem}; set training.attn_implementation={alternative}"
    if not together:
        return problem

    # It cannot be packed: each example alone in its row.
    for alternative in [attn_implementation, *alternatives]:
        if not _visible_examples(model, alternative, together=False):
            change = f" and training.attn_implementation={alternative}" if alternative != attn_implementation else ""
            rows = " and training.train_micro_batch_size_per_gpu=1" if alternative in FLAT else ""
            return f"{problem}; set packing.enabled=false{change}{rows}, or train another student"
    return f"{problem}; train another student"


def _visible_examples(model: str, attn_implementation: str, together: bool) -> str:
    import torch

    config = read_config(model)
    implementation = attn_implementation if attn_implementation in ("eager", VARLEN) else "sdpa"
    no_such = f"{NO_SUCH}{implementation}"
    attention.register()
    try:
        tried = small_copy(config, implementation)
    except ValueError as error:
        if "attention implementation" in str(error):
            return no_such
        raise
    except KeyError as error:
        if error.args != (VARLEN,):
            raise
        return no_such
    if not together and implementation != VARLEN:
        return ""
    # `varlen` separates examples by borders, without a mask: it is compared with `eager`, which uses masks.
    reference = tried if implementation != VARLEN else small_copy(config, "eager")
    if implementation == VARLEN and getattr(tried.config, "attention_dropout", None):
        return f"{no_such} with attention_dropout"
    draw = torch.Generator().manual_seed(0)
    examples = [
        (str(k), torch.randint(VOCABULARY, (length,), generator=draw).tolist(), [0] * length)
        for k, length in enumerate(LENGTHS if together else LENGTHS[-1:])
    ]
    try:
        with torch.no_grad():
            packed = _logits(tried, examples, flat=implementation == VARLEN)
            alone = torch.cat([_logits(reference, [example], flat=False) for example in examples], 1)
    except TypeError as error:  # its forward takes no position_ids
        return f"its architecture cannot be packed ({error})"
    except ValueError as error:
        if implementation == VARLEN and str(error).startswith("attention by segments"):
            return f"{no_such} ({error})"
        if UNPACKED in str(error):
            return f"its architecture cannot be packed without a package that is not installed ({error})"
        raise
    difference = float((packed - alone).abs().max())
    size = float(alone.abs().max())
    if difference <= 1e-4 * max(1.0, size):
        return ""
    shared = (
        "packed examples see each other in its architecture" if together else "its architecture's attention is another"
    )
    return f"{shared} (logits {difference:.2g} apart)"


def _logits(model: Any, examples: list[tuple[str, list[int], list[int]]], flat: bool) -> Any:
    import torch

    from ray_distil.train.loss import packed_logits

    packed = pack_group(examples, sum(len(ids) for _, ids, _ in examples), 0)
    row = {name: [torch.tensor(packed[name])] for name in ("input_ids", "labels", "position_ids")}
    return packed_logits(model, tensors_of(row, [0], flat))
