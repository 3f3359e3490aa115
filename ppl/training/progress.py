"""The progress bar of a training run."""

from __future__ import annotations

import math

import numpy as np


class Progress:
    """A bar on stderr: steps done, rate, time left, and the value over the last chunk.

    Args:
        total: Number of steps of the whole run.
        done: Steps made before this call.
        show: Whether to show it; None shows it only where stderr is a terminal.
    """

    def __init__(self, total: int, done: int, show: bool | None):
        from tqdm import tqdm

        class Bar(tqdm):
            monitor_interval = 0  # no thread that watches for a bar that stands still

        quiet = None if show is None else not show
        self._bar = Bar(total=total, initial=done, unit="step", miniters=1, disable=quiet)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def advance(self, values: np.ndarray, skipped: int) -> None:
        """Count the steps of a chunk, whose values are given, and show how many were skipped so far."""
        note = f"value={summary(values)}" + (f", skipped={skipped}" if skipped else "")
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(len(values))


def summary(values: np.ndarray) -> str:
    """Write the mean of the finite values, with its standard error."""
    finite = values[np.isfinite(values)].astype(np.float64)
    if len(finite) < 2:
        return f"{finite[0]:.5g}" if len(finite) else "nan"
    return f"{finite.mean():.5g}±{finite.std(ddof=1) / math.sqrt(len(finite)):.1g}"
