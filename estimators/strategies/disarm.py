"""The antithetic gradient of coins without ARM's noise."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from estimators.strategies.flips import NOT_A_COIN, logits_of, uniform
from ppl import Strategy


@dataclasses.dataclass(frozen=True)
class disarm(Strategy):  # noqa: N801 - strategies read as words at the choice.
    """Evaluate the costs at two antithetic flips, u averaged out (Dong, Mnih and Tucker 2020, eq. 4; ARM's eq. 3).

    With b = 1[1 - u < sigmoid(logit)] and b' = 1[u < sigmoid(logit)] the estimate is
    (k(b) - k(b')) (-1)^b' 1[b != b'] sigmoid(|logit|) / 2: the mean of ARM's given both flips (Yin et al. 2020 call it
    U2G). Any cost. All lanes and batch elements flip at once: two evaluations of the costs, however many coins share
    them. Where few coins share a cost, `rao_blackwell` or `mvd`, which look at both values of each, have less noise.

    Raises:
        StrategyError: The choice is not bernoulli.

    Example:
        >>> import jax, ppl
        >>> from estimators import disarm
        >>> cost = lambda logit: (ppl.bernoulli(logits=logit, grad=disarm()).sample() + 10.0) ** 2
        >>> float(ppl.grad(cost)(jax.random.key(0), 0.0))  # A fair coin always has the other flip: no noise.
        5.25
    """

    common_noise = True

    def check(self, family) -> str | None:
        """Refuse all but coins."""
        return None if family.name == "bernoulli" else NOT_A_COIN

    def estimate(self, key, d, k):
        """Draw u, and return the estimate for it."""
        return self.given(uniform(key, d), d, k)

    def given(self, u, d, k):
        """Return (k(b) - k(b')) (-1)^b' 1[b != b'] sigmoid(|logit|) logit / 2."""
        logits = logits_of(d)
        fixed = lax.stop_gradient(logits)
        probs = jax.nn.sigmoid(fixed)
        flip, other = 1 - u < probs, u < probs
        sign = jnp.where(flip == other, 0.0, jnp.where(other, -1.0, 1.0))
        difference = lax.stop_gradient(k.jointly(flip) - k.jointly(other))
        return difference * sign * jax.nn.sigmoid(jnp.abs(fixed)) / 2 * logits
