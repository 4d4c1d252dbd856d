"""Micro-batches of packed sequences: which sequences a micro-batch holds, and its tensors.

The sequences of a step depend on (seed, epoch, step) alone.
"""

import random
from collections.abc import Iterator
from itertools import accumulate, pairwise
from typing import Any

from ray_distil.chat.tokenization import IGNORE_INDEX
from ray_distil.train.deepspeed_config import BatchArithmetic
from ray_distil.train.sequence_file import COLUMNS, Sequences


def epoch_order(num_sequences: int, seed: int, epoch: int) -> list[int]:
    """A permutation of the sequences, drawn from (seed, epoch) alone."""
    order = list(range(num_sequences))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return order


def micro_batches(order: list[int], step: int, rank: int, batch: BatchArithmetic) -> list[list[int]]:
    """One rank's sequences in one step of the epoch: a list for each micro-step, in a last step maybe short or empty.

    The ranks take sequences in turn, so that they have nearly the same work in a short last step too.
    """
    first = step * batch.train_batch_size
    mine = order[first : first + batch.train_batch_size][rank :: batch.num_workers]
    size = batch.train_micro_batch_size_per_gpu
    return [mine[k * size : (k + 1) * size] for k in range(batch.gradient_accumulation_steps)]


def examples_of(sequences: Sequences, index: int) -> Iterator[tuple[Any, Any, Any]]:
    """`(input_ids, position_ids, targets)`, a tensor (length,) each, of a sequence's examples.

    `targets` are the labels of the next token. Padding is left out, and so is an example in which nothing is learnt: no
    other example depends on it.
    """
    from torch.nn.functional import pad

    ids, labels, positions = (sequences[name][index] for name in COLUMNS)
    starts = (positions == 0).nonzero().flatten().tolist()
    for start, end in pairwise([*starts, len(ids)]):
        targets = pad(labels[start + 1 : end], (0, 1), value=IGNORE_INDEX)
        if (targets != IGNORE_INDEX).any():
            yield ids[start:end], positions[start:end], targets


def _padding(length: int) -> tuple[Any, Any, Any]:
    """An example in which nothing is learnt."""
    import torch

    return torch.zeros(length, dtype=torch.long), torch.arange(length), torch.full((length,), IGNORE_INDEX)


def tensors_of(sequences: Sequences, indices: list[int], flat: bool, multiple: int = 1) -> dict[str, Any]:
    """A micro-batch of these sequences. Without an index: one token that is not learnt, so that every rank takes part.

        input_ids, position_ids  (B, T)    the examples of a sequence after each other
        learnt                   (K,)      positions whose next token is learnt, counted through all rows
        targets                  (K,)      that token
        cu_seq_lens_q, _k        (N + 1,)  int32, the borders of the examples; with `flat` only
        max_length_q, _k         int       tokens of the longest; with `flat` only

    With `flat`, all sequences are in one row (B is 1), for attention that gets the borders as arguments. The only
    padding is one example of padding at the end, which makes T a multiple of `multiple`. Without `flat`, each sequence
    is a row, padded at its end to the longest one; every padding token has position 0, so that it is an example of its
    own.
    """
    import torch
    from torch.nn.utils.rnn import pad_sequence

    rows = [row for index in indices if (row := list(examples_of(sequences, index)))]
    if not rows:
        rows = [[_padding(1)]]
    if flat:
        rows = [[example for row in rows for example in row]]
        if missing := -sum(len(example[0]) for example in rows[0]) % multiple:
            rows[0].append(_padding(missing))
    ids, positions, targets = (
        pad_sequence([torch.cat([example[part] for example in row]) for row in rows], True, padding)
        for part, padding in enumerate((0, 0, IGNORE_INDEX))
    )
    learnt = (targets.flatten() != IGNORE_INDEX).nonzero().flatten()
    tensors = {
        "input_ids": ids,
        "position_ids": positions,
        "learnt": learnt,
        "targets": targets.flatten()[learnt],
    }
    if flat:
        lengths = [len(example[0]) for example in rows[0]]
        borders = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
        tensors |= {"cu_seq_lens_q": borders, "cu_seq_lens_k": borders}
        tensors |= {"max_length_q": max(lengths), "max_length_k": max(lengths)}
    return tensors


def sizes_of(tensors: dict[str, Any]) -> tuple[int, int]:
    """Tokens of a micro-batch's examples, without padding, and the squares of their lengths, summed."""
    import torch

    positions = tensors["position_ids"].flatten()
    starts = (positions == 0).nonzero().flatten()
    lengths = torch.diff(starts, append=torch.tensor([len(positions)]))
    # `examples_of` keeps examples in which something is learnt. An example without a learnt token is padding.
    real = lengths[(torch.searchsorted(starts, tensors["learnt"], right=True) - 1).unique()]
    return int(real.sum()), int(real.square().sum())


def to_device(tensors: dict[str, Any], device: Any) -> dict[str, Any]:
    """A micro-batch on the device. The host does not wait for the copy to a GPU."""
    import torch

    def moved(tensor: Any) -> Any:
        return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)

    return {name: moved(value) if torch.is_tensor(value) else value for name, value in tensors.items()}
