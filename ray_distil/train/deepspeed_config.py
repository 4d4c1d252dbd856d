"""The DeepSpeed configuration and the batch arithmetic. Imports nothing heavy."""

from dataclasses import dataclass
from math import ceil
from typing import Any


@dataclass(frozen=True)
class BatchArithmetic:
    """How packed sequences become optimiser steps.

        train_batch_size = num_workers * train_micro_batch_size_per_gpu * gradient_accumulation_steps

    The last step of an epoch may hold fewer sequences; none is dropped, and none is seen twice.
    """

    num_sequences: int
    num_workers: int
    train_micro_batch_size_per_gpu: int
    gradient_accumulation_steps: int
    num_train_epochs: int
    max_steps: int | None = None  # in place of the epochs

    @property
    def train_batch_size(self) -> int:
        """Sequences in an optimiser step."""
        return self.num_workers * self.train_micro_batch_size_per_gpu * self.gradient_accumulation_steps

    @property
    def steps_per_epoch(self) -> int:
        return ceil(self.num_sequences / self.train_batch_size)

    @property
    def num_steps(self) -> int:
        return self.max_steps or self.steps_per_epoch * self.num_train_epochs

    def __str__(self) -> str:
        epochs = f"{self.num_train_epochs} epochs" if self.max_steps is None else "epochs"
        return (
            f"{self.num_sequences} sequences, {self.train_batch_size} a step ({self.num_workers} workers x "
            f"{self.train_micro_batch_size_per_gpu} x {self.gradient_accumulation_steps}), {epochs} of "
            f"{self.steps_per_epoch} steps: {self.num_steps} steps"
        )


def deepspeed_config(
    batch: BatchArithmetic, zero_stage: int, bf16: bool, gradient_clipping: float, offload_optimizer: bool = False
) -> dict[str, Any]:
    """The `config` of `deepspeed.initialize`; optimiser and schedule are given to it as objects.

    With bf16 weights, the gradients of micro-steps and ranks are summed in float32; DeepSpeed's default is bf16.
    DeepSpeed's search for values that are not finite, tensor by tensor, is off: `train_step` checks the global norm.
    """
    return {
        "train_batch_size": batch.train_batch_size,
        "train_micro_batch_size_per_gpu": batch.train_micro_batch_size_per_gpu,
        "gradient_accumulation_steps": batch.gradient_accumulation_steps,
        "gradient_clipping": gradient_clipping,
        "zero_optimization": {"stage": zero_stage}
        | ({"offload_optimizer": {"device": "cpu"}} if offload_optimizer else {}),
        "zero_force_ds_cpu_optimizer": False,  # torch's fused AdamW runs on CPUs too, without a compiler
        "zero_allow_untested_optimizer": True,  # torch's AdamW
        "bf16": {"enabled": bf16, "check_grad_overflow": False},
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
        "steps_per_print": 10**9,  # metrics.jsonl has the steps
    }
