"""The mean cost of the other lanes."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax.numpy as jnp

from ppl.strategies import Baseline


@dataclasses.dataclass(frozen=True)
class leave_one_out_lanes(Baseline):  # noqa: N801
    """Subtract from the cost of each lane the mean cost of the others (Kool et al. 2019; Mnih and Rezende 2016).

    For choices with several lanes or batch elements whose costs do not mix: a cost of lane j does not depend on the
    value in lane i, so their mean is a baseline. It follows the costs by itself, as they change in training. Of several
    axes of lanes, those along which costs mix are left out. A single choice has no others, and no baseline.

    Raises:
        StrategyError: Along every axis of lanes some cost depends on several.

    Example:
        >>> import jax, jax.numpy as jnp, ppl
        >>> from estimators import leave_one_out_lanes, reinforce
        >>> flip = lambda p: ppl.bernoulli(p, grad=reinforce(leave_one_out_lanes())).sample()
        >>> cost = lambda p: jnp.sum(jax.vmap(flip)(jnp.full(2, p)) + 10.0)
        >>> round(float(ppl.exact_gradient(cost)(0.5).variance), 4)
        4.0
    """

    needs_costs = True

    def values(self, costs: Any, lane_axes: tuple[int, ...]) -> Any:
        """Return for each lane the mean of the others."""
        count = math.prod(costs.shape[axis] for axis in lane_axes)
        total = costs.sum(lane_axes, keepdims=True)
        return (total - costs) / max(count - 1, 1) if count > 1 else jnp.zeros_like(costs)
