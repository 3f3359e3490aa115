"""The simplest baseline: a number."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp

from ppl.strategies import Baseline


@dataclasses.dataclass(frozen=True)
class constant(Baseline):  # noqa: N801 - baselines read as words at the choice.
    """Subtract a number from the costs of every element: E[(c - b) d log p] = E[c d log p] (Williams 1992).

    The best one is E[c s**2] / E[s**2], s the score; a rough mean of the costs does most of it.

    Args:
        value: The number.

    Example:
        >>> import ppl
        >>> from estimators import constant, reinforce
        >>> cost = lambda p: (ppl.bernoulli(p, grad=reinforce(constant(110.0))).sample() + 10.0) ** 2
        >>> exact = ppl.exact_gradient(cost)(0.5)
        >>> round(float(exact.gradient), 4), round(float(exact.variance), 4)
        (21.0, 1.0)
    """

    value: float = 0.0

    def values(self, costs: Any, lane_axes: tuple[int, ...]) -> Any:
        """Return the number."""
        return jnp.asarray(self.value, float)
