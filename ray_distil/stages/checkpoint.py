"""The training of the student, and the exported student in checkpoint/student."""

from dataclasses import replace
from math import prod

from ray_distil.chat.chat_templates import chat_settings
from ray_distil.chat.export_template import export_template
from ray_distil.chat.tokenization import encode_example
from ray_distil.config import TrainingConfig
from ray_distil.errors import NoRowsLeft
from ray_distil.runner import remaking
from ray_distil.runner.runs import Run
from ray_distil.runner.stage import Made, Stage, required
from ray_distil.runner.stage_settings import StageSettings, values_of
from ray_distil.stages import export_check
from ray_distil.store.artifact import Artifact
from ray_distil.store.manifest import fingerprint, model_fingerprint, read_manifest
from ray_distil.store.superseded import superseded
from ray_distil.train import sft, states
from ray_distil.train.deepspeed_config import BatchArithmetic
from ray_distil.train.sequence_file import is_held_out

NAME = "sft"  # in fingerprints
VERSION = 2
OF_PROMPTS = (
    "system_prompt",
    "chat_template_kwargs",
)  # keys of `training` that count in packed sequences and evaluations
# Keys of `training` that change no weight of the student.
SILENT_TRAINING = {
    "resources_per_worker", "cpus_per_worker", "logging_steps", "save_steps", "save_minutes", "keep_states", "max_failures",
    "eval_steps", "tensorboard", "student_license",
}  # fmt: skip
# Keys of `training` that say how a step is computed, and not what: another value may be the remedy for a lack of memory.
HOW_TRAINED = {
    "gradient_checkpointing", "attn_implementation", "torch_compile", "offload_optimizer", "use_gpu", "zero_stage",
}  # fmt: skip
SPLIT = ("num_workers", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
FIRST_KEYS = (  # later ones count where they are set
    "num_train_epochs", "learning_rate", "weight_decay", "adam_betas", "warmup_ratio", "lr_scheduler_type", "eval_fraction",
    "gradient_clipping", "bf16", "gradient_checkpointing", "attn_implementation", "torch_compile", "use_gpu", "zero_stage",
)  # fmt: skip
BATCH_KEYS = (*SPLIT, "num_train_epochs", "max_steps")


class Checkpoint(Stage):
    """The stage that trains the student."""

    artifact, fingerprint_name, version = "checkpoint", NAME, VERSION
    schema, unit, resume = None, "sequences", True

    def __init__(self, run: Run, packed: Artifact) -> None:
        self.run, self.packed, self.student = run, packed, run.models["training.student"]
        self.config = required(run.config.training)
        self.settings = settings_of(run, self.student, self.config)
        self.inputs = [packed.content()]

    def check(self, artifact: Artifact) -> None:
        if read_manifest(artifact.folder) is None:  # a stopped training may have left states of another global batch
            sizes = {name: getattr(self.config, name) for name in SPLIT}
            states.check_batch(artifact.folder / states.STATES, self._fingerprint_with, sizes)

    def loss(self, artifact: Artifact) -> str:
        return remaking.lost_training(artifact)

    def make(self, artifact: Artifact) -> Made:
        run, packed, config, student = self.run, self.packed, self.config, self.student
        # States of a stopped training, which may be of other workers, or set aside.
        saved = artifact.folder / states.STATES
        if (state := states.find(saved, artifact.fingerprint).newest) is not None:
            states.check_sharing(saved, state, config.num_workers, config.stage)
        run.start_ray()
        if artifact.replaced is not None and (old := states.last_state(artifact.replaced / states.STATES)) is not None:
            run.display.say(
                f"{self.artifact}: the training states up to step {old.step} are of other data, other settings or another "
                f"student; they are in {artifact.replaced} until this training, which begins anew, is complete"
            )

        # Sequences, and how they are divided into steps.
        num_sequences, num_held_out = packed.count("sequence_id"), self._num_held_out()
        batch = BatchArithmetic(num_sequences - num_held_out, **{name: getattr(config, name) for name in BATCH_KEYS})
        run.display.say(f"{self.artifact}: {batch}")

        # Training, and the export with the prompt that it has learnt.
        chat = chat_settings(student, config.chat_template_kwargs, run.date)
        template = run.config.packing.template
        learnt, _ = encode_example("question", "answer", student, template, config.system_prompt, chat)
        job = sft.TrainingJob(
            config.model_copy(update={"student": student}),
            seed=run.config.training_seed,
            packed=packed.folder,
            output=artifact.folder,
            mark=artifact.fingerprint,
            attempt=artifact.attempt,
            chat_template=export_template(student, chat, config.system_prompt, template),
            stop_token_id=learnt[-1],
            run=run.folder.name,
        )
        result = sft.train(job, artifact.tell, run.display.say)
        export_check.check(run.folder / "sft_examples", packed, artifact.folder)
        losses = {"first_loss": result.first_loss, "last_loss": result.last_loss}
        return num_sequences, {"num_steps": result.num_steps, "num_held_out": num_held_out, **losses}

    def _num_held_out(self) -> int:
        """How many sequences are held out. Raises NoRowsLeft where there is nothing to train on, or to hold out."""
        num_sequences, fraction = self.packed.count("sequence_id"), self.config.eval_fraction
        if not num_sequences:
            raise NoRowsLeft(f"{self.artifact}: every example was too long; raise packing.max_length")
        ids = (row_id for table in self.packed.tables(["sequence_id"]) for row_id in table["sequence_id"].to_pylist())
        num_held_out = sum(is_held_out(row_id, fraction) for row_id in ids)
        if fraction and not 0 < num_held_out < num_sequences:
            change = "raise" if not num_held_out else "lower"
            raise NoRowsLeft(
                f"{self.artifact}: training.eval_fraction={fraction:g} holds {num_held_out} of {num_sequences} sequences "
                f"out; {change} it"
            )
        return num_held_out

    def on_complete(self, artifact: Artifact) -> None:
        """Remove training states that are of no more use: no training continues from those of a complete student.

        Superseded states go with the training that was made in their place; where nothing was trained now, their
        settings may come back.
        """
        complete = [] if self.config.keep_states else [artifact.folder]
        replaced = superseded(self.run.folder, self.artifact) if artifact.attempt else []
        for folder in complete + replaced:
            (folder / states.STATES).remove_all()

    def _fingerprint_with(self, batch: int) -> str:
        """The artifact's fingerprint with a global batch of `batch` sequences."""
        return fingerprint(NAME, VERSION, self.settings.values | {"train_batch_size": batch}, self.inputs)


def settings_of(run: Run, student: str, training: TrainingConfig) -> StageSettings:
    """Only the product of workers, micro-batch and micro-steps counts: a step is the same step, however it is split."""
    present, with_generation_config, with_how = (
        _settings(run, student, training, *rules) for rules in ((False, False), (True, False), (True, True))
    )
    return replace(present, earlier=replace(with_generation_config, earlier=with_how))


def _settings(
    run: Run, student: str, training: TrainingConfig, counts_generation_config: bool, counts_how: bool
) -> StageSettings:
    """`counts_...`: the rules of two earlier versions."""
    left_out = {"student", "seed", *SILENT_TRAINING, *OF_PROMPTS, *SPLIT} | (set() if counts_how else HOW_TRAINED)
    trained = values_of(training, FIRST_KEYS, left_out)
    if training.max_steps is not None:
        del trained["num_train_epochs"]  # it counts no more
    trained["train_batch_size"] = prod(getattr(training, name) for name in SPLIT)
    # Nothing is generated in training: the generation config changes no weight.
    without = () if counts_generation_config else ("generation_config.json",)
    return StageSettings(trained | {"seed": run.config.training_seed, "student": model_fingerprint(student, without)})
