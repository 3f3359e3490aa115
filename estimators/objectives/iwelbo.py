"""The importance-weighted evidence lower bound."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from estimators.objectives.particles import log_weights_of, require_bound
from ppl import GenerativeFunction
from ppl._errors import boundary


@boundary
def iwelbo(
    model: GenerativeFunction, guide: GenerativeFunction, particles: int, weights: Mapping[str, Any] | None = None
) -> Callable[..., jax.Array]:
    """Make the importance-weighted bound E log (1/K) sum_k p(x, z_k) / q(z_k) (Burda et al. 2016, eq. 8).

    It increases with the number K of particles, from the ELBO at K = 1 to log p(x).

    Args:
        model: Called as `model(params, *inputs)`.
        guide: Called as `guide(params, observed, *inputs)`.
        particles: Number K of independent draws from the guide, at least 1.
        weights: Factors by glob of the log densities within every particle's log weight, as for `elbo`: the bound of a
            tempered model. It still increases with K.

    Returns:
        A stochastic function of `(params, observed, *inputs)` that returns a scalar, to be maximised.

    Raises:
        PPLError: `particles` is not a positive int.
        AddressError: The guide's and the observed choices together are not the model's, or a weight matches no choice
            or does not broadcast.

    Example:
        >>> import jax, ppl
        >>> from estimators import iwelbo
        >>> @ppl.gen
        ... def model(params):
        ...     z = ppl.normal(0.0, 1.0) @ "z"
        ...     ppl.normal(z, 1.0) @ "x"
        >>> @ppl.gen
        ... def guide(params, observed):
        ...     ppl.normal(params, 0.8) @ "z"
        >>> bound = iwelbo(model, guide, particles=5)
        >>> ppl.expect(bound)(jax.random.key(0), 0.5, {"x": 2.0}).shape
        ()
    """
    require_bound("iwelbo", model, guide, particles)
    log_weights = log_weights_of(model, guide, particles, weights)

    def objective(params: Any, observed: Any, *inputs: Any) -> jax.Array:
        return jax.nn.logsumexp(log_weights(params, observed, *inputs)) - jnp.log(particles)

    return objective
