"""A training that goes on from a state is the one that was not stopped: losses and student, to the bit.

With another number of workers it is the same in float32 to 1e-6, and starts from the very same weights and moments.

One process a rank, without Ray: what Ray does with lost workers is in `test_lost_training.py`.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ray_distil.chat.tokenization import end_of_turn, load_tokenizer
from ray_distil.errors import UserError
from ray_distil.store.storage import Folder
from ray_distil.train.batches import epoch_order, micro_batches, tensors_of
from ray_distil.train.checkpoint import export_student
from ray_distil.train.deepspeed_config import BatchArithmetic
from ray_distil.train.states import States, find
from ray_distil.train.student_engine import build_engine, train_step
from tests.integration.cluster import free_port, wait_until
from tests.integration.test_zero_stages import CONFIG, CPU, NUM_SEQUENCES, SEED, STUDENT, sequences
from tests.ranks import join, start
from tests.reference import assert_moved_alike, training_settings

# ZeRO stage, bf16, gradient checkpointing.
WAYS = {
    "zero-0": (0, False, False),
    "zero-1": (1, False, False),
    "zero-2": (2, False, True),
    "zero-3": (3, False, False),
    "zero-1, bf16": (1, True, False),
    "zero-2, bf16": (2, True, False),
    "zero-3, bf16": (3, True, True),
}
# Settings of how a step is computed, which may change between two starts.
OTHER_WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "stage 1": ("zero-2", {"zero_stage": 1}),
    "stage 2": ("zero-1", {"zero_stage": 2}),
    "no recompute": ("zero-2", {"gradient_checkpointing": False}),
    "other attention": ("zero-2", {"attn_implementation": "eager"}),
    "offload": ("zero-2", {"offload_optimizer": True}),
    "offload of stage 3": ("zero-3", {"offload_optimizer": True, "gradient_checkpointing": True}),
}
NUM_STEPS, SAVED_AT = 6, (2, 3, 4)
SHARED_OUT = [name for name, (stage, _, _) in WAYS.items() if stage in (1, 2)]
RANKS = [(2, 0), (2, 1), (1, 0)]


def parts_of(engine: Any) -> list[torch.Tensor]:
    """What this rank holds of float32 weights, and of both moments, a group after the other."""
    held = []
    for group in engine.optimizer.optimizer.param_groups:
        (weights,) = group["params"]
        moments = engine.optimizer.optimizer.state[weights]
        held += [weights.detach().clone(), moments["exp_avg"].clone(), moments["exp_avg_sq"].clone()]
    return held


class Worker:
    """One of so many workers: a training in each of the ways, undisturbed and from its states."""

    def __init__(self, rank: int, num_ranks: int, folder: Path) -> None:
        self.rank, self.num_ranks, self.folder = rank, num_ranks, folder
        self.sequences, self.said = sequences(), list[str]()
        self.batch = BatchArithmetic(NUM_SEQUENCES, num_ranks, 1, 4 // num_ranks, num_train_epochs=2)
        self.tokenizer, self.stop = load_tokenizer(STUDENT), end_of_turn(STUDENT)

    def new(self, name: str, saved_by: int, **changes: Any) -> tuple[Any, States]:
        """An engine, and the states that so many workers have saved. `changes`: of the settings of `name`."""
        zero_stage, bf16, checkpointing = WAYS[name]
        settings = (
            CONFIG
            | {
                "student": STUDENT,
                "zero_stage": zero_stage,
                "bf16": bf16,
                "gradient_checkpointing": checkpointing,
                "attn_implementation": "varlen",
                "lr_scheduler_type": "cosine",
            }
            | changes
        )
        engine = build_engine(training_settings(settings), self.batch, CPU)
        where = Folder.at(self.folder / name / f"states-{saved_by}")
        return engine, States(where, name, self.num_ranks, settings["zero_stage"], self.rank, lambda: None)

    def run(self, engine: Any, done: int, name: str, states: States | None = None) -> list[list[float]]:
        """The steps behind those that are done: loss and norm of each."""
        seen = []
        for step in range(done, self.batch.num_steps):
            epoch, step_in_epoch = divmod(step, self.batch.steps_per_epoch)
            order = epoch_order(NUM_SEQUENCES, SEED, epoch)
            indices = micro_batches(order, step_in_epoch, self.rank, self.batch)
            made = train_step(engine, [tensors_of(self.sequences, some, True) for some in indices], CPU)
            seen.append([made.loss, made.grad_norm])
            if states is not None and step + 1 in SAVED_AT:
                states.save(engine, step + 1)
                if name in SHARED_OUT and step + 1 == SAVED_AT[-1]:
                    torch.save(parts_of(engine), self.folder / name / f"saved-{self.num_ranks}-{self.rank}.pt")
        return seen

    def resumed(self, name: str, saved_by: int, **changes: Any) -> tuple[Any, int]:
        engine, states = self.new(name, saved_by, **changes)
        return engine, states.resume(engine, self.said.append)

    def undisturbed_and_resumed(self, name: str) -> dict[str, Any]:
        self.said.clear()
        engine, states = self.new(name, self.num_ranks)
        whole = self.run(engine, states.resume(engine, self.said.append), name, states)
        self.export(engine, name, "whole")
        engine, done = self.resumed(name, self.num_ranks)
        rest = self.run(engine, done, name)
        self.export(engine, name, "resumed")
        return {"whole": whole, "rest": rest, "done": done, "said": list(self.said)}

    def export(self, engine: Any, name: str, how: str) -> None:
        place = self.folder / name / f"{how}-{self.num_ranks}"
        export_student(engine, self.tokenizer, self.stop, place, self.rank)

    def of_another_number(self, name: str) -> dict[str, Any]:
        engine, done = self.resumed(name, 3 - self.num_ranks)
        torch.save(parts_of(engine), self.folder / name / f"loaded-{self.num_ranks}-{self.rank}.pt")
        rest = self.run(engine, done, name)
        self.export(engine, name, "shared-out")
        return {"rest": rest, "done": done}

    def in_another_way(self, name: str, changes: dict[str, Any]) -> list[list[float]]:
        """The steps from a state on, where the settings of how a step is computed have changed."""
        engine, done = self.resumed(name, self.num_ranks, **changes)
        return self.run(engine, done, name)


def train(rank: int, num_ranks: int, port: int, folder: Path) -> None:
    join(rank, num_ranks, port)
    worker = Worker(rank, num_ranks, folder)
    made: dict[str, Any] = {name: worker.undisturbed_and_resumed(name) for name in WAYS}
    (folder / f"through-{num_ranks}-{rank}").touch()
    wait_until(lambda: all((folder / f"through-{n}-{k}").exists() for n, k in RANKS), "all have saved their states")
    made["shared out"] = {name: worker.of_another_number(name) for name in SHARED_OUT}
    made["other ways"] = {what: worker.in_another_way(*way) for what, way in OTHER_WAYS.items()}
    made["of another stage"] = []
    for name, zero_stage in (("zero-2", 3), ("zero-3", 2), ("zero-0", 1)):
        try:
            worker.resumed(name, num_ranks, zero_stage=zero_stage)
        except UserError as error:
            made["of another stage"].append(str(error))
    try:
        worker.resumed("zero-3", 3 - num_ranks)
    except UserError as error:
        made["refused"] = str(error)
    (folder / f"{num_ranks}-{rank}.json").write_text(json.dumps(made))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[tuple[int, int], dict[str, Any]]]:
    """What each rank saw."""
    folder = tmp_path_factory.mktemp("states")
    started = [start(train, ranks, ranks, free_port(), folder) for ranks in (2, 1)]
    while started:  # one that failed is not waited for by the others
        started = [processes for processes in started if not processes.join(timeout=1)]
    return folder, {(n, k): json.loads((folder / f"{n}-{k}.json").read_text()) for n, k in RANKS}


Trained = tuple[Path, dict[tuple[int, int], dict[str, Any]]]


def students(folder: Path, *places: str) -> list[dict[str, torch.Tensor]]:
    return [load_file(folder / place / "student" / "model.safetensors") for place in places]


@pytest.mark.parametrize("name", WAYS)
def test_what_goes_on_from_a_state_is_what_was_not_stopped(trained: Trained, name: str) -> None:
    folder, seen = trained
    for made in seen.values():
        assert len(made[name]["whole"]) == NUM_STEPS
        assert made[name]["done"] == SAVED_AT[-1]
        assert made[name]["rest"] == made[name]["whole"][SAVED_AT[-1] :]
    for ranks in (2, 1):
        whole, resumed = students(folder / name, f"whole-{ranks}", f"resumed-{ranks}")
        assert whole.keys() == resumed.keys()
        assert all(torch.equal(whole[key], resumed[key]) for key in whole)
        assert seen[ranks, 0][name]["said"] == ["goes on from the training state of step 4"]
    assert seen[2, 1][name]["said"] == []


@pytest.mark.parametrize("name", WAYS)
def test_the_newest_two_states_stay(trained: Trained, name: str) -> None:
    folder, _ = trained
    place = folder / name / "states-2"
    found = find(Folder.at(place), name)
    assert [state.step for state in found.complete] == [3, 4]
    assert found.remarks == []
    assert {path.name.partition(".")[0] for path in place.iterdir()} == {state.name for state in found.complete}
    assert {file.partition("/")[0] for file in found.complete[0].files} >= {"rank-0"} | (
        {"rank-1"} if WAYS[name][0] else set()
    )


@pytest.mark.parametrize("saved_by", [2, 1])
@pytest.mark.parametrize("name", SHARED_OUT)
def test_another_number_of_workers_goes_on_from_the_same_weights_and_moments(
    trained: Trained, name: str, saved_by: int
) -> None:
    folder, _ = trained

    def whole(when: str, num_ranks: int) -> list[torch.Tensor]:
        of_ranks = [torch.load(folder / name / f"{when}-{num_ranks}-{rank}.pt") for rank in range(num_ranks)]
        return [torch.cat(parts) for parts in zip(*of_ranks, strict=True)]

    for saved, loaded in zip(whole("saved", saved_by), whole("loaded", 3 - saved_by), strict=True):
        both = min(len(saved), len(loaded))
        assert both > 0
        assert torch.equal(saved[:both], loaded[:both])
        assert not torch.cat([saved[both:], loaded[both:]]).any()  # padding


@pytest.mark.parametrize("saved_by", [2, 1])
@pytest.mark.parametrize("name", [name for name in SHARED_OUT if "bf16" not in name])
def test_another_number_of_workers_trains_the_same(trained: Trained, name: str, saved_by: int) -> None:
    folder, seen = trained
    goes_on = 3 - saved_by
    for rank in range(goes_on):
        made = seen[goes_on, rank]["shared out"][name]
        assert made["done"] == SAVED_AT[-1]
        rest = seen[saved_by, 0][name]["whole"][SAVED_AT[-1] :]
        for (loss, norm), (wanted, wanted_norm) in zip(made["rest"], rest, strict=True):
            assert loss == pytest.approx(wanted, rel=1e-6)
            assert norm == pytest.approx(wanted_norm, rel=1e-5)
    whole, made = students(folder / name, f"whole-{saved_by}", f"shared-out-{goes_on}")
    assert_moved_alike(made, whole, load_file(Path(STUDENT) / "model.safetensors"), share=1e-4)


def test_stage_3_says_that_it_needs_as_many_workers(trained: Trained) -> None:
    _, seen = trained
    for (num_ranks, _), made in seen.items():
        assert f"set training.num_workers={3 - num_ranks} to go on, or remove" in made["refused"]


@pytest.mark.parametrize("what", OTHER_WAYS)
def test_another_way_to_compute_a_step_goes_on_from_the_states(trained: Trained, what: str) -> None:
    _, seen = trained
    name, _ = OTHER_WAYS[what]
    for made in seen.values():
        rest, expected = made["other ways"][what], made[name]["whole"][SAVED_AT[-1] :]
        assert len(rest) == len(expected) == NUM_STEPS - SAVED_AT[-1]
        for (loss, norm), (wanted, wanted_norm) in zip(rest, expected, strict=True):
            assert loss == pytest.approx(wanted, rel=1e-6)
            assert norm == pytest.approx(wanted_norm, rel=1e-5)


def test_a_stage_that_cannot_read_a_state_is_told(trained: Trained) -> None:
    _, seen = trained
    for made in seen.values():
        assert [text.partition("; ")[2].partition(" to go on")[0] for text in made["of another stage"]] == [
            f"set training.zero_stage={stage}" for stage in (2, 3, 0)
        ]
