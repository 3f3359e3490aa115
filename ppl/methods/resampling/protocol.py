"""What a resampling scheme is."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ppl.strategies import Strategy, reinforce


@dataclasses.dataclass(frozen=True)
class Resampling:
    """How ancestors are drawn from weighted particles; subclasses are immutable values.

    Each particle i has, in the mean, N times its normalised weight as its number of offspring.

    Args:
        grad: Strategy of the choice of ancestors. The default is unbiased; a biased one, `estimators.dropped()`,
            ignores that the choice depends on the parameters.

    Attributes:
        conditional: Whether there is a conditional version, in which the first ancestor is the first particle: methods
            that estimate the density of a given particle need it.
    """

    grad: Strategy = dataclasses.field(default_factory=reinforce)
    conditional: ClassVar[bool] = False

    def ancestors(self, log_weights: Float[Array, " n"]) -> Int[Array, " n"]:
        """Choose an ancestor for each new particle: a random choice of the program that calls it."""
        raise NotImplementedError

    def conditional_ancestors(self, log_weights: Float[Array, " n"]) -> Int[Array, " n"]:
        """Choose ancestors given that the first of the new particles descends from the first of the old ones."""
        raise NotImplementedError


def usable(log_weights: Array) -> Array:
    """Return log weights with finite sum: where no particle has any weight, all are alike."""
    some = jnp.isfinite(log_weights).any()
    return jnp.where(some, log_weights, jnp.zeros_like(log_weights))


def cumulative(log_weights: Array) -> tuple[Array, Array]:
    """Return where the share of each particle begins and ends on the unit interval."""
    ends = jnp.cumsum(jax.nn.softmax(usable(log_weights)))
    ends = ends / ends[-1]
    return jnp.concatenate([jnp.zeros_like(ends[:1]), ends[:-1]]), ends
