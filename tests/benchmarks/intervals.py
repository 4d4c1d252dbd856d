"""Coverage of the 95 % intervals of accuracy and of a difference of two accuracies, by simulation.

    python -m tests.benchmarks.intervals

Each problem has a share of correct answers of its own, drawn from Beta(mean, 0.6) around the truth; its samples are
drawn from that. Printed: how often the interval holds the truth, and its mean width in points.
"""

import numpy as np
import pyarrow as pa

from ray_distil.evaluation.scores import clustered_wilson, difference

TRUTHS = (0.01, 0.02, 0.05, 0.2, 0.5, 0.8, 0.95, 0.98, 0.99)
PROBLEMS, SAMPLES = (30, 300), (1, 8, 64)
QUANTILES = 100_000  # problems of all, from which those of a draw are taken
CONCENTRATION = 0.6  # of the Beta distribution: most problems are nearly always right, or nearly never


def coverage(truth: float, problems: int, samples: int, draws: int = 3000, seed: int = 0) -> tuple[float, float]:
    """`(share of draws whose interval holds the truth, mean width)`."""
    draw = np.random.default_rng(seed)
    held, width = 0, 0.0
    for _ in range(draws):
        own = draw.beta(truth * CONCENTRATION, (1 - truth) * CONCENTRATION, problems)
        shares = draw.binomial(samples, own) / samples
        low, high = clustered_wilson(shares.tolist(), problems * samples)
        held += low <= truth <= high
        width += high - low
    return held / draws, width / draws


def coverage_of_difference(
    first: float, second: float, problems: int, samples: int, draws: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """The same of the difference of two models whose problems are as hard for the one as for the other."""
    draw = np.random.default_rng(seed)
    quantiles = [
        np.sort(draw.beta(truth * CONCENTRATION, (1 - truth) * CONCENTRATION, QUANTILES)) for truth in (first, second)
    ]
    if first == second:
        quantiles[1] = quantiles[0]
    truth = quantiles[0].mean() - quantiles[1].mean()
    ids = [str(k) for k in range(problems) for _ in range(samples)]
    held, width = 0, 0.0
    for _ in range(draws):
        hard = draw.integers(0, QUANTILES, problems)
        made = []
        for own in quantiles:
            right = draw.random((problems, samples)) < own[hard][:, None]
            made.append(pa.table({"instruction_id": ids, "correct": right.ravel().tolist()}))
        low, high = difference(*made)["interval"]
        held += low <= truth <= high
        width += high - low
    return held / draws, width / draws


def main() -> None:
    print("truth  " + "".join(f"{p:>7} x {s:<2}    " for p in PROBLEMS for s in SAMPLES))
    for truth in TRUTHS:
        cells = [coverage(truth, p, s) for p in PROBLEMS for s in SAMPLES]
        print(f"{100 * truth:4.0f} % " + "".join(f"{100 * c:6.1f} ({100 * w:4.1f})  " for c, w in cells))
    print("difference of two models")
    for first, second in ((0.5, 0.5), (0.8, 0.75), (0.95, 0.95), (0.99, 0.97)):
        cells = [coverage_of_difference(first, second, p, s) for p in PROBLEMS for s in SAMPLES]
        print(f"{100 * (first - second):+4.0f} % " + "".join(f"{100 * c:6.1f} ({100 * w:4.1f})  " for c, w in cells))


if __name__ == "__main__":
    main()
