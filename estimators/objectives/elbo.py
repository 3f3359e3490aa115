"""The evidence lower bound."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax

from estimators.objectives.checks import require_programs
from estimators.objectives.weights import require_weights, shared_out
from ppl import GenerativeFunction, assess, merge, simulate
from ppl._errors import boundary


@boundary
def elbo(
    model: GenerativeFunction, guide: GenerativeFunction, weights: Mapping[str, Any] | None = None
) -> Callable[..., jax.Array]:
    """Make the evidence lower bound E_q[log p(x, z) - log q(z)] (Jordan et al. 1999), to be maximised.

    Args:
        model: Called as `model(params, *inputs)`; its choices are the guide's and the observed ones.
        guide: Called as `guide(params, observed, *inputs)`.
        weights: Factors w by glob, which multiply the log densities of the choices that match, of model and guide
            alike: w (log p(z_i) - log q(z_i)) for a latent choice, w log p(x_i) for an observed one. Scalars, or
            arrays that broadcast over the choice's lanes and steps. What is drawn stays as it is.

    Returns:
        A stochastic function of `(params, observed, *inputs)` that returns a scalar.

    Raises:
        AddressError: The guide's and the observed choices together are not the model's, or a weight matches no choice
            or does not broadcast.

    Example:
        >>> import jax, ppl
        >>> from estimators import elbo
        >>> @ppl.gen
        ... def model(params):
        ...     z = ppl.normal(0.0, 1.0) @ "z"
        ...     ppl.normal(z, 1.0) @ "x"
        >>> @ppl.gen
        ... def guide(params, observed):
        ...     ppl.normal(params, 0.8) @ "z"
        >>> value, gradient = ppl.value_and_grad(elbo(model, guide))(jax.random.key(0), 0.5, {"x": 2.0})
        >>> value.shape
        ()
    """
    require_programs("elbo", model=model, guide=guide)
    weights = require_weights("elbo", weights)

    def objective(params: Any, observed: Any, *inputs: Any) -> jax.Array:
        of_model, of_guide = None, None
        if weights:
            addresses = model.addresses(params, *inputs), guide.addresses(params, observed, *inputs)
            of_model, of_guide = shared_out(weights, *addresses)
        drawn = simulate(guide, of_guide)(params, observed, *inputs)
        log_joint, _ = assess(model, of_model)(merge(drawn.choices, observed), params, *inputs)
        return log_joint - drawn.log_density

    return objective
