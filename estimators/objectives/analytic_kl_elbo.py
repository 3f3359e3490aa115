"""The evidence lower bound with divergences from the prior in closed form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from estimators.objectives.checks import require_programs
from estimators.objectives.closed_divergence import closed_divergences
from ppl import GenerativeFunction, merge, simulate
from ppl._errors import boundary
from ppl.transforms.traits import density_of, density_without, estimated


@boundary
def analytic_kl_elbo(model: GenerativeFunction, guide: GenerativeFunction) -> Callable[..., jax.Array]:
    """Make E_q log p(x; z) - sum_i KL(q_i, p_i), with divergences in closed form (Kingma and Welling 2014, eq. 7).

    For every choice i of the guide whose family and whose prior's have a divergence in closed form (those of NumPyro's
    `kl_divergence`, and any two finite families of one size), the term log q_i - log p_i of the ELBO is replaced by
    its mean over that choice alone, given the choices before it. Other choices keep the sampled term: those without
    such a pair, in scans, branches or subsamples, and those whose prior depends on a choice that the guide makes with
    their help. Value and gradient stay unbiased, with any strategies.

    Costs less than `elbo`: two densities of each such choice are not evaluated. The variance is mostly lower, but not
    always: near the posterior, noise of the divergence cancels that of the likelihood, as in `sticking_the_landing`.

    Args:
        model: Called as `model(params, *inputs)`.
        guide: Called as `guide(params, observed, *inputs)`.

    Returns:
        A stochastic function of `(params, observed, *inputs)` that returns a scalar, to be maximised.

    Raises:
        AddressError: The guide's and the observed choices together are not the model's.

    Example:
        >>> import jax, ppl
        >>> from estimators import analytic_kl_elbo
        >>> model = ppl.gen(lambda params: ppl.normal(0.0, 1.0) @ "z")
        >>> guide = ppl.gen(lambda params, observed: ppl.normal(params, 1.0) @ "z")
        >>> float(ppl.expect(analytic_kl_elbo(model, guide))(jax.random.key(0), 2.0, {}))  # no noise is left
        -2.0
    """
    require_programs("analytic_kl_elbo", model=model, guide=guide)

    def objective(params: Any, observed: Any, *inputs: Any) -> jax.Array:
        args = (params, observed, *inputs)
        drawn = simulate(guide)(*args)
        choices = merge(drawn.choices, observed)
        closed = closed_divergences(model, guide, drawn.choices, choices, (params, *inputs), args)
        divergences = {name: jnp.sum(value) for name, value in closed.items()}
        log_joint = density_without(model, choices, (params, *inputs), divergences)
        if estimated(guide, args):  # what was estimated in this run is not to be estimated once more
            log_prob = drawn.log_density - density_of(guide, drawn, divergences)
        else:
            log_prob = density_without(guide, drawn.choices, args, divergences)
        return log_joint - log_prob - sum(divergences.values())

    return objective
