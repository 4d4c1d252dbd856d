"""Coverage of the 95 % interval of accuracy, by simulation.

    python -m tests.benchmarks.intervals

Each problem has a share of correct answers of its own, drawn from Beta(mean, 0.6) around the truth; its samples are
drawn from that. Printed: how often the interval holds the truth, and its mean width in points.
"""

import numpy as np

from ray_distil.evaluation import clustered_wilson

TRUTHS = (0.01, 0.02, 0.05, 0.2, 0.5, 0.8, 0.95, 0.98, 0.99)
PROBLEMS, SAMPLES = (30, 300), (1, 8, 64)
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


def main() -> None:
    print("truth  " + "".join(f"{p:>7} x {s:<2}    " for p in PROBLEMS for s in SAMPLES))
    for truth in TRUTHS:
        cells = [coverage(truth, p, s) for p in PROBLEMS for s in SAMPLES]
        print(f"{100 * truth:4.0f} % " + "".join(f"{100 * c:6.1f} ({100 * w:4.1f})  " for c, w in cells))


if __name__ == "__main__":
    main()
