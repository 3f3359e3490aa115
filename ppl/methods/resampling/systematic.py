"""Systematic resampling."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ppl.choice import choice
from ppl.methods.resampling.protocol import Resampling, cumulative


@dataclasses.dataclass(frozen=True)
class _Comb:
    """The law of the ancestors that one uniform point, repeated at steps of 1 / N, picks out."""

    starts: Array
    ends: Array

    def sample(self, key: Array) -> Array:
        """Draw the point; look up where its N copies fall."""
        count = self.ends.shape[0]
        points = (jnp.arange(count) + jax.random.uniform(key, dtype=self.ends.dtype)) / count
        return jnp.minimum(jnp.searchsorted(self.ends, points, side="right"), count - 1)

    def log_prob(self, ancestors: Array) -> Array:
        """Return the log of the length of the interval of points that pick these ancestors."""
        count = self.ends.shape[0]
        first = jnp.max(self.starts[ancestors] * count - jnp.arange(count))
        last = jnp.min(self.ends[ancestors] * count - jnp.arange(count))
        length = jnp.minimum(last, 1.0) - jnp.maximum(first, 0.0)
        return jnp.where(length > 0, jnp.log(jnp.where(length > 0, length, 1.0)), -jnp.inf)


@dataclasses.dataclass(frozen=True)
class systematic(Resampling):  # noqa: N801 - written like a call in programs: `systematic()`.
    """Draw all ancestors with one uniform number (Carpenter et al. 1999).

    The probability of a vector of ancestors is the length of the interval of numbers that lead to it, so that the
    choice has a score like any other.

    Example:
        >>> import jax, jax.numpy as jnp, ppl
        >>> scheme = ppl.methods.systematic()
        >>> ppl.seed(scheme.ancestors)(jax.random.key(0), jnp.zeros(4)).tolist()
        [0, 1, 2, 3]
    """

    def ancestors(self, log_weights):
        """Choose all ancestors at once."""
        return choice(_Comb(*cumulative(log_weights)), grad=self.grad).sample("ancestors")
