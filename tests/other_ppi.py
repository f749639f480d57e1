"""Writes tests/logs/ppi.json: what other packages say of PPI++, and of Krippendorff's alpha. Not run by the tests.

In an environment of its own, since they need numba and more::

    pip install numpy scipy ppi-python==0.2.3 truescore==0.7.4 krippendorff==0.9.0
    python tests/other_ppi.py > tests/logs/ppi.json
"""

import json

import numpy as np

CASES = ((1, 0.8, 100, 500), (2, 0.95, 100, 500), (3, 0.6, 150, 400), (4, 0.9, 120, 1000))
LABELS = [
    [1, 0, 0.5, 1, 1, 0, None, 1, 0, 0],
    [1, 0, 0.5, 0, 1, 0, 1, 1, None, 0.5],
    [None, 0, 1, 1, 1, None, 1, 1, 0, 0.5],
]


def main() -> None:
    """Print the numbers."""
    import krippendorff  # type: ignore[import-not-found]  # only in that environment
    import truescore  # type: ignore[import-not-found]  # only in that environment
    from ppi_py import ppi_mean_ci, ppi_mean_pointestimate  # type: ignore[import-not-found]  # only in that environment
    from scipy.stats import norm

    found = []
    for seed, right, n, total in CASES:
        random = np.random.default_rng(seed)
        people = random.choice([-1.0, 0.0, 1.0], total, p=[0.06, 0.84, 0.10])
        judge = np.where(random.random(total) < right, people, random.choice([-1.0, 0.0, 1.0], total))
        low, high = ppi_mean_ci(people[:n], judge[:n], judge[n:], alpha=0.1)
        zero = np.zeros(total)
        other = truescore.ppi_compare(judge, zero, people[:n], zero[:n], np.arange(n), alpha=0.1)
        effect = float(ppi_mean_pointestimate(people[:n], judge[:n], judge[n:])[0])
        found.append(
            {
                "people": people.tolist(), "judge": judge.tolist(), "n": n, "effect": effect,
                "error": float(high[0] - low[0]) / 2 / float(norm.ppf(0.95)), "truescore": repr(other),
            }
        )  # fmt: skip
    values = [[np.nan if value is None else value for value in row] for row in LABELS]
    alpha = krippendorff.alpha(reliability_data=values, level_of_measurement="nominal")
    print(json.dumps({"cases": found, "labels": LABELS, "alpha": alpha}))


if __name__ == "__main__":
    main()
