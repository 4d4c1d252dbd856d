"""A training state of ZeRO 1 or 2 as another number of workers would have saved it.

Both stages put the float32 weights of a parameter group one after the other, pad the end, and give each worker an equal
part. They divide the optimiser's moments in the same way:

    weights     aaaa bbbbbbb cc
    2 workers   aaaabbb|bbbbcc-        each its part of the weights and of the moments
    3 workers   aaaab|bbbbb|bcc--

So the parts for any number of workers can be cut from the same rows. DeepSpeed's universal checkpoint does the same
with one file for each parameter; it is not right for stage 3, which lays out its parts differently.
"""

from pathlib import Path
from typing import Any

WEIGHTS = "single_partition_of_fp32_groups"
OPTIMIZER = "base_optimizer_state"
PADDINGS = "group_paddings"
SLICES = "param_slice_mappings"  # for each group: name of a parameter -> the part of it in this file, with `numel`
COUNT = "partition_count"


def repartition(folder: Path, num_before: int, num_now: int, rank: int, lengths: list[int]) -> None:
    """Write the files that worker `rank` of `num_now` reads, into `folder` with the files of all `num_before` workers.

    `lengths`: for each parameter group, the elements of a new part, with padding. Where the file to write is a link, a
    new file takes the link's place.
    """
    import torch

    def load(file: Path) -> Any:
        return torch.load(file, map_location="cpu", mmap=True, weights_only=False)  # mmap: reads only the parts cut out

    files = [_only(folder, f"*zero_pp_rank_{k}_mp_rank_*_optim_states.pt") for k in range(num_before)]
    saved = [load(file) for file in files]
    parts = [part_state["optimizer_state_dict"] for part_state in saved]
    merged = dict(parts[0])
    states = [part[OPTIMIZER]["state"] for part in parts]
    new_states: dict[int, dict[str, Any]] = {}
    new_weights = []
    for group, length in enumerate(lengths):
        total = sum(slice_.numel for part in parts for slice_ in part[SLICES][group].values())
        start, end = rank * length, min((rank + 1) * length, total)
        moments = states[0][group]
        num_padded = next(value.numel() for value in moments.values() if value.dim() > 0)  # with padding
        new_weights.append(_cut([part[WEIGHTS][group] for part in parts], num_padded, start, end))
        new_states[group] = {
            name: _cut([state[group][name] for state in states], num_padded, start, end, length)
            if value.dim()
            else value
            for name, value in moments.items()
        }
    merged[WEIGHTS] = new_weights
    merged[OPTIMIZER] = merged[OPTIMIZER] | {"state": new_states}
    merged[PADDINGS] = [length - len(weights) for length, weights in zip(lengths, new_weights, strict=True)]
    merged[COUNT] = [num_now] * len(lengths)
    name = files[0].name.replace("zero_pp_rank_0_", f"zero_pp_rank_{rank}_")
    _write(saved[0] | {"optimizer_state_dict": merged}, folder / name)
    model = _only(folder, "mp_rank_*_model_states.pt")
    _write(load(model) | {"dp_world_size": num_now}, model)


def _cut(parts: list[Any], length: int, start: int, end: int, padded: int = 0) -> Any:
    """Elements `start` to `end` of the joined parts; part k begins at element k * length. Zeros fill up to `padded`."""
    import torch

    pieces = []
    for place, part in enumerate(parts):
        first, last = max(start - place * length, 0), min(end - place * length, part.numel())
        if first < last:
            pieces.append(part.flatten()[first:last])
    flat = torch.cat(pieces) if pieces else parts[0].new_zeros(0)
    if len(flat) != max(0, end - start):
        raise RuntimeError(f"a training state lacks elements {start} to {end} of its parts")
    return torch.nn.functional.pad(flat, (0, padded - len(flat))) if padded else flat


def _only(folder: Path, pattern: str) -> Path:
    (file,) = folder.glob(pattern)
    return file


def _write(content: Any, file: Path) -> None:
    import torch

    file.unlink(missing_ok=True)  # it may be a link to the state itself
    torch.save(content, file)
