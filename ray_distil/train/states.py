"""Training states, from which a stopped training goes on.

    STATES/step-N-ID/rank-R/   the files of one rank, as DeepSpeed writes them; each rank writes, or uploads, its own
    STATES/step-N-ID.json      the marker, written when all these files are there

A state is half-written, and never loaded, where its marker or a file listed in the marker is missing. A state of other
data, other settings or another student is not loaded either. Each start of the workers draws a new ID, so that
half-written files of one start never mix with the files of the next. The newest two states stay.

Ray Train's own checkpoints are not used: a report that the controller has not yet seen is lost with the worker, and all
ranks wait at each report.
"""

import json
import os
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ray_distil.errors import UserError
from ray_distil.store.storage import Folder
from ray_distil.train.repartition import repartition

STATES = "states"
KEPT = 2
TAG = "state"  # DeepSpeed's name of a state in a folder
MODEL = "mp_rank_"  # start of the name of rank 0's file that all ranks read


@dataclass(frozen=True)
class State:
    """A marker. `files`: bytes of each file, by its name in the state's folder."""

    name: str
    step: int
    num_workers: int
    zero_stage: int
    made_of: str
    files: dict[str, int]
    train_batch_size: int | None = None  # sequences of a step; None: an earlier version did not say


@dataclass(frozen=True)
class Found:
    """The states of a folder: the whole states of this `made_of`, newest last, and why each other state is not used."""

    complete: list[State]
    remarks: list[str]
    half_written: list[str]

    @property
    def newest(self) -> State | None:
        return self.complete[-1] if self.complete else None


def find(folder: Folder, made_of: str) -> Found:
    """Look through the states of a folder, which need not be there."""
    sizes = folder.sizes("step-", recursive=True)
    markers = {name.removesuffix(".json") for name in sizes if "/" not in name and name.endswith(".json")}
    places = {name.partition("/")[0] for name in sizes if "/" in name}
    whole, remarks, half_written = [], [], []
    for name in sorted(markers | places, key=_order):
        state = _marker(folder, name) if name in markers else None
        if state is not None and state.made_of != made_of:
            remarks.append(f"{_title(name)} is of other data, other settings or another student, and is not used")
        elif state is None or any(sizes.get(f"{name}/{file}") != size for file, size in state.files.items()):
            half_written.append(name)
            remarks.append(f"{_title(name)} is half-written, and is not used")
        else:
            whole.append(state)
    return Found(whole, remarks, half_written)


def check_sharing(folder: Folder, state: State, num_workers: int, zero_stage: int) -> None:
    """Raises UserError where so many workers, or this ZeRO stage, cannot go on from the state.

    Stages 1 and 2 read each other's states, and share them out among any number of workers.
    """
    if state.zero_stage != zero_stage and not {state.zero_stage, zero_stage} <= {1, 2}:
        raise UserError(
            f"training.zero_stage: {zero_stage}, and {_title(state.name)} is of stage {state.zero_stage}, which only "
            f"{'stages 1 and 2 read' if state.zero_stage in (1, 2) else 'this stage reads'}; set training.zero_stage="
            f"{state.zero_stage} to go on, or remove {folder} to begin anew"
        )
    if state.zero_stage == 3 and state.num_workers != num_workers:
        raise UserError(
            f"training.num_workers: {num_workers}, and {_title(state.name)} is of {state.num_workers}, which ZeRO's stage "
            f"3 cannot share out anew; set training.num_workers={state.num_workers} to go on, or remove {folder} to begin "
            "anew"
        )


def check_batch(folder: Folder, made_of: Callable[[int], str], sizes: dict[str, int]) -> None:
    """Raises UserError where the newest state in a folder differs from this training only in the global batch.

    `made_of` gives the mark of this training for another global batch. `sizes`: the settings, by key, whose product is
    this training's global batch.
    """
    state, batch_size = last_state(folder), prod(sizes.values())
    saved_size = state.train_batch_size if state is not None else None
    if state is None or saved_size is None or saved_size == batch_size or state.made_of != made_of(saved_size):
        return
    micro_steps, rest = divmod(saved_size * sizes["gradient_accumulation_steps"], batch_size)
    change = (
        f"training.gradient_accumulation_steps={micro_steps}" if not rest else f"sizes whose product is {saved_size}"
    )
    raise UserError(
        f"training: a global batch of {batch_size} sequences ({' x '.join(f'{key} {n}' for key, n in sizes.items())}), and "
        f"{_title(state.name)} is of {saved_size}; set {change} to go on, or remove {folder} to begin anew"
    )


def last_state(folder: Folder) -> State | None:
    """The newest marker in a folder that can be read, of any `made_of`."""
    names = sorted((name.removesuffix(".json") for name in folder.files("step-", ".json")), key=_order)
    return next((state for name in reversed(names) if (state := _marker(folder, name)) is not None), None)


def prune(folder: Folder, made_of: str) -> None:
    """Remove the half-written states, and the whole ones of this `made_of` except the newest KEPT.

    The marker of a state is removed before its files. States whose marker has another `made_of` stay.
    """
    states = find(folder, made_of)
    for name in [state.name for state in states.complete[:-KEPT]] + states.half_written:
        folder.remove(f"{name}.json")
        (folder / name).remove_all()


def _order(name: str) -> tuple[int, str]:
    """The sort key of a name step-N-ID: its step."""
    step = name.partition("-")[2].partition("-")[0]
    return (int(step) if step.isdecimal() else -1, name)


def _title(name: str) -> str:
    return f"the training state of step {_order(name)[0]}"


def _marker(folder: Folder, name: str) -> State | None:
    """The marker of a state; None where it cannot be read."""
    try:
        return State(**json.loads(folder.read_text(f"{name}.json")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def has_frozen(engine: Any) -> bool:
    """Whether some weights are frozen (LoRA). These are the student's own, and a state does not hold them."""
    return not all(parameter.requires_grad for parameter in engine.module.parameters())


class States:
    """The states of one start of the workers; every rank has one, and calls the same methods in the same order."""

    def __init__(
        self,
        folder: Folder,
        made_of: str,
        num_workers: int,
        zero_stage: int,
        rank: int,
        check: Callable[[], None],
        train_batch_size: int | None = None,
    ) -> None:
        """`made_of`: the mark of data, student and settings. `check` raises where this start may no longer write."""
        self.folder, self.made_of, self.check = folder, made_of, check
        self.num_workers, self.zero_stage, self.rank = num_workers, zero_stage, rank
        self.train_batch_size = train_batch_size
        self.id = self._same(secrets.token_hex(4))

    def resume(self, engine: Any, say: Callable[[str], None]) -> int:
        """Load the newest whole state into a new engine; returns its step, 0 where there is none.

        Rank 0 chooses the state, and says which other states it does not use.
        """
        states = find(self.folder, self.made_of) if self.rank == 0 else None
        for remark in states.remarks if states is not None else ():
            say(remark)
        state = self._same(states.newest if states is not None else None)
        if state is None:
            return 0

        check_sharing(self.folder, state, self.num_workers, self.zero_stage)
        with TemporaryDirectory(prefix="ray_distil-") as place:
            target = Path(place) / TAG
            target.mkdir()

            # The state is divided anew among other workers.
            shared_out = state.num_workers != self.num_workers and self.zero_stage > 0
            self._fetch(state, target, with_optimizer=shared_out)
            if shared_out:
                optimizer = engine.optimizer
                parts = getattr(optimizer, "single_partition_of_fp32_groups", None)
                lengths = [len(part) for part in parts or optimizer.fp32_groups_flat_partition]
                repartition(target, state.num_workers, self.num_workers, self.rank, lengths)
            loaded, _ = engine.load_checkpoint(place, tag=TAG, load_module_strict=not has_frozen(engine))

        if loaded is None:
            raise RuntimeError(f"{_title(state.name)} could not be loaded; remove {self.folder / state.name}")
        if self.rank == 0:
            say(f"goes on from {_title(state.name)}")
        return int(state.step)

    def save(self, engine: Any, step: int) -> None:
        """Write the state after this step, and remove older ones."""
        import torch.distributed as dist

        name = f"step-{step}-{self.id}"
        part = self.folder / name / f"rank-{self.rank}"
        with part.writable() as place:
            # No save_latest: DeepSpeed would write its pointer to the latest state before all ranks have saved.
            engine.save_checkpoint(str(place), tag=TAG, save_latest=False, exclude_frozen_parameters=has_frozen(engine))
        files = {f"{part.name}/{TAG}/{file}": size for file, size in (part / TAG).sizes().items()}
        of_all: list[dict[str, int]] = [{} for _ in range(self.num_workers)]
        dist.all_gather_object(of_all, files)  # also a barrier: behind it, the files of all ranks are in their place
        if self.rank == 0:
            every = {file: size for of_rank in of_all for file, size in of_rank.items()}
            sizes = (self.num_workers, self.zero_stage)
            marker = State(name, step, *sizes, self.made_of, every, self.train_batch_size)
            self.folder.write_bytes(f"{name}.json", json.dumps(asdict(marker)).encode(), self.check)
            prune(self.folder, self.made_of)

    def _fetch(self, state: State, target: Path, with_optimizer: bool) -> None:
        """Bring the files of a state that this rank reads, or with `with_optimizer` all its files, into a folder on the disk."""
        for file in state.files:
            base = file.rpartition("/")[2]
            if not with_optimizer and not file.startswith(f"rank-{self.rank}/") and not base.startswith(MODEL):
                continue
            place = self.folder / state.name
            if place.local is not None:
                os.symlink(place.local / file, target / base)
            else:
                place.fetch(file, target / base)

    def _same(self, value: Any) -> Any:
        """Rank 0's value, on all ranks."""
        import torch.distributed as dist

        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]
