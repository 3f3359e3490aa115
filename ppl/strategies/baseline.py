"""The protocols of baselines: what a score-function estimator subtracts from the costs of a choice."""

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


@dataclasses.dataclass(frozen=True, eq=False)
class Learned(Baseline):
    """A baseline computed from arrays, which learns to follow the costs; subclasses are immutable values.

    It is evaluated where the choice is made, so nothing that it is computed from can depend on the choice or on what
    comes after it. Its value is detached where it is subtracted; its own arrays get the tangents of `fit` alone.
    """

    needs_costs: ClassVar[bool] = True

    def operand(self) -> Any:
        """Return the baseline, which broadcasts to the lanes and batch of the choice."""
        raise NotImplementedError

    def static(self) -> Learned:
        """Return the same baseline without arrays, as it stands in a program."""
        raise NotImplementedError

    def fit(self, costs: Any, values: Any) -> Any:
        """Return numbers to be maximised: minus half the square of detached costs less the baseline's values."""
        return -((costs - values) ** 2) / 2
