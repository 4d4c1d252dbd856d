"""A state cut for another number of workers holds the same weights and moments, in the same order."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ray_distil.train.repartition import repartition

TOTALS = (23, 5)  # elements of the parameter groups
ALIGNED = 2  # a part is a multiple of so many elements a worker


def values(name: str, group: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(map(ord, name)) + group)
    return torch.rand(TOTALS[group], generator=generator)


def length(group: int, num_workers: int) -> int:
    """Of a part, as DeepSpeed has it."""
    size = ALIGNED * num_workers
    return -(-TOTALS[group] // size) * size // num_workers


def part(name: str, group: int, num_workers: int, rank: int, padded: bool) -> torch.Tensor:
    own = values(name, group)[rank * length(group, num_workers) :][: length(group, num_workers)]
    return torch.nn.functional.pad(own, (0, length(group, num_workers) - len(own))) if padded else own.clone()


def state(num_workers: int, rank: int, pads_weights: bool) -> dict[str, Any]:
    """What one worker of so many saves. Its slices: one parameter a group."""
    weights = [part("weights", group, num_workers, rank, pads_weights) for group in (0, 1)]
    moments = {
        group: {
            "step": torch.tensor(7.0),
            **{name: part(name, group, num_workers, rank, True) for name in ("exp_avg", "exp_avg_sq")},
        }
        for group in (0, 1)
    }
    slices = [{"w": SimpleNamespace(numel=part("weights", g, num_workers, rank, False).numel())} for g in (0, 1)]
    return {
        "single_partition_of_fp32_groups": weights,
        "base_optimizer_state": {"state": moments, "param_groups": [{"lr": 0.5}, {"lr": 0.5}]},
        "group_paddings": [0, 0],
        "param_slice_mappings": slices,
        "partition_count": [num_workers] * 2,
    }


def write(folder: Path, num_workers: int, prefix: str, pads_weights: bool) -> None:
    for rank in range(num_workers):
        saved = {"optimizer_state_dict": state(num_workers, rank, pads_weights), "ds_version": "x"}
        torch.save(saved, folder / f"{prefix}zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
    torch.save({"dp_world_size": num_workers, "module": {"w": torch.ones(3)}}, folder / "mp_rank_00_model_states.pt")


@pytest.mark.parametrize(("prefix", "pads_weights"), [("", False), ("bf16_", True)])
@pytest.mark.parametrize(("before", "now"), [(2, 1), (1, 2), (2, 3), (3, 2), (4, 1), (1, 4)])
def test_each_worker_gets_its_part(tmp_path: Path, prefix: str, pads_weights: bool, before: int, now: int) -> None:
    (tmp_path / "saved").mkdir()
    write(tmp_path / "saved", before, prefix, pads_weights)
    for rank in range(now):
        place = tmp_path / str(rank)
        place.mkdir()
        for file in (tmp_path / "saved").iterdir():
            (place / file.name).symlink_to(file)
        repartition(place, before, now, rank, [length(0, now), length(1, now)])
        made = torch.load(place / f"{prefix}zero_pp_rank_{rank}_mp_rank_00_optim_states.pt", weights_only=False)
        got, wanted = made["optimizer_state_dict"], state(now, rank, pads_weights)
        for group in (0, 1):
            own = part("weights", group, now, rank, False)
            assert torch.equal(got["single_partition_of_fp32_groups"][group][: len(own)], own)
            assert got["group_paddings"][group] == length(group, now) - len(own)
            for name, tensor in wanted["base_optimizer_state"]["state"][group].items():
                assert torch.equal(got["base_optimizer_state"]["state"][group][name], tensor)
        assert got["base_optimizer_state"]["param_groups"] == [{"lr": 0.5}, {"lr": 0.5}]
        assert torch.load(place / "mp_rank_00_model_states.pt")["dp_world_size"] == now
    for rank in range(before):  # the state itself stays as it was
        name = f"{prefix}zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"
        kept = torch.load(tmp_path / "saved" / name, weights_only=False)["optimizer_state_dict"]
        assert torch.equal(kept["single_partition_of_fp32_groups"][0], part("weights", 0, before, rank, pads_weights))
    assert torch.load(tmp_path / "saved" / "mp_rank_00_model_states.pt")["dp_world_size"] == before


def test_a_part_that_is_too_short_is_told(tmp_path: Path) -> None:
    write(tmp_path, 2, "", False)
    short = state(2, 0, False)
    short["single_partition_of_fp32_groups"][0] = short["single_partition_of_fp32_groups"][0][:-1]
    torch.save({"optimizer_state_dict": short}, tmp_path / "zero_pp_rank_0_mp_rank_00_optim_states.pt")
    with pytest.raises(RuntimeError, match="lacks elements 0 to 23"):
        repartition(tmp_path, 2, 1, 0, [length(0, 1), length(1, 1)])


def test_a_state_that_lacks_a_workers_file_is_no_state(tmp_path: Path) -> None:
    write(tmp_path, 2, "", False)
    (tmp_path / "zero_pp_rank_1_mp_rank_00_optim_states.pt").unlink()
    with pytest.raises(ValueError, match="unpack"):
        repartition(tmp_path, 2, 1, 0, [length(0, 1), length(1, 1)])
