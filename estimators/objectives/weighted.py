"""Particles of the guide with importance weights, through which no derivative goes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from estimators.objectives.guides import simulate_detached
from ppl import GenerativeFunction, assess, merge


def weighted_particles(
    model: GenerativeFunction, guide: GenerativeFunction, particles: int, params: Any, observed: Any, *inputs: Any
) -> tuple[Any, jax.Array, jax.Array]:
    """Draw detached choices, with log p(x, z) and the detached log weights log p(x, z) - log q(z).

    All have a leading axis of particles. The log density keeps the derivatives of the model's parameters.
    """

    def draw(_: Any) -> tuple[Any, jax.Array, jax.Array]:
        drawn = simulate_detached(guide, params, observed, *inputs)
        log_joint, _ = assess(model)(merge(drawn.choices, observed), params, *inputs)
        return drawn.choices, log_joint, jax.lax.stop_gradient(log_joint - drawn.log_density)

    return jax.vmap(draw)(jnp.arange(particles))


def guide_densities(guide: GenerativeFunction, choices: Any, params: Any, observed: Any, *inputs: Any) -> jax.Array:
    """Return log q of each particle, with the derivatives of its parameters."""
    return jax.vmap(lambda drawn: assess(guide)(drawn, params, observed, *inputs)[0])(choices)
