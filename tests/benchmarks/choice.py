"""The choice among many texts of many problems: seconds of CPU and peak memory of the driver.

    python -m tests.benchmarks.choice [--problems 1000000] [--samples 4]

Each problem has as many direct and slow responses, rewrites and conclusions as samples. The columns are drawn, and go through
the same temporary files as those that Ray's tasks give.
"""

import argparse
import resource
import time
from collections import Counter

import numpy as np

from ray_distil.selection.candidates import candidate_parts, sample_parts
from ray_distil.selection.choice import CANDIDATE, CODES, REASONS, SAMPLE, Rules, choose, doubted

AT_ONCE = 50_000  # problems


def drawn(generator: np.random.Generator, number: int, samples: int) -> tuple[np.ndarray, np.ndarray]:
    problems = generator.integers(0, 2**64, number, dtype=np.uint64, endpoint=False)
    kinds = np.tile(np.repeat(np.array(list(CODES.values()), np.uint8), samples), number)
    candidates = np.zeros(len(kinds), CANDIDATE)
    candidates["problem"] = np.repeat(problems, 4 * samples)
    candidates["example"] = generator.integers(0, 2**64, len(kinds), dtype=np.uint64, endpoint=False)
    candidates["kind"] = kinds
    lengths = np.choose(kinds, [600, 550, 250, 3_000]) * generator.lognormal(0, 0.3, len(kinds))
    candidates["characters"] = lengths.astype(np.int32)
    difficulty = np.repeat(generator.beta(5, 1, number), 2 * samples)
    of_samples = np.zeros(2 * samples * number, SAMPLE)
    of_samples["problem"] = np.repeat(problems, 2 * samples)
    of_samples["is_right"] = generator.random(len(of_samples)) < difficulty
    of_samples["answer"] = np.where(of_samples["is_right"], 1, generator.integers(2, 5, len(of_samples)))
    of_samples["has_reference"] = np.repeat(generator.random(number) < 0.7, 2 * samples)
    return candidates, of_samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=1_000_000)
    parser.add_argument("--samples", type=int, default=4)
    arguments = parser.parse_args()
    generator = np.random.default_rng(0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    candidates, samples = candidate_parts(), sample_parts()
    writing = 0.0
    for _ in range(0, arguments.problems, AT_ONCE):
        rows, of_samples = drawn(generator, AT_ONCE, arguments.samples)
        started = time.process_time()
        candidates.add(rows)
        samples.add(of_samples)
        writing += time.process_time() - started
    del rows, of_samples

    rules = Rules(
        tuple(CODES[k] for k in ("direct", "rewrite", "conclusion")), "shortest", 1, 0.5, (0.0, 1.0), 0.5, 0.1, True
    )
    started, counts, num_doubted = time.process_time(), Counter[str](), 0
    for rows, of_samples in zip(candidates, samples, strict=True):
        reasons, _ = choose(rows, of_samples, rules)
        counts.update({REASONS[code]: int(n) for code, n in enumerate(np.bincount(reasons, minlength=len(REASONS)))})
        num_doubted += len(doubted(of_samples)[0])
    seconds = time.process_time() - started
    total = counts.total()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{arguments.problems:,} problems, {total:,} candidates: written in {writing:.1f} s of CPU, chosen in {seconds:.1f} s, "
          f"{total / seconds / 1e6:.2f} M a second; peak {peak // 1024} MiB, {before // 1024} at the start")  # fmt: skip
    print(
        ", ".join(f"{reason or 'learnt'} {number:,}" for reason, number in counts.most_common()),
        f"; doubted {num_doubted:,}",
    )


if __name__ == "__main__":
    main()
