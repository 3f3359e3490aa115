"""Several values of a categorical choice without replacement."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
from jax import lax

from ppl import Strategy, StrategyError

MAX_DRAWS = 8
"""Largest number of draws: subsets of them are enumerated."""


@dataclasses.dataclass(frozen=True)
class unordered(Strategy):  # noqa: N801 - strategies read as words at the choice.
    """Draw k distinct values, and weigh them as a set, each less a baseline made of the others (Kool et al. 2020).

    The estimate is sum_{s in S} dp(s) R(S, s) (k(s) - sum_{s' in S} p(s') R_s(S, s') k(s')), their eq. 18: R(S, s) is
    p(S minus s drawn after s) / p(S drawn in any order), R_s the same once s has been taken out, R_s(S, s) = 1. Any
    cost. k evaluations of it, none of them twice, beside that of the value; with k the number of values it is `enum`.
    It has less noise than `leave_one_out(k)`, which may draw a value again, above all where few values have most of the
    probability.

    Args:
        draws: How many values, from 2 to 8.

    Raises:
        StrategyError: The choice is not categorical or bernoulli, or has fewer values.

    Example:
        >>> import jax, jax.numpy as jnp, ppl
        >>> from estimators import unordered
        >>> cost = lambda t: (ppl.categorical(logits=t * jnp.arange(4.0), grad=unordered(3)).sample() + 10.0) ** 2
        >>> gradients = jax.vmap(ppl.grad(cost), (0, None))(jax.random.split(jax.random.key(0), 2000), 0.0)
        >>> bool(abs(gradients.mean() - 28.75) < 1.2), bool(gradients.std() < 13)  # `leave_one_out(3)`: 21
        (True, True)
    """

    draws: int = 2
    common_noise = True

    def check(self, family) -> str | None:
        """Refuse other families, and numbers of draws that are too small or too large."""
        if not 2 <= self.draws <= MAX_DRAWS:
            return f"it draws from 2 to {MAX_DRAWS} values"
        return None if family.name in ("categorical", "bernoulli") else "it is for categorical"

    def estimate(self, key, d, k):
        """Draw values by the largest perturbed log probabilities, and return the estimate for the set."""
        if self.draws > d.num_values:
            raise StrategyError(
                f"`{self}` draws more values than there are.",
                where=d.where,
                expected=f"at most {d.num_values} draws",
                got=f"{self.draws}",
                remedy="use `enum()`, which takes all of them",
            )
        logs = jnp.log(lax.stop_gradient(d.probabilities))
        noisy = logs + jax.random.gumbel(key, logs.shape, logs.dtype)
        _, indices = lax.top_k(jnp.moveaxis(noisy, 0, -1), self.draws)
        return self.given(jnp.moveaxis(indices, -1, 0), d, k)

    @staticmethod
    def given(indices, d, k):
        """Return the estimate for drawn values, whatever their order.

        Args:
            indices: Numbers of the values, shape (draws, *shape).
            d: The distribution.
            k: The costs.
        """
        probs = jnp.take_along_axis(d.probabilities, indices, 0)
        costs = lax.stop_gradient(jax.vmap(k)(d.first_value + indices))
        first, second = _ratios(lax.stop_gradient(probs))
        baseline = (second * lax.stop_gradient(probs) * costs).sum(1)
        return (probs * first * (costs - baseline)).sum(0)


def _ratios(probs):
    """Return R(S, s), shape (k, ...), and R_s(S, s'), shape (k, k, ...)."""
    k = len(probs)
    everything = frozenset(range(k))
    whole = _in_any_order(probs, frozenset(), everything)
    after = [_in_any_order(probs, frozenset({i}), everything - {i}) for i in range(k)]
    first = jnp.stack([_ratio(x, whole) for x in after])
    ones = jnp.ones_like(probs[0])
    second = [
        [
            ones if i == j else _ratio(_in_any_order(probs, frozenset({i, j}), everything - {i, j}), after[i])
            for j in range(k)
        ]
        for i in range(k)
    ]
    return first, jnp.stack([jnp.stack(row) for row in second])


def _ratio(x, y):
    """Return x / y; 0 where y is: such a set is never drawn."""
    return jnp.where(y > 0, x / jnp.where(y > 0, y, 1), 0)


def _in_any_order(probs, taken: frozenset, members: frozenset):
    """Return the probability that the next draws are these members in any order, some others having been taken."""
    found = {frozenset(): jnp.ones_like(probs[0])}
    gone = sum((probs[i] for i in taken), jnp.zeros_like(probs[0]))
    for size in range(1, len(members) + 1):
        for subset in map(frozenset, itertools.combinations(sorted(members), size)):
            total = jnp.zeros_like(probs[0])
            for last in sorted(subset):
                rest = subset - {last}
                left = 1 - gone - sum((probs[i] for i in sorted(rest)), jnp.zeros_like(probs[0]))
                total = total + found[rest] * _ratio(probs[last], jnp.maximum(left, probs[last]))
            found[subset] = total
    return found[members]
