"""The configuration of training."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from ray_distil.config.engine_config import check_template_kwargs
from ray_distil.config.section import Section


class LoraConfig(Section):
    """LoRA: only small matrices beside the student's own are trained, and merged into them when it is exported."""

    rank: int = Field(16, ge=1, description="columns and rows of the small matrices")
    alpha: float = Field(32, gt=0, description="what they add is scaled by alpha / rank")
    dropout: float = Field(0, ge=0, lt=1, description="of what they read")
    target_modules: Literal["all-linear"] | list[str] = Field(
        "all-linear", min_length=1, description="names of layers, as q_proj; all-linear: all but the output layer"
    )


class TrainingConfig(Section):
    """SFT by Ray Train and DeepSpeed. The optimiser's defaults are those of the recipe's stage 2."""

    student: str = Field(
        min_length=1, description="model folder, ORG/NAME or ORG/NAME@REVISION of the hub, or tiny:NAME"
    )
    student_license: str | None = Field(
        None,
        min_length=1,
        description="the license of `student` as it is before training, for the card of the trained one",
    )
    system_prompt: str | None = Field(
        None, description='null: the chat template\'s own, if it has one; "": none, where the template can'
    )
    chat_template_kwargs: dict[str, Any] = Field(
        default_factory=dict, description="variables of its chat template, in training and where it is evaluated"
    )

    @field_validator("chat_template_kwargs")
    @classmethod
    def _variables(cls, value: dict[str, Any]) -> dict[str, Any]:
        return check_template_kwargs(value)

    num_workers: int = Field(1, ge=1, description="Ray Train workers, one process each")
    use_gpu: bool = Field(False, description="one GPU a worker and NCCL; else CPU and gloo")
    cpus_per_worker: float = Field(1, gt=0, description="CPUs a worker reserves")
    resources_per_worker: dict[str, float] = Field(
        default_factory=dict, description="Ray's custom resources that a worker reserves"
    )
    num_train_epochs: int = Field(3, ge=1, description="passes over the packed sequences")
    max_steps: int | None = Field(
        None, ge=1, description="optimiser steps, whatever num_train_epochs says; null: as many as the epochs have"
    )
    train_micro_batch_size_per_gpu: int = Field(1, ge=1, description="sequences a worker and micro-step")
    gradient_accumulation_steps: int = Field(8, ge=1, description="micro-steps an optimiser step")
    learning_rate: float = Field(2e-5, gt=0, description="peak")
    weight_decay: float = Field(0.05, ge=0, description="of matrices; norms and biases have none")
    adam_betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = Field(
        (0.9, 0.999), description="AdamW's betas"
    )
    warmup_ratio: float = Field(0.1, ge=0, lt=1, description="share of the steps")
    lr_scheduler_type: Literal["cosine", "linear", "constant_with_warmup"] = Field(
        "cosine", description="after warm-up"
    )
    save_steps: int | None = Field(
        None, ge=1, description="optimiser steps from one training state to the next; null: by time alone"
    )
    save_minutes: float | None = Field(
        30, gt=0, description="minutes from one training state to the next, besides save_steps; null: by steps alone"
    )
    keep_states: bool = Field(
        False, description="the newest two training states, with that of the end, stay beside the exported student"
    )
    max_failures: int = Field(
        3,
        ge=0,
        description="lost workers or nodes after which training goes on from its newest state; one more ends it",
    )
    logging_steps: int = Field(1, ge=1, description="optimiser steps from one line of metrics.jsonl to the next")
    tensorboard: bool = Field(
        False, description="TensorBoard's event files beside metrics.jsonl, in checkpoint/tensorboard"
    )
    eval_fraction: float = Field(
        0,
        ge=0,
        lt=1,
        description="share of the packed sequences that is not trained on, for the held-out loss; 0: none",
    )
    eval_steps: int | None = Field(
        None, ge=1, description="optimiser steps from one held-out loss to the next; null: at the end of each epoch"
    )
    gradient_clipping: float = Field(1.0, gt=0, description="largest norm of the gradient")
    zero_stage: Literal[0, 1, 2, 3] | None = Field(
        None, description="DeepSpeed ZeRO stage; null: 2, and of one worker, which has nothing to divide, 1"
    )
    offload_optimizer: bool = Field(
        False, description="AdamW and its float32 states on the host's memory and processor, not the GPU's"
    )
    lora: LoraConfig | None = Field(None, description="null: all weights are trained")
    gradient_checkpointing: bool = Field(False, description="activations are computed again in the backward pass")
    bf16: bool = Field(True, description="bf16 weights in forward and backward; else fp32")
    torch_compile: bool = Field(False, description="layers compiled by torch, for a GPU and stages below 3")
    attn_implementation: Literal["varlen", "sdpa", "eager", "flash_attention_2"] = Field(
        "varlen", description="varlen: by segments, no padding and no mask (`attention.py`); else Transformers' name"
    )

    seed: int | None = Field(None, ge=0, description="of the order of sequences, and of dropout; null: run.seed")

    @property
    def stage(self) -> int:
        """The ZeRO stage. One worker is slower in stage 2, which cuts its gradients into buckets for nobody."""
        if self.zero_stage is not None:
            return self.zero_stage
        return 1 if self.num_workers == 1 else 2

    @model_validator(mode="after")
    def _stage_is_right(self) -> "TrainingConfig":
        if self.stage == 0 and self.bf16:
            raise ValueError(
                "training.zero_stage: with bf16, DeepSpeed's stage 0 takes a step on no gradient before the first, "
                "which shrinks that to three quarters; set it to 1, which is the same on one worker, or bf16=false"
            )
        if self.offload_optimizer and self.stage == 0:
            raise ValueError("training.offload_optimizer: DeepSpeed's stage 0 cannot; set training.zero_stage=1")
        if self.offload_optimizer and self.stage < 3 and self.bf16 and self.gradient_accumulation_steps > 1:
            raise ValueError(
                "training.offload_optimizer: with bf16, DeepSpeed's stages 1 and 2 then sum the gradients of micro-steps "
                "in bf16; set training.zero_stage=3, or gradient_accumulation_steps=1"
            )
        if self.eval_steps and not self.eval_fraction:
            raise ValueError("training.eval_steps: nothing is held out; set training.eval_fraction, as 0.01")
        if self.stage == 3 and self.torch_compile:
            raise ValueError("training.torch_compile: stage 3 gathers weights within layers; set it to false")
        return self
