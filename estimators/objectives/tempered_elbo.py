"""The evidence lower bound with a weight on the divergence from the prior."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from estimators.objectives.checks import require_number, require_programs
from ppl import GenerativeFunction, assess, merge, simulate
from ppl._errors import boundary
from ppl.choicemap import flatten, show
from ppl.transforms.traits import exact_globs


@boundary
def tempered_elbo(model: GenerativeFunction, guide: GenerativeFunction, beta: Any) -> Callable[..., jax.Array]:
    """Make E_q[log p(x; z) + beta (log p(z) - log q(z))] (Higgins et al. 2017, eq. 4), to be maximised.

    log p(z) are the densities of the model's choices that the guide makes, log p(x; z) those of the observed ones (and
    factors). beta = 1 is the ELBO; below 1 it is warmed up, above 1 codes are simpler; other than 1 it is no bound.
    Unbiased with any strategies in the guide. Costs what `elbo` costs.

    Args:
        model: Called as `model(params, *inputs)`.
        guide: Called as `guide(params, observed, *inputs)`.
        beta: A number of at least 0; it may be traced.

    Returns:
        A stochastic function of `(params, observed, *inputs)` that returns a scalar.

    Raises:
        PPLError: `beta` is not a number of at least 0.
        AddressError: The guide's and the observed choices together are not the model's.

    Example:
        >>> import jax.numpy as jnp, ppl
        >>> from estimators import tempered_elbo
        >>> @ppl.gen
        ... def model(params):
        ...     z = ppl.bernoulli(0.3) @ "z"
        ...     ppl.bernoulli(jnp.where(z, 0.8, 0.1)) @ "x"
        >>> @ppl.gen
        ... def guide(params, observed):
        ...     ppl.bernoulli(params, grad=ppl.enum()) @ "z"
        >>> exact = ppl.exact_gradient(tempered_elbo(model, guide, beta=0.5))(0.5, {"x": 1})
        >>> round(float(exact.value), 4), round(float(exact.gradient), 4)
        (-1.3065, 1.6558)
    """
    require_number("tempered_elbo", "beta", beta, "a number of at least 0", lambda b: np.isfinite(b) and b >= 0)
    require_programs("tempered_elbo", model=model, guide=guide)

    def objective(params: Any, observed: Any, *inputs: Any) -> jax.Array:
        drawn = simulate(guide)(params, observed, *inputs)
        names = {show(path): beta for path in flatten(drawn.choices)} | {show(path): 1.0 for path in flatten(observed)}
        weighted, _ = assess(model, exact_globs(names))(merge(drawn.choices, observed), params, *inputs)
        return weighted - beta * drawn.log_density

    return objective
