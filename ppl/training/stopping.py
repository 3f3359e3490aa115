"""When a run may end before its last step."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Plateau:
    """Stop when the mean value of a window of steps has not improved for some windows in a row.

    The steps are cut into windows of equal length, and each has a mean m with its standard error e, from the finite
    values in it. A window is an improvement if m exceeds the best mean before it by more than
    `errors` * sqrt(e^2 + e_best^2): noise alone, of independent steps, seldom does that (1.645 standard errors are the
    one-sided 5 % point of the normal distribution). The answer depends on the values alone, not on when it is asked
    for, so that a resumed run stops where the uninterrupted one does.

    Args:
        window: Number of steps in a window.
        patience: Number of windows in a row without improvement.
        errors: Number of standard errors that make an improvement.

    Example:
        >>> import numpy as np
        >>> from ppl.training import Plateau
        >>> climbing, level = np.arange(100.0), np.full(100, 99.0)
        >>> stop = Plateau(window=20, patience=3)
        >>> stop(climbing), stop(np.concatenate([climbing, level]))
        (False, True)
    """

    window: int = 1000
    patience: int = 3
    errors: float = 1.645

    def __call__(self, values: np.ndarray) -> bool:
        """Tell whether to stop, from the values so far; higher is better."""
        best, best_error, waited = -np.inf, 0.0, 0
        for mean, error in map(_summary, _windows(values, self.window)):
            if mean - best > self.errors * np.hypot(error, best_error):
                best, best_error, waited = mean, error, 0
            else:
                waited += 1
            if waited >= self.patience:
                return True
        return False


def _windows(values: np.ndarray, length: int) -> np.ndarray:
    return values[: len(values) // length * length].reshape(-1, length)


def _summary(values: np.ndarray) -> tuple[float, float]:
    """Return the mean of the finite values and its standard error; of fewer than two, -inf and 0."""
    finite = values[np.isfinite(values)].astype(np.float64)
    if len(finite) < 2:
        return -np.inf, 0.0
    return float(finite.mean()), float(finite.std(ddof=1) / np.sqrt(len(finite)))
