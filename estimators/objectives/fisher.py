"""Fisher's divergence, and score matching."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from estimators.objectives.checks import require_programs
from estimators.objectives.dreams import dreamt
from estimators.objectives.guides import require_exact
from estimators.objectives.scores import vector_of
from ppl import GenerativeFunction, assess, merge, simulate
from ppl._errors import boundary


@boundary
def fisher_divergence(model: GenerativeFunction, guide: GenerativeFunction) -> Callable[..., jax.Array]:
    """Make E_q |d log q(z) / dz - d log p(x, z) / dz|^2 (Johnson 2004), to be MINIMISED.

    It needs no normalising constant, and is 0 only where the guide is the posterior; but between separated modes it
    hardly sees how much mass each has. Unbiased with any strategies in the guide. Costs two runs and their
    derivatives; for a location its variance is that of squared scores.

    Args:
        model: Called as `model(params, *inputs)`; a prior known by its score will do.
        guide: Called as `guide(params, observed, *inputs)`; continuous choices with an exact density.

    Returns:
        A stochastic function of `(params, observed, *inputs)` that returns a scalar: give it to `ppl.minimize`.

    Raises:
        AddressError: The guide's and the observed choices together are not the model's.
        PPLError: A choice of the guide is discrete, or made only sometimes.
        StrategyError: The density of the guide is an estimate.

    Example:
        >>> import jax, ppl
        >>> from estimators import fisher_divergence
        >>> model = ppl.gen(lambda params: ppl.normal(ppl.normal(0.0, 1.0) @ "z", 1.0) @ "x")
        >>> guide = ppl.gen(lambda params, observed: ppl.normal(params, 0.5**0.5) @ "z")
        >>> divergence = fisher_divergence(model, guide)  # scores differ by 2 (params - 1) everywhere
        >>> round(float(ppl.expect(divergence)(jax.random.key(0), 1.5, {"x": 2.0})), 4)
        1.0
    """
    require_programs("fisher_divergence", model=model, guide=guide)

    def objective(params: Any, observed: Any, *inputs: Any) -> jax.Array:
        require_exact("fisher_divergence", guide, params, observed, *inputs)
        drawn = simulate(guide)(params, observed, *inputs).choices
        z, restore = vector_of("fisher_divergence", drawn)

        def log_ratio(z: jax.Array) -> jax.Array:
            choices = restore(z)
            log_prob, _ = assess(guide)(choices, params, observed, *inputs)
            return log_prob - assess(model)(merge(choices, observed), params, *inputs)[0]

        return jnp.sum(jax.grad(log_ratio)(z) ** 2)

    return objective


@boundary
def score_matching(model: GenerativeFunction, guide: GenerativeFunction) -> Callable[..., jax.Array]:
    """Make -E_p[tr d^2 log q(z; x) / dz^2 + |d log q(z; x) / dz|^2 / 2] (Hyvarinen 2005, eq. 4), to be maximised.

    Up to a constant, minus half of E_p |d log p(z; x) / dz - d log q(z; x) / dz|^2, where the model dreams (z, x). The
    guide is only assessed, so it may be unnormalised (with factors), and no strategy is used; the model is not
    trained. Unbiased, if the densities vanish at the edges of their supports. Costs a run of the model and as many
    second derivatives of the guide as it has numbers.

    Args:
        model: Called as `model(params, *inputs)`; it can be simulated.
        guide: Called as `guide(params, dreamt, *inputs)`; continuous choices.

    Returns:
        A stochastic function of `(params, observed, *inputs)` that returns a scalar; only addresses and types of
        `observed` are used.

    Raises:
        AddressError: The model makes no choice at an observed address, or other choices than the guide's.
        PPLError: A choice of the guide is discrete, or made only sometimes.

    Example:
        >>> import jax, ppl
        >>> from estimators import score_matching
        >>> model = ppl.gen(lambda params: ppl.normal(2.0, 1.0) @ "z")
        >>> guide = ppl.gen(lambda params, observed: ppl.factor(-((ppl.normal(0.0, 1.0) @ "z") - params) ** 2) @ "f")
        >>> ppl.grad(score_matching(model, guide))(jax.random.key(0), 0.5, {}).shape
        ()
    """
    require_programs("score_matching", model=model, guide=guide)

    def objective(params: Any, observed: Any, *inputs: Any) -> jax.Array:
        latent, data = dreamt(model, params, observed, *inputs)
        z, restore = vector_of("score_matching", latent)
        score = jax.grad(lambda z: assess(guide)(restore(z), params, data, *inputs)[0])
        return -jnp.trace(jax.jacfwd(score)(z)) - jnp.sum(score(z) ** 2) / 2

    return objective
