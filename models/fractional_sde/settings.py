"""What is refused before anything is computed."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from ppl import PPLError

FOLDER = str(Path(__file__).parent) + os.sep


class SettingError(PPLError, ValueError):
    """A process cannot be built or discretised as asked for."""


def refuse(what: str, *, expected: str, got: object, remedy: str) -> None:
    """Raise a `SettingError` that names the nearest line outside this folder."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(FOLDER):
        frame = frame.f_back
    where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
    raise SettingError(what, where=where, expected=expected, got=str(got), remedy=remedy)


def require_hurst(hurst: object) -> None:
    """Refuse a Hurst index outside (0, 1); one that is traced is not known yet."""
    if isinstance(hurst, jax.core.Tracer):
        return
    values = np.asarray(hurst, np.float64)
    if not ((values > 0) & (values < 1)).all():
        refuse(
            "A Hurst index lies strictly between 0 and 1.",
            expected="0 < H < 1",
            got=values,
            remedy="parametrise it by `hurst_of`, which keeps it within [0.02, 0.98]",
        )


def require_horizon(horizon: float) -> None:
    """Refuse a horizon that is not positive and finite."""
    if not (np.isfinite(horizon) and horizon > 0):
        refuse("The horizon is not positive.", expected="T > 0", got=horizon, remedy="give the length of the path")


def require_grid(number: int, fastest: float) -> None:
    """Refuse a geometric grid with fewer than two rates, or whose fastest is not above 1."""
    if number < 2:
        remedy = "take two or more; one rate of zero is Brownian motion: `brownian()`"
        refuse("A geometric grid has at least two rates.", expected="K >= 2", got=number, remedy=remedy)
    if not fastest > 1:
        remedy = "rates run from 1 / gamma_max to gamma_max, per unit of time"
        refuse("The fastest rate is not above 1.", expected="gamma_max > 1", got=fastest, remedy=remedy)


def require_precision(matrix: np.ndarray) -> None:
    """Refuse more rates than the precision can solve for.

    The condition of the system grows with their number (5e5 at ten), and with rates that are slower than the horizon.
    """
    number, condition = len(matrix), np.linalg.cond(matrix)
    if (number > 10 or condition > 1e6) and not jax.config.jax_enable_x64:
        refuse(
            f"The weights of {number} rates cannot be solved for in float32.",
            expected="K <= 10, and a system whose condition is at most 1e6",
            got=f"K = {number}, condition {condition:.0e}",
            remedy="take fewer rates, none much slower than the horizon; or jax.config.update('jax_enable_x64', True)",
        )


def require_times(times: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return times as an array; refuse those that do not increase."""
    times = np.asarray(times, np.float64)
    if times.ndim != 1 or len(times) < 2 or not (np.diff(times) > 0).all():
        refuse(
            "Times do not increase strictly.",
            expected="an array (N + 1,) with t[i] < t[i + 1]",
            got=f"shape {times.shape}, smallest step {np.diff(times).min() if times.size > 1 else None}",
            remedy="sort them, and drop duplicates",
        )
    return times


def require_steps(times: np.ndarray, fastest: float) -> None:
    """Refuse explicit steps that the fastest rate makes stiff."""
    longest = float(np.diff(times).max())
    if fastest * longest >= 0.5:
        refuse(
            f"A step of {longest:.3g} is too long for the rate {fastest:.3g}.",
            expected="gamma_max * dt < 0.5",
            got=f"{fastest * longest:.3g}",
            remedy="take more steps, or a smaller gamma_max",
        )
