"""The forward (inclusive) Kullback-Leibler divergence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from estimators.objectives.particles import require_bound
from estimators.objectives.weighted import guide_densities, weighted_particles
from ppl import GenerativeFunction
from ppl._errors import boundary


@boundary
def forward_kl(model: GenerativeFunction, guide: GenerativeFunction, particles: int) -> Callable[..., jax.Array]:
    """Make minus the forward divergence KL(p(z | x), q), to be maximised for the guide (Gu et al. 2015, eq. 4).

    With particles z_i of the guide and v_i = w_i / sum_k w_k, the value is log (1/K) sum_k w_k - sum_i v_i log w_i, at
    most 0, and the gradient sum_i v_i d log q(z_i), that of `wake_q`. The model is not trained.

    Biased by design, by O(1/K): the value is 0 at K = 1, and few particles flatter the guide. Unlike the ELBO
    it covers modes: it is infinite where the guide gives no mass to what the posterior likes, but particles of the
    guide do not see what the guide does not propose; see `estimators.sandwich`. Costs K runs and K densities.

    Args:
        model: Called as `model(params, *inputs)`.
        guide: Called as `guide(params, observed, *inputs)`; any strategies, as none is used.
        particles: Number K of independent draws from the guide, at least 2.

    Returns:
        A stochastic function of `(params, observed, *inputs)` that returns a scalar.

    Raises:
        PPLError: `particles` is not an int of at least 2.
        AddressError: The guide's and the observed choices together are not the model's.

    Example:
        >>> import jax, ppl
        >>> from estimators import forward_kl
        >>> model = ppl.gen(lambda params: ppl.normal(ppl.normal(0.0, 1.0) @ "z", 1.0) @ "x")
        >>> guide = ppl.gen(lambda params, observed: ppl.normal(params, 0.8) @ "z")
        >>> bool(ppl.expect(forward_kl(model, guide, particles=5))(jax.random.key(0), 0.5, {"x": 2.0}) <= 0)
        True
    """
    require_bound("forward_kl", model, guide, particles, least=2)

    def objective(params: Any, observed: Any, *inputs: Any) -> jax.Array:
        choices, log_joints, log_weights = weighted_particles(model, guide, particles, params, observed, *inputs)
        # Not the derivatives of log q alone, its value too: if it is an estimate, that is what its choices are charged.
        log_ratios = guide_densities(guide, choices, params, observed, *inputs) - jax.lax.stop_gradient(log_joints)
        return jnp.sum(jax.nn.softmax(log_weights) * log_ratios) + jax.nn.logsumexp(log_weights) - jnp.log(particles)

    return objective
