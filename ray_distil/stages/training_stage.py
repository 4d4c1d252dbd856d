"""Training as a stage: its inputs, its checks, the training states that it continues from, and the student."""

from ray_distil.chat.chat_templates import chat_settings
from ray_distil.chat.export_template import export_template
from ray_distil.chat.tokenization import encode_example
from ray_distil.errors import StageError
from ray_distil.runner import remaking
from ray_distil.runner.runs import Run
from ray_distil.runner.stage import Made, Stage, given
from ray_distil.stages import export_check, made_of
from ray_distil.store.artifact import Artifact
from ray_distil.store.manifest import fingerprint, read_manifest
from ray_distil.store.superseded import superseded
from ray_distil.train import sft, states
from ray_distil.train.deepspeed_config import BatchArithmetic
from ray_distil.train.sequence_file import is_held_out

BATCH_KEYS = (*made_of.SPLIT, "num_train_epochs", "max_steps")


class Checkpoint(Stage):
    """The stage that trains the student."""

    rows, artifact, schema, unit, resume = sft, "checkpoint", None, "sequences", True

    def __init__(self, run: Run, packed: Artifact) -> None:
        self.run, self.packed, self.student = run, packed, run.models["training.student"]
        self.config = given(run.config.training)
        self.made = made_of.of_checkpoint(run, self.student, self.config)
        self.settings = self.made.settings
        self.inputs = [packed.content()]

    def loss(self, artifact: Artifact) -> str:
        return remaking.lost_training(artifact)

    def make(self, artifact: Artifact) -> Made:
        run, packed, config, student = self.run, self.packed, self.config, self.student
        read = {"student", "resources_per_worker", *made_of.ASKED_WITH}
        trained = config.model_dump(mode="json", exclude=read) | {"seed": run.config.training_seed}
        saved = artifact.folder / states.STATES
        if (state := states.find(saved, artifact.fingerprint).newest) is not None:
            states.check_sharing(saved, state, config.num_workers, config.zero_stage)
        run.start_ray()
        num_sequences = packed.count("sequence_id")
        if not num_sequences:
            raise StageError(f"{sft.STAGE}: every example was too long; raise packing.max_length")
        ids = (name for table in packed.tables(["sequence_id"]) for name in table["sequence_id"].to_pylist())
        num_held_out = sum(is_held_out(name, config.eval_fraction) for name in ids)
        if config.eval_fraction and not 0 < num_held_out < num_sequences:
            what = "raise" if not num_held_out else "lower"
            raise StageError(
                f"{sft.STAGE}: training.eval_fraction={config.eval_fraction:g} holds {num_held_out} of {num_sequences} "
                f"sequences out; {what} it"
            )
        batch = BatchArithmetic(num_sequences - num_held_out, **{name: trained[name] for name in BATCH_KEYS})
        run.display.say(f"{sft.STAGE}: {batch}")
        if artifact.replaced is not None and (old := states.last_state(artifact.replaced / states.STATES)) is not None:
            run.display.say(
                f"{sft.STAGE}: the training states up to step {old.step} are of other data, other settings or another "
                f"student; they are in {artifact.replaced} until this training, which begins anew, is complete"
            )
        chat = chat_settings(student, config.chat_template_kwargs, run.date)
        template = run.config.packing.template
        learnt, _ = encode_example("question", "answer", student, template, config.system_prompt, chat)
        result = sft.train(
            packed.folder,
            student,
            artifact.folder,
            chat_template=export_template(student, chat, config.system_prompt, template),
            stop_token_id=learnt[-1],
            resources_per_worker=config.resources_per_worker,
            run=run.folder.name,
            made_of=artifact.fingerprint,
            attempt=artifact.attempt,
            tell=artifact.tell,
            say=run.display.say,
            **trained,
        )
        export_check.check(run.folder / "sft_examples", packed, artifact.folder)
        losses = {"first_loss": result.first_loss, "last_loss": result.last_loss}
        return num_sequences, {"num_steps": result.num_steps, "num_held_out": num_held_out, **losses}

    def check_states(self) -> None:
        """Raises UserError where a stopped training has left states of another global batch, all else being equal."""
        folder = self.run.folder / "checkpoint"
        if read_manifest(folder) is not None:
            return
        sizes = {name: getattr(self.config, name) for name in made_of.SPLIT}
        states.check_batch(folder / states.STATES, self._fingerprint_with, sizes)

    def _fingerprint_with(self, batch: int) -> str:
        """The artifact's fingerprint with a global batch of `batch` sequences."""
        return fingerprint(sft.STAGE, sft.VERSION, self.settings | {"train_batch_size": batch}, self.inputs)


def make_checkpoint(run: Run, packed: Artifact) -> Artifact:
    """The student's artifact. Training states are removed when they are of no more use."""
    stage = Checkpoint(run, packed)
    stage.check_states()
    checkpoint = run.make(stage)
    # The student and its manifest are complete: no training continues from its states. Superseded states go with the
    # training that was made in their place; where nothing was trained now, their settings may come back.
    complete = [] if stage.config.keep_states else [checkpoint.folder]
    replaced = superseded(run.folder, "checkpoint") if checkpoint.attempt else []
    for folder in complete + replaced:
        (folder / states.STATES).remove_all()
    return checkpoint
