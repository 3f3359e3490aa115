"""The bijections from unconstrained arrays onto supports: those that `log_joint` uses, by the name of the support."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ppl import support as supports
from ppl.support import Support

SUPPORTS: dict[str, Support] = {
    support.name: support
    for support in (
        supports.real,
        supports.real_vector,
        supports.real_matrix,
        supports.positive,
        supports.nonnegative,
        supports.unit_interval,
        supports.open_unit_interval,
        supports.circular,
        supports.simplex,
        supports.interval,
        supports.left_bounded,
        supports.right_bounded,
        supports.corr_cholesky,
        supports.lower_cholesky,
        supports.positive_definite,
    )
}
"""Supports onto which there is a bijection."""

BOUNDS = {"interval": ("low", "high"), "left_bounded": ("low",), "right_bounded": ("high",)}
"""Supports whose edges are numbers that must be given."""

_OF_MATRICES = ("corr_cholesky", "lower_cholesky", "positive_definite")


def event_ndim(name: str) -> int:
    """Return the number of axes of one constrained value."""
    return 1 if name in ("simplex", "real_vector") else 2 if name in (*_OF_MATRICES, "real_matrix") else 0


def free_ndim(name: str) -> int:
    """Return the number of axes of one unconstrained value."""
    return 1 if name in _OF_MATRICES else event_ndim(name)


def bijector(name: str, bounds: Mapping[str, Any]):
    """Return NumPyro's bijection onto a support.

    Args:
        name: Name of the support.
        bounds: Its edges, where they are numbers.
    """
    from numpyro.distributions import biject_to, constraints

    of = {
        "real_vector": lambda: constraints.real_vector,
        "real_matrix": lambda: constraints.real_matrix,
        "positive": lambda: constraints.positive,
        "nonnegative": lambda: constraints.nonnegative,
        "unit_interval": lambda: constraints.unit_interval,
        "open_unit_interval": lambda: constraints.open_interval(0.0, 1.0),
        "circular": lambda: constraints.interval(-np.pi, np.pi),
        "simplex": lambda: constraints.simplex,
        "interval": lambda: constraints.interval(bounds["low"], bounds["high"]),
        "left_bounded": lambda: constraints.greater_than(bounds["low"]),
        "right_bounded": lambda: constraints.less_than(bounds["high"]),
        "corr_cholesky": lambda: constraints.corr_cholesky,
        "lower_cholesky": lambda: constraints.lower_cholesky,
        "positive_definite": lambda: constraints.positive_definite,
    }
    return biject_to(of[name]() if name in of else constraints.real)
