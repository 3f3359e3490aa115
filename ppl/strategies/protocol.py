"""The protocol of gradient strategies: how the gradient through one random choice is estimated."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Literal

from ppl._errors import StrategyError, user_source


@dataclasses.dataclass(frozen=True)
class Strategy:
    """How one choice's gradient is estimated; subclasses are immutable values.

    A strategy of your own is a frozen dataclass with the method [`estimate`][ppl.Strategy.estimate]. The strategies of
    the language say how they work by `mode` instead:

    - "path": the value carries the derivative of its sampler (nothing else is needed);
    - "score": the value is detached, and every cost that depends on it is multiplied by exp(s - stop_gradient(s)),
      s the log density of the value;
    - "enumerate": nothing is drawn; every dependent cost is evaluated for each value of a finite support and summed
      with its probability;
    - "detached": the value is detached and no cost is charged to it, as if it had been given. Biased;
    - "relaxed": the choice yields real numbers, and the program is rewritten for them: see
      [`Relaxation`][ppl.strategies.Relaxation]. Biased;
    - "direct": what `estimate` returns.

    Attributes:
        unbiased: Whether the gradient is; reports show strategies that are not as biased.
        learns: Whether it has arrays of its own to learn, which `operand` gives.
        common_noise: Whether the choices made after this one see the same noise at every call of `k`, which makes
            differences of costs less noisy. Otherwise each call has noise of its own.

    Example:
        >>> import dataclasses, jax, ppl
        >>> @dataclasses.dataclass(frozen=True)
        ... class two_values(ppl.Strategy):
        ...     def estimate(self, key, d, k):
        ...         return d.params["probs"] * (k(1) - k(0))
        >>> cost = lambda p: (ppl.bernoulli(p, grad=two_values()).sample() - 0.45) ** 2
        >>> round(float(ppl.grad(cost)(jax.random.key(0), 0.3)), 4)
        0.1
    """

    mode: ClassVar[Literal["path", "score", "enumerate", "detached", "relaxed", "direct"]] = "direct"
    unbiased: ClassVar[bool] = True
    learns: ClassVar[bool] = False
    common_noise: ClassVar[bool] = False
    unchecked: ClassVar[bool] = False  # A pathwise strategy may give the user's word that costs are continuous.

    def __str__(self) -> str:
        return type(self).__name__

    def check(self, family: Any) -> str | None:
        """Say why this strategy does not apply to a family of distributions, or return None."""
        return None

    def operand(self) -> Any:
        """Return what the strategy learns as one 1-D array; it is an operand of the choice, and `d.operand` there.

        What `estimate` returns may have tangents with respect to it: they are those of numbers to be maximised.
        """
        return None

    def static(self) -> Strategy:
        """Return the same strategy without arrays, as it stands in a program."""
        return self

    def estimate(self, key: Any, d: Any, k: Callable[[Any], Any]) -> Any:
        """Return numbers whose tangents with respect to the parameters of `d` are unbiased for those of E k(x), x ~ d.

        Args:
            key: A PRNG key.
            d: The choice's [`Distribution`][ppl.strategies.distribution.Distribution]: `sample(key)`, `log_prob(x)`,
                `params`, `mean`, `support`, `shape`. Its parameters carry the tangents.
            k: Maps values of the choice (anything that broadcasts to `d.shape`) to the costs that depend on them, of
                shape `d.shape`: lanes, batch elements and steps that share no cost are evaluated together, others one
                by one. The costs have no tangents but those of the value; taking these is refused where the costs are
                not a continuous function of it. See [`Costs`][ppl.strategies.costs.Costs] for other ways to ask:
                `k.jointly(x)` and `k.relaxed(x)`.

        Returns:
            Numbers of shape `d.shape`. Their values do not matter: that of the objective comes from a draw of its own.
        """
        raise NotImplementedError(f"{type(self).__name__} has no `estimate`")


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
