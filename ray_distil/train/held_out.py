"""The loss of a student on sequences that it is not trained on."""

from typing import Any

from ray_distil.train.batches import tensors_of, to_device
from ray_distil.train.deepspeed_config import BatchArithmetic
from ray_distil.train.sequence_file import COLUMNS, Sequences


def held_out_loss(
    engine: Any, sequences: Sequences, batch: BatchArithmetic, rank: int, device: Any, flat: bool, multiple: int
) -> float:
    """Mean loss over the learnt tokens of all these sequences, which the ranks share. It does not change the training.

    Every rank makes the same number of micro-batches, some of them without a sequence: in each one, ZeRO's stage 3
    gathers weights from all ranks.
    """
    import torch
    import torch.distributed as dist

    size, num_sequences = batch.train_micro_batch_size_per_gpu, len(sequences[COLUMNS[0]])
    mine = list(range(num_sequences))[rank :: batch.num_workers]
    most = -(-num_sequences // batch.num_workers)  # sequences of the rank that has the most
    totals = torch.zeros(2, dtype=torch.float64, device=device)  # loss, learnt tokens
    engine.eval()
    with torch.no_grad():
        for start in range(0, most, size):
            tensors = tensors_of(sequences, mine[start : start + size], flat, multiple)
            totals[0] += engine(**to_device(tensors, device))
            totals[1] += len(tensors["targets"])
    engine.train()
    dist.all_reduce(totals)
    return float(totals[0] / totals[1])
