"""The training put together from the configuration: what it depends on, what it goes on from, and what stays of it."""

from math import ceil
from typing import Any

from ray_distil.run import made_of
from ray_distil.run.runs import Run
from ray_distil.store.artifact import Artifact
from ray_distil.store.manifest import fingerprint, read_manifest
from ray_distil.store.reuse import superseded
from ray_distil.store.shards import StageError
from ray_distil.train import sft, states
from ray_distil.train.deepspeed_config import BatchArithmetic
from ray_distil.train.sequence_file import is_held_out

BATCH_KEYS = ("num_workers", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "num_train_epochs")


def make_checkpoint(run: Run, packed: Artifact) -> Artifact:
    assert run.config.training is not None
    config, student = run.config.training, run.models["training.student"]
    read = {"student", "resources_per_worker", *made_of.ASKED_WITH}
    trained = config.model_dump(mode="json", exclude=read) | {"seed": run.config.run.seed}

    def make(artifact: Artifact) -> tuple[int, dict[str, Any]]:
        saved = artifact.folder / states.STATES
        if (state := states.find(saved, artifact.fingerprint).newest) is not None:
            states.check_workers(saved, state, config.num_workers)
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
        if trained["warmup_ratio"] and batch.num_steps * trained["warmup_ratio"] < 1:
            run.display.say(
                f"{sft.STAGE}: {batch.num_steps} optimiser steps are fewer than the {ceil(1 / trained['warmup_ratio'])} "
                f"that training.warmup_ratio={trained['warmup_ratio']:g} needs; the first has learning rate 0"
            )
        if artifact.replaced is not None and (old := states.last_state(artifact.replaced / states.STATES)) is not None:
            run.display.say(
                f"{sft.STAGE}: the training states up to step {old.step} are of other data, other settings or another "
                f"student; they are in {artifact.replaced} until this training, which begins anew, is complete"
            )
        result = sft.train(
            packed.folder,
            student,
            artifact.folder,
            resources_per_worker=config.resources_per_worker,
            run=run.folder.name,
            made_of=artifact.fingerprint,
            attempt=artifact.attempt,
            tell=artifact.tell,
            say=run.display.say,
            **trained,
        )
        losses = {"first_loss": result.first_loss, "last_loss": result.last_loss}
        return num_sequences, {"num_steps": result.num_steps, "num_held_out": num_held_out, **losses}

    settings, inputs = made_of.of_checkpoint(run, student, config).settings, [packed.content()]
    if read_manifest(run.folder / "checkpoint") is None:  # a training that was stopped, if any

        def with_batch(size: int) -> str:
            return fingerprint(sft.STAGE, sft.VERSION, settings | {"train_batch_size": size}, inputs)

        sizes = {name: trained[name] for name in made_of.SPLIT}
        states.check_batch(run.folder / "checkpoint" / states.STATES, with_batch, sizes)
    checkpoint = run.stage(sft, "checkpoint", None, "sequences", settings, inputs, make, resume=True)
    # The student is there, and its manifest: what an earlier training could have gone on from, none goes on from now.
    earlier = [] if config.keep_states else [checkpoint.folder]
    for folder in earlier + superseded(run.folder, "checkpoint"):
        (folder / states.STATES).remove_all()
    return checkpoint
