"""The importance-weighted bound with a baseline for every particle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from estimators.objectives.guides import charged, tangents_of
from estimators.objectives.particles import require_bound
from ppl import GenerativeFunction, assess, merge, simulate
from ppl._errors import boundary
from ppl.transforms.traits import density_of


@boundary
def vimco(model: GenerativeFunction, guide: GenerativeFunction, particles: int) -> Callable[..., jax.Array]:
    """Make the importance-weighted bound whose score-function gradient has a baseline (Mnih and Rezende 2016, eq. 9).

    The value L is that of [`iwelbo`][estimators.iwelbo]. Where a choice of the guide is differentiated by `reinforce`,
    the score of particle i is charged with L - L_{-i}; L_{-i} replaces log w_i by the mean of the other ones, so it
    does not depend on particle i and the gradient stays unbiased. Choices with other strategies keep their own.

    Assumes a guide with choices by `reinforce` (otherwise it is `iwelbo`). Costs one more evaluation of their
    densities. The variance grows much slower with K than without: the signal L - L_{-i} shrinks as 1/K, L does not.

    Args:
        model: Called as `model(params, *inputs)`.
        guide: Called as `guide(params, observed, *inputs)`.
        particles: Number K of independent draws from the guide, at least 2.

    Returns:
        A stochastic function of `(params, observed, *inputs)` that returns a scalar, to be maximised.

    Raises:
        PPLError: `particles` is not an int of at least 2: one particle has no others.
        AddressError: The guide's and the observed choices together are not the model's.

    Example:
        >>> import jax.numpy as jnp, ppl
        >>> from estimators import vimco
        >>> @ppl.gen
        ... def model(params):
        ...     z = ppl.bernoulli(0.3) @ "z"
        ...     ppl.bernoulli(jnp.where(z, 0.8, 0.1)) @ "x"
        >>> @ppl.gen
        ... def guide(params, observed):
        ...     ppl.bernoulli(params, grad=ppl.reinforce()) @ "z"
        >>> exact = ppl.exact_gradient(vimco(model, guide, particles=2))(0.5, {"x": 1})
        >>> round(float(exact.gradient), 4), round(float(exact.variance), 2)
        (0.6838, 2.47)
    """
    require_bound("vimco", model, guide, particles, least=2)

    def objective(params: Any, observed: Any, *inputs: Any) -> jax.Array:
        names = charged(guide, params, observed, *inputs)

        def particle(_: Any) -> tuple[jax.Array, jax.Array]:
            drawn = simulate(guide)(params, observed, *inputs)
            log_joint, _ = assess(model)(merge(drawn.choices, observed), params, *inputs)
            return log_joint - drawn.log_density, density_of(guide, drawn, names)

        log_weights, log_probs = jax.vmap(particle)(jnp.arange(particles))
        bound = _log_mean(log_weights)
        if not names:
            return bound
        return bound - jnp.sum(jax.lax.stop_gradient(_without_each(log_weights)) * tangents_of(log_probs))

    return objective


def _without_each(log_weights: jax.Array) -> jax.Array:
    """Return for each particle the bound in which its log weight is the mean of the others'."""
    num = log_weights.shape[0]
    means = (log_weights.sum() - log_weights) / (num - 1)
    replaced = jnp.where(jnp.eye(num, dtype=bool), means[:, None], log_weights[None, :])
    return _log_mean(replaced)


def _log_mean(log_weights: jax.Array) -> jax.Array:
    """Return the log of the mean weight along the last axis.

    The number is taken off inside: as a term of its own, log K would not be charged, and L and L_{-i} not compared.
    """
    return jax.nn.logsumexp(log_weights - jnp.log(log_weights.shape[-1]), axis=-1)
