"""Imports ray.data.llm without vLLM, for a process that builds a processor and runs no engine.

ray.data.llm imports vLLM for the type of one error, which only the engine's own process can raise. In the driver that
import takes some six seconds of CPU time and 250 MiB. The engines' processes do not import this module.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def absent(module: str) -> Iterator[None]:
    """Within the block, an import of `module` raises ImportError; where it was imported before, nothing changes."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]  # Python's own mark for "not there"
    try:
        yield
    finally:
        del sys.modules[module]


with absent("vllm"):
    from ray.llm._internal.batch.stages import vLLMEngineStage  # noqa: F401  build_processor imports it
