"""What objectives of several particles share: their log weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from estimators.objectives.checks import require_particles, require_programs
from estimators.objectives.elbo import elbo
from ppl import GenerativeFunction


def require_bound(
    usage: str, model: GenerativeFunction, guide: GenerativeFunction, particles: Any, least: int = 1
) -> None:
    """Refuse what is no number of particles, or no generative function."""
    require_particles(usage, particles, least)
    require_programs(usage, model=model, guide=guide)


def log_weights_of(
    model: GenerativeFunction, guide: GenerativeFunction, particles: int, weights: Mapping[str, Any] | None = None
) -> Callable[..., jax.Array]:
    """Make a stochastic function of `(params, observed, *inputs)` that returns all log weights, shape (K,).

    `weights` of addresses are those of `elbo`.
    """
    single = elbo(model, guide, weights)

    def log_weights(params: Any, observed: Any, *inputs: Any) -> jax.Array:
        return jax.vmap(lambda _: single(params, observed, *inputs))(jnp.arange(particles))

    return log_weights
