"""The protocol of gradient strategies: how the gradient through one random choice is estimated."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Literal

from ppl._errors import StrategyError, user_source


@dataclasses.dataclass(frozen=True)
class Strategy:
    """How one choice's gradient is estimated; subclasses are immutable values and say how they work by `mode`.

    - "path": the value carries the derivative of its sampler (nothing else is needed);
    - "score": the value is detached, and every cost that depends on it is multiplied by exp(s - stop_gradient(s)),
      s the log density of the value;
    - "enumerate": nothing is drawn; every dependent cost is evaluated for each value of a finite support and summed
      with its probability.
    """

    mode: ClassVar[Literal["path", "score", "enumerate"]]
    unbiased: ClassVar[bool] = True

    def __str__(self) -> str:
        return type(self).__name__

    def check(self, family: Any) -> str | None:
        """Say why this strategy does not apply to a family of distributions, or return None."""
        return None


def as_strategy(strategy: Any) -> Strategy | None:
    """Return a strategy given as an object or as its class (its default instance)."""
    if strategy is None or isinstance(strategy, Strategy):
        return strategy
    if isinstance(strategy, type) and issubclass(strategy, Strategy):
        return strategy()
    raise StrategyError(
        "`grad=` takes a strategy.",
        where=user_source(),
        expected="a strategy object or class, such as `reinforce()`",
        got=f"{strategy!r} of type {type(strategy).__name__}",
        remedy="write e.g. `grad=ppl.reinforce()`",
    )
