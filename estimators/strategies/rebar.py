"""The score function less a smoothed cost, which is put back through its reparameterised gradient."""

from __future__ import annotations

import dataclasses

import jax

from estimators.strategies.smoothed import FAMILIES, NOT_DISCRETE, Smoothed
from ppl import Strategy, StrategyError
from ppl._errors import user_source


@dataclasses.dataclass(frozen=True)
class rebar(Strategy):  # noqa: N801 - strategies read as words at the choice.
    """Use the cost of a smoothed value as a control variate (Tucker et al. 2017, eq. 7).

    With z = logits + noise, b = H(z), z' drawn from z given b, and c(z) = scale * k(soft(z / temperature)), soft the
    sigmoid or softmax: (k(b) - c(z')) d log p(b) + d c(z) - d c(z'). Unbiased for every scale and temperature, if the
    smoothed cost is a continuous function of z, which is checked. Three evaluations of the costs and two derivatives,
    for each element that shares costs. Its noise is low where the smoothed cost follows the cost.

    Args:
        scale: What the control variate is multiplied with.
        temperature: Positive: of the smoothed value.

    Raises:
        StrategyError: The choice is neither bernoulli nor categorical; its value is used as what only whole numbers
            are; or the strategy of a later choice that depends on it has `estimate`.
        UnsoundGradientError: The smoothed cost jumps.

    Example:
        >>> import jax, ppl
        >>> from estimators import rebar
        >>> cost = lambda x: (ppl.bernoulli(logits=x, grad=rebar(temperature=0.5)).sample() + 10.0) ** 2
        >>> gradients = jax.vmap(ppl.grad(cost), (0, None))(jax.random.split(jax.random.key(0), 2000), 0.0)
        >>> bool(abs(gradients.mean() - 5.25) < 0.3), bool(gradients.std() < 5)  # The score's deviation is 55.
        (True, True)
    """

    scale: float = 1.0
    temperature: float = 0.5
    common_noise = True

    def __post_init__(self):
        if not self.temperature > 0:
            raise StrategyError(
                "`rebar` takes a positive temperature.",
                where=user_source(),
                expected="a number above 0",
                got=repr(self.temperature),
                remedy="use `rebar(temperature=0.5)`",
            )

    def check(self, family) -> str | None:
        """Refuse all but coins and categorical choices."""
        return None if family.name in FAMILIES else NOT_DISCRETE

    def estimate(self, key, d, k):
        """Draw the noise of both z, and return the estimate for it."""
        return self.given(*Smoothed.of(d).uniforms(key, Smoothed.of(d).logits(d)), d, k)

    def given(self, u, v, d, k):
        """Return the estimate of the gradient times the logits."""
        law = Smoothed.of(d)
        logits = law.logits(d)
        soft = jax.nn.softmax if law.is_vector else jax.nn.sigmoid
        smoothed = lambda z: self.scale * k.relaxed(soft(z / self.temperature))
        return law.along(law.gradient(logits, u, v, k, smoothed), logits)
