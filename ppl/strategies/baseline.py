"""The protocol of baselines: what a score-function estimator subtracts from the costs of a choice."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar


@dataclasses.dataclass(frozen=True)
class Baseline:
    """What to subtract from the costs charged to a choice; subclasses are immutable values.

    Unbiased as long as it does not depend on the value of the choice: E[b d log p(x)] = 0.

    Attributes:
        needs_costs: Whether it is computed from the costs of the choice's lanes, which then may not all share costs.
    """

    needs_costs: ClassVar[bool] = False

    def values(self, costs: Any, lane_axes: tuple[int, ...]) -> Any:
        """Return the baseline, which broadcasts to the choice's steps, lanes and batch.

        Args:
            costs: Detached costs of each step, lane and batch element; None unless `needs_costs`.
            lane_axes: The axes of lanes and batch among them (the others are steps); where costs are needed, only those
                along which no cost depends on several elements. None for a single choice.
        """
        raise NotImplementedError
