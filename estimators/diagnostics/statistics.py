"""Tail probabilities of test statistics, in plain numbers."""

from __future__ import annotations

import math

import numpy as np
from jax.scipy.special import gammaincc


def chi_square_p(counts: np.ndarray) -> float:
    """Return the p-value of equally likely cells (Pearson 1900).

    Example:
        >>> import numpy as np
        >>> chi_square_p(np.array([10, 10]))
        1.0
    """
    expected = counts.sum() / len(counts)
    statistic = float(np.sum((counts - expected) ** 2) / expected)
    return float(gammaincc((len(counts) - 1) / 2, statistic / 2))


def uniform_p(values: np.ndarray) -> float:
    """Return the p-value of numbers in [0, 1] being uniform (Kolmogorov 1933; small samples: Stephens 1970).

    Example:
        >>> import numpy as np
        >>> uniform_p((np.arange(100) + 0.5) / 100) > 0.99
        True
    """
    ordered, num = np.sort(values), len(values)
    steps = np.arange(num + 1) / num
    distance = max((steps[1:] - ordered).max(), (ordered - steps[:-1]).max())
    scaled = distance * (math.sqrt(num) + 0.12 + 0.11 / math.sqrt(num))
    if scaled < 0.2:
        return 1.0
    terms = [(-1) ** (k - 1) * math.exp(-2 * (k * scaled) ** 2) for k in range(1, 101)]
    return min(1.0, max(0.0, 2 * sum(terms)))


def symmetric_p(values: np.ndarray) -> float:
    """Return the p-value of numbers in [0, 1] lying symmetrically around 1/2 (Butler 1969).

    sqrt(n) times the largest |F(x) + F((1 - x)-) - 1| is, in large samples, the largest |W(t)|, t <= 1, of a Brownian
    motion.

    Example:
        >>> import numpy as np
        >>> symmetric_p(np.linspace(0, 1, 101)) > 0.9, symmetric_p(np.linspace(0.4, 1, 101)) < 1e-3
        (True, True)
    """
    signs = np.sign(values - 0.5)[np.argsort(-np.abs(values - 0.5), kind="stable")]
    sums = np.cumsum(signs)
    distances = np.sort(np.abs(values - 0.5))[::-1]
    last_of_tie = np.append(distances[1:] != distances[:-1], True)
    largest = np.abs(sums[last_of_tie]).max() / math.sqrt(len(values))
    if largest == 0:
        return 1.0
    terms = [(-1) ** k / (2 * k + 1) * math.exp(-((math.pi * (2 * k + 1)) ** 2) / (8 * largest**2)) for k in range(200)]
    return min(1.0, max(0.0, 1 - 4 / math.pi * sum(terms)))
