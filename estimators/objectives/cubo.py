"""Upper bounds from the chi divergence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from estimators.objectives.checks import require_number, require_programs
from estimators.objectives.elbo import elbo
from estimators.objectives.particles import require_bound
from estimators.objectives.renyi import renyi
from ppl import GenerativeFunction
from ppl._errors import boundary


def _require_order(usage: str, order: Any) -> None:
    require_number(usage, "order", order, "a number of at least 1", lambda n: np.isfinite(n) and n >= 1)


@boundary
def cubo(
    model: GenerativeFunction, guide: GenerativeFunction, particles: int, order: Any = 2.0
) -> Callable[..., jax.Array]:
    """Make the chi upper bound E (1/n) log (1/K) sum_k w_k^n (Dieng et al. 2017, eq. 3), to be MINIMISED.

    In the limit of many particles it is above log p(x), by the chi divergence of the posterior from the guide, which
    punishes guides that are narrower than the posterior. It is the Renyi bound of the order 1 - n.

    Biased by design, by O(1/K) and downwards, since it is the log of a mean: with few particles it is no upper bound.
    The unbiased form is [`exp_cubo`][estimators.exp_cubo]. Costs K runs; its variance is that of w^n.

    Args:
        model: Called as `model(params, *inputs)`.
        guide: Called as `guide(params, observed, *inputs)`.
        particles: Number K of independent draws from the guide, at least 1.
        order: n, at least 1; it may be traced.

    Returns:
        A stochastic function of `(params, observed, *inputs)` that returns a scalar: give it to `ppl.minimize`.

    Raises:
        PPLError: `particles` is not a positive int, or `order` not a number of at least 1.
        AddressError: The guide's and the observed choices together are not the model's.

    Example:
        >>> import jax, ppl
        >>> from estimators import cubo
        >>> model = ppl.gen(lambda params: ppl.normal(ppl.normal(0.0, 1.0) @ "z", 1.0) @ "x")
        >>> guide = ppl.gen(lambda params, observed: ppl.normal(params, 1.0) @ "z")
        >>> ppl.expect(cubo(model, guide, particles=10))(jax.random.key(0), 1.0, {"x": 2.0}).shape
        ()
    """
    require_bound("cubo", model, guide, particles)
    _require_order("cubo", order)
    return renyi(model, guide, 1 - order, particles)


@boundary
def exp_cubo(
    model: GenerativeFunction, guide: GenerativeFunction, order: Any = 2.0, offset: Any = 0.0
) -> Callable[..., jax.Array]:
    """Make E_q exp(n (log w - offset)), w = p(x, z) / q(z) (Dieng et al. 2017, section 2.3), to be MINIMISED for n > 1.

    Its mean is exp(n (CUBO_n - offset)), so it has the same minimum, and value and gradient are unbiased with any
    strategies in the guide. With offset = log p(x) and n = 2 it is 1 plus the chi square divergence. Any order is
    allowed: log E w^(1 - a) / (1 - a) is the limit of Renyi's bounds. Costs one run; its variance is that of w^n,
    which is infinite where the guide's tails are too light.

    Args:
        model: Called as `model(params, *inputs)`.
        guide: Called as `guide(params, observed, *inputs)`.
        order: n, a finite number; it may be traced.
        offset: A number near the largest log weights, against overflow; a constant, or traced.

    Returns:
        A stochastic function of `(params, observed, *inputs)` that returns a scalar: give it to `ppl.minimize`.

    Raises:
        PPLError: `order` or `offset` is not a finite number.
        AddressError: The guide's and the observed choices together are not the model's.

    Example:
        >>> import jax.numpy as jnp, ppl
        >>> from estimators import exp_cubo
        >>> @ppl.gen
        ... def model(params):
        ...     z = ppl.bernoulli(0.3) @ "z"
        ...     ppl.bernoulli(jnp.where(z, 0.8, 0.1)) @ "x"
        >>> @ppl.gen
        ... def guide(params, observed):
        ...     ppl.bernoulli(params, grad=ppl.reinforce()) @ "z"
        >>> value = ppl.exact_gradient(exp_cubo(model, guide))(0.5, {"x": 1}).value
        >>> round(float(jnp.log(value) / 2), 4)
        -1.0397
    """
    require_number("exp_cubo", "order", order, "a finite number", np.isfinite)
    require_number("exp_cubo", "offset", offset, "a finite number", np.isfinite)
    require_programs("exp_cubo", model=model, guide=guide)
    single = elbo(model, guide)

    def objective(params: Any, observed: Any, *inputs: Any) -> jax.Array:
        return jnp.exp(order * (single(params, observed, *inputs) - offset))

    return objective
