"""Seconds a problem, and tokens a second in which something was being answered."""

from dataclasses import replace

import pyarrow as pa
import pytest

from ray_distil.config.engine_config import EndpointConfig, EngineConfig, SamplingParams
from ray_distil.generate import endpoint
from ray_distil.generate.generator import Generator
from ray_distil.stages import eval, timing
from ray_distil.store.shards import REASON


def answers(*rows: tuple[int | None, float | None, float | None]) -> pa.Table:
    names = ("num_generated_tokens", "seconds", "finished_at")
    types = (pa.int32(), pa.float64(), pa.float64())
    columns = zip(*rows, strict=True) if rows else [[]] * 3
    return pa.table({name: pa.array(list(c), t) for name, c, t in zip(names, columns, types, strict=True)})


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([(100, 2.0, 12.0)], 50.0),
        ([(100, 2.0, 12.0), (100, 2.0, 12.0)], 100.0),  # beside each other
        ([(100, 2.0, 12.0), (100, 2.0, 13.0)], 200 / 3),  # in part
        ([(100, 2.0, 12.0), (100, 2.0, 5000.0)], 50.0),  # a pause in between, as of a stopped run
        ([(100, 5.0, 15.0), (10, 1.0, 13.0)], 22.0),  # one within the other
        ([(100, 2.0, 12.0), (None, 2.0, 12.0), (70, None, None)], 50.0),
        ([(70, None, None)], None),
        ([], None),
    ],
)
def test_tokens_a_second_are_of_the_seconds_in_which_something_was_answered(
    rows: list[tuple[int | None, float | None, float | None]], expected: float | None
) -> None:
    assert eval.tokens_per_s(answers(*rows)) == (None if expected is None else pytest.approx(expected))


def test_a_time_that_nobody_measured_is_rejected_with_a_reason() -> None:
    row = {
        "id": "a",
        "model_name": "m",
        "benchmark": "b",
        "instruction_id": "i",
        "error": "",
        "num_generated_tokens": 9,
    }
    assert timing.timed_row(row | {"seconds": 1.5})["seconds"] == 1.5
    assert timing.timed_row(row | {"seconds": None})[REASON] == "not_measured"
    assert timing.timed_row(row | {"error": "timeout: late", "seconds": None})[REASON] == "timeout"
    assert set(endpoint.failed("timeout: late")) == {
        "generated_text", "finish_reason", "error", "num_prompt_tokens", "num_generated_tokens", "num_thinking_tokens"
    }  # fmt: skip


def test_the_median_is_not_that_of_the_first_slow_request() -> None:
    times = pa.table({"timing_id": ["a", "b", "c"], "seconds": [9.0, 1.0, 2.0]})
    assert timing.summarise(times, "m", "b") == {"name": "m", "benchmark": "b", "num_timed": 3, "seconds": 2.0}
    assert timing.summarise(times.slice(0, 0), "m", "b")["seconds"] is None


def test_one_request_at_a_time() -> None:
    engines = Generator(
        "evaluation", "evaluation", "m", EngineConfig(model_source="m", concurrency=4), SamplingParams()
    )
    alone = engines.one_at_a_time().engine
    assert alone is not None
    assert (alone.concurrency, alone.batch_size, alone.max_concurrent_batches) == ((1, 1), 1, 1)
    served = replace(engines, backend=EndpointConfig(base_url="http://h/v1", model="m")).one_at_a_time().endpoint
    assert served is not None
    assert served.max_concurrency == 1
