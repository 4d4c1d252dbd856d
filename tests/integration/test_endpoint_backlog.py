"""What an endpoint answers is soon on the disk, though replies are slow, uneven, cut, empty or refused."""

import json
import math
import random
import time
from pathlib import Path

import pyarrow.parquet as pq

from tests.integration.test_backlog import respond
from tests.unit.endpoint_server import EndpointServer

IN_FLIGHT, NUM_ROWS = 32, 420
MEAN_S, SIGMA, LONGEST_S = 2.0, 0.8, 8.0  # of log-normal replies, as texts are long; max_tokens cuts the longest
UNSAVED = 6  # rows that are answered and not saved, at most, for each request in flight


def seconds_of(seed: int) -> float:
    return min(LONGEST_S, MEAN_S * random.Random(seed).lognormvariate(-(SIGMA**2) / 2, SIGMA))


def test_what_an_endpoint_answers_is_soon_on_the_disk(tmp_path: Path) -> None:
    # Without reference answers: nothing but the endpoint takes time.
    problems = [json.dumps({"instruction": f"How many are {k} and 4?"}) for k in range(NUM_ROWS)]
    (tmp_path / "problems.jsonl").write_text("\n".join(problems))
    answers: dict[int, float] = {}  # time of each row's last reply, by seed

    def reply(body: dict[str, int]) -> str:
        """Some are refused, some are empty at first, and some are cut."""
        seed = body["seed"]
        time.sleep(seconds_of(seed))
        is_first, answers[seed] = seed not in answers, time.time()
        if seed % 11 == 0:
            return "400"
        return "empty" if seed % 7 == 0 and is_first else "length" if seed % 5 == 0 else ""

    with EndpointServer() as server:
        server.fault_of = reply
        endpoint = {"base_url": server.url, "model": "m", "api_key_env": None, "max_concurrency": IN_FLIGHT}
        respond(
            tmp_path,
            "run.name=uneven",
            "run.max_shard_mb=null",  # shards stay as they were written, with the times at which they were
            "instructions.path=problems.jsonl",
            "teachers.slow=null",
            "long2short.enabled=false",
            "teachers.direct.engine=null",
            f"teachers.direct.endpoint={json.dumps(endpoint)}",
        )

    # Time and number of rows of each shard, accepted or rejected.
    shards = list((tmp_path / "runs" / "uneven" / "responses").rglob("part-*.parquet"))
    saved = [(shard.stat().st_mtime, pq.ParquetFile(shard).metadata.num_rows) for shard in shards]

    def num_saved(until: float) -> int:
        return sum(number for at, number in saved if at <= until)

    assert num_saved(math.inf) == len(answers) >= 0.9 * NUM_ROWS  # the others are held out
    times = sorted(answers.values())
    unsaved = [number - num_saved(at) for number, at in enumerate(times, 1)]
    print(f"unsaved at most {max(unsaved)} rows: {max(unsaved) / IN_FLIGHT:.2f} for each request in flight")
    assert max(unsaved) <= UNSAVED * IN_FLIGHT, unsaved
    assert server.most_at_once <= IN_FLIGHT
