"""Whether the files of a model hold its weights, by their headers: no weight is read.

Transformers loads the tensors of the headers, on torch's meta device, into the class of config.json, as a training does.
What it does not find it would fill with random numbers, and say so in a log only:

    config.json has 5 layers, the files have 4     missing: model.layers.4.input_layernorm.weight, ...
"""

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

from ray_distil.chat.model_files import read_config
from ray_distil.errors import UserError
from ray_distil.store import hub
from ray_distil.store.hub import local_copy
from ray_distil.store.storage import Folder
from ray_distil.train.small_copies import without_weights

INDEX = ".index.json"
SAFE_INDEX = f"model.safetensors{INDEX}"
# In the order in which Transformers looks for them.
NAMES = ("model.safetensors", SAFE_INDEX, "pytorch_model.bin", f"pytorch_model.bin{INDEX}")
SUFFIXES = (".safetensors", ".bin", ".pt", ".gguf")
POINTER = b"version https://git-lfs"
ADAPTER = "adapter_config.json"
NUM_SHOWN = 3  # names in a message


def wrong_files(model: str, trained: bool = False) -> Iterator[str]:
    """What is wrong with the weight files of a model folder: none, parts that are missing, half files.

    trained: Transformers loads them; else vLLM.
    """
    folder = Folder(model)
    sizes = {name: size for name, size in folder.sizes().items() if name.endswith(SUFFIXES)}
    if not sizes:
        yield f"{str(folder)!r} has no weights (*.safetensors); copy the whole model"
        return

    # An index that is read names all parts.
    for index in _indices(folder, trained):
        missing = sorted(set(_weight_map(folder, index).values()) - sizes.keys())
        if missing:
            yield f"{index} of {str(folder)!r} names {_some(missing)}, and there is no such file; copy the whole model"

    # Each file by itself.
    for name, size in sizes.items():
        if _begin(folder, name, len(POINTER)) == POINTER:
            yield f"{str(folder / name)!r} is a pointer of Git LFS, and no weights; run `git lfs pull` in that folder"
        elif name.endswith(".safetensors") and (mistake := _half(folder, name, size)):
            yield f"{str(folder / name)!r} is no whole file of weights ({mistake}); copy it again"


def _indices(folder: Folder, trained: bool) -> list[str]:
    """The indices that are read. One beside them may stand for files that nobody has copied, as a hub's pickles."""
    present = [name for name in NAMES if folder.exists(name)]
    if not present:
        return folder.files(suffix=INDEX)
    # vLLM leaves out what the index of safetensors does not name, even where one file holds all.
    read = {present[0]} if trained else {present[0], SAFE_INDEX}
    return [name for name in present if name in read and name.endswith(INDEX)]


def wrong_student(model: str) -> str | None:
    """Why a model cannot be trained from its files, and what to do; "" if it can, None where no header can be read here.

    model: a folder, or ORG/NAME@COMMIT, whose headers are in the hub's cache or are sent by the hub. Raises UserError where
    a file cannot be read, and what Transformers raises for a configuration that it does not know.
    """
    place, config = local_copy(model), read_config(model)
    if quantised := getattr(config, "quantization_config", None):
        method = quantised.get("quant_method", "") if isinstance(quantised, dict) else type(quantised).__name__
        return f"its weights are quantised ({method}), which cannot be trained; give the model in bfloat16 or float32"
    tensors = headers(model)
    if tensors is None:
        return None
    if (Path(place) / ADAPTER).is_file():
        return (
            f"{ADAPTER} lies beside its weights: training would go on with that adapter; merge it, or remove the file"
        )
    return _difference(config, tensors)


def headers(model: str) -> dict[str, Any] | None:
    """Name -> tensor on the meta device, of the files that Transformers would load. None where they cannot be asked for.

    Raises UserError where there are none.
    """
    if hub.is_hub_name(model) and not Path(model).is_dir():
        cached = Folder(local_copy(model))
        if not _is_whole(cached):
            return _of_hub(model)
        model = str(cached)
    folder = Folder(model)
    name = next((name for name in NAMES if folder.exists(name)), None)
    if name is None:
        adapter = f"only an adapter ({ADAPTER}); merge it into its model" if folder.exists(ADAPTER) else "none of them"
        raise UserError(f"Transformers loads {', '.join(NAMES)}, and {str(folder)!r} has {adapter}")
    files = sorted(set(_weight_map(folder, name, trained=True).values())) if name.endswith(INDEX) else [name]
    if folder.local is None and files[0].endswith(".bin"):
        return None  # a pickle cannot be read in part
    tensors = dict[str, Any]()
    for file in files:
        tensors |= _of_pickle(folder, file) if file.endswith(".bin") else _of_header(_header(folder, file))
    return tensors


def _is_whole(folder: Folder) -> bool:
    """Whether all files are there that Transformers would load; a hub's cache may have some of them."""
    name = next((name for name in NAMES if folder.exists(name)), None)
    files = _weight_map(folder, name).values() if name is not None and name.endswith(INDEX) else [name]
    return name is not None and set(files) <= set(folder.files())


def _difference(config: Any, tensors: dict[str, Any]) -> str:
    """What Transformers would miss where it loads these tensors into the class of a configuration."""
    with quiet():
        empty = without_weights(config)
        options = {"state_dict": tensors, "device_map": "meta", "ignore_mismatched_sizes": True}
        try:
            _, loaded = type(empty).from_pretrained(None, config=empty.config, output_loading_info=True, **options)
        except RuntimeError as error:  # of several tensors it makes one, as of experts, and some are not there
            reason = str(error).partition("!")[0].partition(". ")[0]
            return f"Transformers cannot put its tensors together ({reason}); copy the whole model"

    if missing := sorted(loaded["missing_keys"]):
        unused = sorted(loaded["unexpected_keys"])
        beside = f"; the files have {_some(unused)}" if unused else ""
        return f"its files lack {len(missing):,} of its tensors: {_some(missing)}{beside}; copy the whole model"
    if wrong := sorted(loaded["mismatched_keys"]):
        name, in_file, in_model = wrong[0]
        shapes = f"{tuple(in_file)}, and config.json says {tuple(in_model)}"
        return f"{len(wrong):,} of its tensors have another shape than config.json says: {name} has {shapes}"
    return ""


@contextmanager
def quiet() -> Iterator[None]:
    """Libraries print nothing: Transformers no bars and no table of the tensors that it misses, DeepSpeed no warning."""
    from transformers.utils import logging as printing

    has_bars, level = printing.is_progress_bar_enabled(), logging.root.manager.disable
    printing.disable_progress_bar()
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        if has_bars:
            printing.enable_progress_bar()


def _of_hub(model: str) -> dict[str, Any] | None:
    """The headers of a hub's model. None where it has no safetensors, or the hub does not answer: then only the training
    tells what it misses.
    """
    from huggingface_hub import HfApi

    name, commit = hub.split(model)
    try:
        files = HfApi().get_safetensors_metadata(name, revision=commit).files_metadata.values()
    except Exception:  # noqa: BLE001  of many types
        return None
    return _of_header({name: {"shape": info.shape} for file in files for name, info in file.tensors.items()})


def _of_header(header: dict[str, Any]) -> dict[str, Any]:
    import torch

    return {name: torch.empty(entry["shape"], device="meta") for name, entry in header.items()}


def _of_pickle(folder: Folder, file: str) -> dict[str, Any]:
    """The tensors of a .bin file on this machine, without their data."""
    import torch

    assert folder.local is not None
    try:
        in_parts = is_zipfile(folder.local / file)  # files of old versions of torch are no archives
        return dict(torch.load(folder.local / file, map_location="meta", weights_only=True, mmap=in_parts))
    except Exception as error:  # of many types
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:150]
        raise UserError(f"{str(folder / file)!r} is no file of weights ({reason}); copy it again") from error


def _header(folder: Folder, file: str) -> dict[str, Any]:
    """The header of a safetensors file: 8 bytes with its length, then JSON: name -> dtype, shape, data_offsets.

    Raises ValueError where it is none.
    """
    length = int.from_bytes(_begin(folder, file, 8), "little")
    header = dict(json.loads(_begin(folder, file, 8 + min(length, 2**27))[8:]))
    header.pop("__metadata__", None)
    return header


def _half(folder: Folder, file: str, size: int) -> str:
    """Why a safetensors file is not whole; "" if it is."""
    try:
        header = _header(folder, file)
        ends = [entry["data_offsets"][1] for entry in header.values()]
    except (ValueError, TypeError, KeyError) as error:
        return f"no header: {error}"
    expected = 8 + int.from_bytes(_begin(folder, file, 8), "little") + max(ends, default=0)
    return "" if size == expected else f"{size:,} bytes of {expected:,}"


def _begin(folder: Folder, file: str, num_bytes: int) -> bytes:
    filesystem, path = folder.filesystem_and_path(file)
    with filesystem.open_input_file(path) as stream:
        return bytes(stream.read(num_bytes))


def _weight_map(folder: Folder, index: str, trained: bool = False) -> dict[str, str]:
    """Tensor -> file, of an index. Raises UserError where it is none; trained: as Transformers reads it."""
    try:
        values = json.loads(folder.read_text(index))
        if trained:
            _ = values["metadata"]  # Transformers takes no index without it
        return dict(values["weight_map"])
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{str(folder / index)!r} is no index of weights ({error}); copy it again") from error


def _some(names: list[str]) -> str:
    rest = f" and {len(names) - NUM_SHOWN:,} more" if len(names) > NUM_SHOWN else ""
    return ", ".join(names[:NUM_SHOWN]) + rest
