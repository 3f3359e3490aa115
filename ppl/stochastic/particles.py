"""Particles: independent runs along a leading axis, and the mean of their weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ppl._errors import PPLError, user_source


def log_normaliser(log_weights: jax.Array) -> jax.Array:
    """Return the log of the mean weight along the last axis: before the log, unbiased for a normalising constant.

    Example:
        >>> import jax.numpy as jnp
        >>> from estimators import log_normaliser
        >>> float(log_normaliser(jnp.zeros(4)))
        0.0
    """
    return jax.nn.logsumexp(log_weights, axis=-1) - jnp.log(log_weights.shape[-1])


def particles_of(function: Callable[[], Any], number: int) -> Any:
    """Evaluate a stochastic function so many times, independently, along a leading axis."""
    return jax.vmap(lambda _: function())(jnp.arange(number))


def require_count(usage: str, particles: Any) -> int:
    """Refuse anything but a positive int."""
    if isinstance(particles, int) and not isinstance(particles, bool) and particles >= 1:
        return particles
    raise PPLError(
        f"`{usage}` takes a positive number of particles.",
        where=user_source(),
        got=repr(particles),
        remedy="give an int of at least 1",
    )
