"""Whether libraries beside torch fit the torch that is installed.

Transformers and vLLM import torchvision and torchaudio where they are there, and each is compiled for one torch. A pair of
two builds, as a torch for CPUs with a torchvision for GPUs, ends an import with a hundred lines.
"""

from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from ray_distil.config.findings import Finding

COMPILED_FOR_TORCH = ("torchvision", "torchaudio")
REMEDY = "install them anew, of one build: `make setup-gpu` for NVIDIA GPUs, `make clean setup` for CPUs (Install in README.md)"


def unfit() -> Iterator[Finding]:
    """A finding for the first library that cannot be imported beside the installed torch."""
    for name in COMPILED_FOR_TORCH:
        if find_spec(name) is None:
            continue
        try:
            import_module(name)
        except Exception as error:  # noqa: BLE001  of many types: a RuntimeError of torch, an OSError of the linker
            pair = f"torch {_version('torch')} and {name} {_version(name)}"
            yield Finding("", f"{pair} do not fit together ({first_line(error)[:150]}); {REMEDY}")
            return


def first_line(error: BaseException) -> str:
    """The first line of the error from which all others come, without its breaks."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join((str(error).strip().splitlines() or [type(error).__name__])[0].split())


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "of an unknown version"
