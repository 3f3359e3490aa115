"""Every value of each element of a choice, the others as they were drawn."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from ppl import Strategy


@dataclasses.dataclass(frozen=True)
class rao_blackwell(Strategy):  # noqa: N801 - strategies read as words at the choice.
    """Sum over all values of each element, given the others: sum_i sum_v dp_i(v) k(v, b_-i).

    For coins that is sum_i dp_i (k(1, b_-i) - k(0, b_-i)) (Titsias and Lazaro-Gredilla 2015, eq. 7; Tokui and Sato
    2017). Any cost, any finite support. n elements of m values that share a cost take n m evaluations of it, where
    `enum` takes m^n; elements that share none take m. The variance that is left comes from the other elements and from
    later choices alone (these see the same noise for all values): none, if there are neither.

    Raises:
        StrategyError: The support is not finite, or costs of too many elements mix.

    Example:
        >>> import jax.numpy as jnp, ppl
        >>> from estimators import rao_blackwell
        >>> cost = lambda p: ppl.bernoulli(jnp.full(2, p), grad=rao_blackwell()).sample().sum() ** 2.0
        >>> exact = ppl.exact_gradient(cost)(0.3)
        >>> round(float(exact.gradient), 4), round(float(exact.variance), 4)  # 2 + 4 p; the score's variance is 55.3
        (3.2, 1.68)
    """

    common_noise = True

    def check(self, family) -> str | None:
        """Refuse supports that are not finite."""
        return None if family.enumerable else "its support is not finite"

    def estimate(self, key, d, k):
        """Return sum_v p(v) (k(v) - k(v_0)): the weights sum to 1, a common cost is no cost."""
        values = d.first_value + jnp.arange(d.num_values)
        costs = lax.stop_gradient(jax.vmap(k)(values))
        return (d.probabilities * (costs - costs[:1])).sum(0)
