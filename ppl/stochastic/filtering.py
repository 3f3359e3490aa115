"""The loop of sequential Monte Carlo: weigh, resample, move."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ppl.methods.resampling import Resampling
from ppl.stochastic.particles import log_normaliser


def ess(log_weights: jax.Array) -> jax.Array:
    """Return the effective sample size (sum w)^2 / sum w^2 along the last axis (Kong et al. 1994).

    Args:
        log_weights: Log weights, not all -inf.

    Returns:
        Numbers between 1 and the number of particles.

    Example:
        >>> import jax.numpy as jnp
        >>> from estimators import ess
        >>> float(ess(jnp.zeros(4)))
        4.0
    """
    normalised = jax.nn.softmax(log_weights, axis=-1)
    return 1 / jnp.sum(normalised**2, axis=-1)


@dataclasses.dataclass(frozen=True)
class Cloud:
    """Weighted particles on their way.

    Attributes:
        state: Pytree with a leading axis of particles.
        log_weights: Since the last resampling.
        log_normaliser: Of all resamplings so far.
    """

    state: Any
    log_weights: jax.Array
    log_normaliser: jax.Array

    def total(self) -> jax.Array:
        """Return the log of the estimate of the normalising constant."""
        return self.log_normaliser + log_normaliser(self.log_weights)


jax.tree_util.register_dataclass(Cloud, ["state", "log_weights", "log_normaliser"], [])


def start(state: Any, log_weights: jax.Array) -> Cloud:
    """Return the cloud of a first step."""
    return Cloud(state, log_weights, jnp.zeros((), log_weights.dtype))


def resample(cloud: Cloud, scheme: Resampling, threshold: float, retained: bool = False) -> tuple[Cloud, jax.Array]:
    """Choose ancestors; below 1, only where the effective sample size is below `threshold` times the particles.

    Returns:
        The new cloud, and the ancestor of each particle.
    """
    log_weights = cloud.log_weights
    ancestors = scheme.conditional_ancestors(log_weights) if retained else scheme.ancestors(log_weights)
    normaliser = cloud.total()
    if threshold < 1:
        judged = log_weights if scheme.grad.unbiased else lax.stop_gradient(log_weights)
        needed = ess(judged) < threshold * log_weights.shape[0]
        ancestors = jnp.where(needed, ancestors, jnp.arange(log_weights.shape[0]))
        log_weights = jnp.where(needed, jnp.zeros_like(log_weights), log_weights)
        normaliser = jnp.where(needed, normaliser, cloud.log_normaliser)
    else:
        log_weights = jnp.zeros_like(log_weights)
    state = jax.tree.map(lambda leaf: leaf[ancestors], cloud.state)
    return Cloud(state, log_weights, normaliser), ancestors


def advance(cloud: Cloud, move: Callable[[Any], tuple[Any, jax.Array]]) -> Cloud:
    """Move every particle: `move(state)` returns its new state and what its log weight gains."""
    state, gains = jax.vmap(move)(cloud.state)
    return Cloud(state, cloud.log_weights + gains, cloud.log_normaliser)
