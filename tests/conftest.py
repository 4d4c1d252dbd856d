"""Hooks of all tests.

Torch, Ray and sympy make a million objects at their import, which stay to the end. Python's garbage collector would look
at all of them again and again, and each stage of a run collects besides: a third of the unit tests' time.
"""

import gc

gc.set_threshold(50_000, 20, 100)


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()
