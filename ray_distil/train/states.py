"""Training states: what a stopped training goes on from.

    STATES/step-N-ID/rank-R/   the files of one rank, as DeepSpeed writes them; each rank writes, or uploads, its own
    STATES/step-N-ID.json      the marker, written when all of them are there

A state without a marker, or without a file of those that its marker lists, is half-written and never loaded; nor is one
that is made of other data, settings or another student. ID is drawn by each start of the workers, so that what one start
has left half-written never mixes with the files of the next. The newest two stay.

Ray Train's own checkpoints are not used: a report that the controller has not seen is lost with the worker, and each
report holds all ranks up.
"""

import json
import os
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ray_distil import UserError
from ray_distil.store.storage import Folder
from ray_distil.train.repartition import repartition

STATES = "states"
KEPT = 2
TAG = "state"  # DeepSpeed's name of a state in a folder
MODEL = "mp_rank_"  # begins the name of the file, of rank 0, that all ranks read


@dataclass(frozen=True)
class State:
    """A marker. `files`: bytes of each file, by its name in the state's folder."""

    name: str
    step: int
    num_workers: int
    zero_stage: int
    made_of: str
    files: dict[str, int]


@dataclass(frozen=True)
class Found:
    """The states of a folder: whole ones of this `made_of`, the newest last, and why others are not used."""

    whole: list[State]
    remarks: list[str]
    half_written: list[str]

    @property
    def newest(self) -> State | None:
        return self.whole[-1] if self.whole else None


def find(folder: Folder, made_of: str) -> Found:
    """Look through the states of a folder, which need not be there."""
    sizes = folder.sizes("step-", recursive=True)
    markers = {name.removesuffix(".json") for name in sizes if "/" not in name and name.endswith(".json")}
    places = {name.partition("/")[0] for name in sizes if "/" in name}
    whole, remarks, half_written = [], [], []
    for name in sorted(markers | places, key=_order):
        state = _marker(folder, name) if name in markers else None
        if state is not None and state.made_of != made_of:
            remarks.append(f"{_shown(name)} is of other data, other settings or another student, and is not used")
        elif state is None or any(sizes.get(f"{name}/{file}") != size for file, size in state.files.items()):
            half_written.append(name)
            remarks.append(f"{_shown(name)} is half-written, and is not used")
        else:
            whole.append(state)
    return Found(whole, remarks, half_written)


def check_workers(folder: Folder, state: State, num_workers: int) -> None:
    """Raises UserError where so many workers cannot go on from a state in this folder."""
    if state.zero_stage == 3 and state.num_workers != num_workers:
        raise UserError(
            f"training.num_workers: {num_workers}, and {_shown(state.name)} is of {state.num_workers}, which ZeRO's stage "
            f"3 cannot share out anew; set training.num_workers={state.num_workers} to go on, or remove {folder} to begin "
            "anew"
        )


def last_step(folder: Folder) -> int | None:
    """Of the newest marker in a folder, whatever it is of; None where there is none."""
    return max((_order(name)[0] for name in folder.files("step-", ".json")), default=None)


def prune(folder: Folder, made_of: str) -> None:
    """Remove all but the newest states; of each the marker goes first."""
    found = find(folder, made_of)
    for name in [state.name for state in found.whole[:-KEPT]] + found.half_written:
        folder.remove(f"{name}.json")
        (folder / name).remove_all()


def _order(name: str) -> tuple[int, str]:
    """Of step-N-ID: by step."""
    step = name.partition("-")[2].partition("-")[0]
    return (int(step) if step.isdecimal() else -1, name)


def _shown(name: str) -> str:
    return f"the training state of step {_order(name)[0]}"


def _marker(folder: Folder, name: str) -> State | None:
    """None where it cannot be read."""
    try:
        return State(**json.loads(folder.read_text(f"{name}.json")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


class States:
    """The states of one start of the workers; every rank has one, and calls the same methods in the same order."""

    def __init__(
        self, folder: Folder, made_of: str, num_workers: int, zero_stage: int, rank: int, check: Callable[[], None]
    ) -> None:
        """`made_of`: the mark of data, student and settings. `check` raises where this start may no longer write."""
        self.folder, self.made_of, self.check = folder, made_of, check
        self.num_workers, self.zero_stage, self.rank = num_workers, zero_stage, rank
        self.id = self._same(secrets.token_hex(4))

    def resume(self, engine: Any, say: Callable[[str], None]) -> int:
        """Load the newest whole state into a new engine; returns its step, 0 where there is none.

        Rank 0 chooses, and says what it does not use.
        """
        found = find(self.folder, self.made_of) if self.rank == 0 else None
        for remark in found.remarks if found is not None else ():
            say(remark)
        state = self._same(found.newest if found is not None else None)
        if state is None:
            return 0
        check_workers(self.folder, state, self.num_workers)
        with TemporaryDirectory(prefix="ray_distil-") as place:
            target = Path(place) / TAG
            target.mkdir()
            shared_out = state.num_workers != self.num_workers and self.zero_stage > 0
            self._fetch(state, target, whole=shared_out)
            if shared_out:
                optimizer = engine.optimizer
                parts = getattr(optimizer, "single_partition_of_fp32_groups", None)
                lengths = [len(part) for part in parts or optimizer.fp32_groups_flat_partition]
                repartition(target, state.num_workers, self.num_workers, self.rank, lengths)
            loaded, _ = engine.load_checkpoint(place, tag=TAG)
        if loaded is None:
            raise RuntimeError(f"{_shown(state.name)} could not be loaded; remove {self.folder / state.name}")
        if self.rank == 0:
            say(f"goes on from {_shown(state.name)}")
        return state.step

    def save(self, engine: Any, step: int) -> None:
        """Write the state after this step, and remove older ones."""
        import torch.distributed as dist

        name = f"step-{step}-{self.id}"
        own = self.folder / name / f"rank-{self.rank}"
        with own.writable() as place:
            # DeepSpeed's own pointer to the latest state is written before all ranks are through.
            engine.save_checkpoint(str(place), tag=TAG, save_latest=False)
        files = {f"{own.name}/{TAG}/{file}": size for file, size in (own / TAG).sizes().items()}
        of_all: list[dict[str, int]] = [{} for _ in range(self.num_workers)]
        dist.all_gather_object(of_all, files)  # also the barrier: all files are where they belong
        if self.rank == 0:
            every = {file: size for of_rank in of_all for file, size in of_rank.items()}
            marker = State(name, step, self.num_workers, self.zero_stage, self.made_of, every)
            self.folder.write_bytes(f"{name}.json", json.dumps(asdict(marker)).encode(), self.check)
            prune(self.folder, self.made_of)

    def _fetch(self, state: State, target: Path, whole: bool) -> None:
        """Bring what this rank reads of a state, or the `whole` of it, into a folder of the disk."""
        for file in state.files:
            base = file.rpartition("/")[2]
            if not whole and not file.startswith(f"rank-{self.rank}/") and not base.startswith(MODEL):
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
