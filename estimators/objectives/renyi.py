"""The variational Renyi bound."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from estimators.objectives.checks import require_number
from estimators.objectives.particles import log_weights_of, require_bound
from ppl import GenerativeFunction
from ppl._errors import boundary


@boundary
def renyi(model: GenerativeFunction, guide: GenerativeFunction, alpha: Any, particles: int) -> Callable[..., jax.Array]:
    """Make the variational Renyi bound (Li and Turner 2016, eq. 7 and 8), to be maximised.

        E 1 / (1 - a) log (1/K) sum_k w_k^(1 - a),    w_k = p(x, z_k) / q(z_k)

    For a = 1 it is the ELBO, for a = 0 the importance-weighted bound. As K grows it tends to
    log p(x) - D_a(q, p(z | x)), D_a Renyi's divergence: below log p(x) for a > 0, above it for a < 0.

    Biased by design as an estimate of that limit, by O(1/K), since it is the log of a mean: at the sheet's two-point
    model and a = .5 the mean is -1.3033 at K = 2, in the limit -1.2566. As an estimate of the bound of K particles,
    value and gradient are unbiased, with any strategies in the guide. Costs K runs. Its variance
    grows with |1 - a|, as that of w^(1 - a) does.

    Args:
        model: Called as `model(params, *inputs)`.
        guide: Called as `guide(params, observed, *inputs)`.
        alpha: The order a, a finite number; it may be traced if it is not 1.
        particles: Number K of independent draws from the guide, at least 1.

    Returns:
        A stochastic function of `(params, observed, *inputs)` that returns a scalar.

    Raises:
        PPLError: `particles` is not a positive int, or `alpha` is not a finite number.
        AddressError: The guide's and the observed choices together are not the model's.

    Example:
        >>> import jax.numpy as jnp, ppl
        >>> from estimators import renyi
        >>> @ppl.gen
        ... def model(params):
        ...     z = ppl.bernoulli(0.3) @ "z"
        ...     ppl.bernoulli(jnp.where(z, 0.8, 0.1)) @ "x"
        >>> @ppl.gen
        ... def guide(params, observed):
        ...     ppl.bernoulli(params, grad=ppl.enum()) @ "z"
        >>> exact = ppl.exact_gradient(renyi(model, guide, alpha=0.5, particles=2))(0.5, {"x": 1})
        >>> round(float(exact.value), 4), round(float(exact.gradient), 4)
        (-1.3033, 0.9335)
    """
    require_bound("renyi", model, guide, particles)
    require_number("renyi", "alpha", alpha, "a finite number", np.isfinite)
    drawn = log_weights_of(model, guide, particles)
    order = 1 - alpha
    is_elbo = not isinstance(alpha, jax.core.Tracer) and float(alpha) == 1

    def objective(params: Any, observed: Any, *inputs: Any) -> jax.Array:
        log_weights = drawn(params, observed, *inputs)
        if is_elbo:
            return jnp.mean(log_weights)
        return (jax.nn.logsumexp(order * log_weights) - jnp.log(particles)) / order

    return objective
