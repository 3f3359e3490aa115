"""The score-function gradient."""

from __future__ import annotations

import dataclasses

from ppl._errors import StrategyError, user_source
from ppl.strategies.baseline import Baseline
from ppl.strategies.protocol import Strategy


@dataclasses.dataclass(frozen=True)
class reinforce(Strategy):  # noqa: N801
    """Charge dependent costs with the score: the tangent of E[c(x)] is E[dc(x) + c(x) d log p(x)] (Williams 1992).

    Any cost, any density whose support does not move with its parameters. One evaluation, the highest variance. The
    surrogate c * exp(s - stop_gradient(s)) (Foerster et al. 2018) is right for derivatives of every order, also with a
    baseline b, which adds b (1 - exp(s - stop_gradient(s))) (Mao et al. 2019).

    Args:
        baseline: What to subtract from the costs, see [`Baseline`][ppl.strategies.Baseline].

    Example:
        >>> import jax, ppl
        >>> cost = lambda p: ppl.bernoulli(p, grad=ppl.reinforce()).sample() * 2.0
        >>> bool(jax.numpy.isfinite(ppl.grad(cost)(jax.random.key(0), 0.5)))
        True
    """

    mode = "score"

    baseline: Baseline | None = None

    def __post_init__(self):
        if not (self.baseline is None or isinstance(self.baseline, Baseline)):
            raise StrategyError(
                "`reinforce(baseline=...)` takes a baseline.",
                where=user_source(),
                expected="a baseline object, such as `constant(0.5)`",
                got=repr(self.baseline),
                remedy="call the class with its arguments; a number b is `constant(b)`",
            )

    def __str__(self) -> str:
        return "reinforce" if self.baseline is None else f"reinforce({self.baseline!r})"
