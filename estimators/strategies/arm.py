"""The augment-REINFORCE-merge gradient of coins."""

from __future__ import annotations

import dataclasses

import jax
from jax import lax

from estimators.strategies.flips import NOT_A_COIN, logits_of, uniform
from ppl import Strategy


@dataclasses.dataclass(frozen=True)
class arm(Strategy):  # noqa: N801 - strategies read as words at the choice.
    """Evaluate the costs at two antithetic flips of one uniform number u (Yin and Zhou 2019, theorem 1).

    d E k(b) / d logit = E[(k(1[u > sigmoid(-logit)]) - k(1[u < sigmoid(logit)])) (u - 1/2)]. Any cost. All lanes and
    batch elements flip at once, so it takes two evaluations of the costs, however many coins share them. Its variance
    is bounded where the score's is not, as the difference of costs is 0 unless both flips differ; `disarm` has the
    same cost and never more variance.

    Raises:
        StrategyError: The choice is not bernoulli.

    Example:
        >>> import jax, ppl
        >>> from estimators import arm
        >>> cost = lambda logit: (ppl.bernoulli(logits=logit, grad=arm()).sample() + 10.0) ** 2
        >>> gradients = jax.vmap(ppl.grad(cost), (0, None))(jax.random.split(jax.random.key(0), 2000), 0.0)
        >>> bool(abs(gradients.mean() - 5.25) < 0.3)  # Exactly 21 / 4; its variance 9.2, the score's 3053.
        True
    """

    common_noise = True

    def check(self, family) -> str | None:
        """Refuse all but coins."""
        return None if family.name == "bernoulli" else NOT_A_COIN

    def estimate(self, key, d, k):
        """Draw u, and return the estimate for it."""
        return self.given(uniform(key, d), d, k)

    def given(self, u, d, k):
        """Return (k(1[u > sigmoid(-logit)]) - k(1[u < sigmoid(logit)])) (u - 1/2) logit."""
        logits = logits_of(d)
        fixed = lax.stop_gradient(logits)
        difference = k.jointly(u > jax.nn.sigmoid(-fixed)) - k.jointly(u < jax.nn.sigmoid(fixed))
        return lax.stop_gradient(difference) * (u - 0.5) * logits
