"""The tail of importance weights: Pareto's shape k."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from ppl import PPLError
from ppl._errors import boundary, user_source

_LEAST_TAIL = 5


@boundary
def generalized_pareto_shape(exceedances: jax.Array) -> jax.Array:
    """Fit the shape k of a generalized Pareto distribution to exceedances over a threshold (Zhang and Stephens 2009).

    The posterior mean of b = -k / scale under their data-based prior, on a grid of 30 + sqrt(n) points; for a given b,
    the likelihood is largest at k = mean log(1 - b x). Moments of order 1 / k and above are infinite; k < 0 is a
    bounded tail.

    Args:
        exceedances: Positive numbers, in any order.

    Returns:
        k, of the sign that is positive for heavy tails.

    Raises:
        PPLError: There are fewer than 5.

    Example:
        >>> import jax
        >>> from estimators.diagnostics import generalized_pareto_shape
        >>> u = jax.random.uniform(jax.random.key(0), (20_000,))
        >>> round(float(generalized_pareto_shape((u**-0.5 - 1) / 0.5)), 1)
        0.5
    """
    x = jnp.sort(jnp.ravel(exceedances))
    num = x.shape[0]
    if num < _LEAST_TAIL:
        raise PPLError(
            "A tail needs more exceedances.",
            where=user_source(),
            expected=f"at least {_LEAST_TAIL}",
            got=str(num),
            remedy="take more draws",
        )
    points = 30 + math.isqrt(num)
    quartile = x[(num + 2) // 4 - 1]
    grid = 1 / x[-1] + (1 - jnp.sqrt(points / (jnp.arange(points) + 0.5))) / (3 * quartile)
    shapes = jnp.mean(jnp.log1p(-grid[:, None] * x), axis=1)
    log_likelihoods = num * (jnp.log(-grid / shapes) - shapes - 1)
    b = jnp.sum(grid * jax.nn.softmax(log_likelihoods))
    return jnp.mean(jnp.log1p(-b * x))


@boundary
def pareto_k(log_weights: jax.Array) -> jax.Array:
    """Return k-hat of importance weights (Vehtari et al. 2024, section 3): how heavy the tail of the weights is.

    A generalized Pareto distribution is fitted to the largest min(S / 5, 3 sqrt(S)) of S weights, and its shape drawn
    towards 1/2 as if by 10 more draws. Below 0.5 the variance of the weights is finite, below 0.7 importance
    sampling works at sizes in use, above 1 not even their mean is finite.

    Args:
        log_weights: S of them, at least 25; -inf for weights that are 0.

    Returns:
        k-hat; -inf where the largest weights differ by no more than rounding, so that there is no tail; inf where one
        of them is inf or NaN.

    Raises:
        PPLError: There are fewer than 25 weights.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from estimators import pareto_k
        >>> z = jax.random.normal(jax.random.key(0), (4000,))
        >>> narrow = 0.3 * z  # draws of N(0, .3) for N(0, 1): k = 1 - .3**2, the weights have no variance
        >>> bool(pareto_k(-(narrow**2) / 2 + z**2 / 2) > 0.7)
        True
    """
    log_weights = jnp.ravel(log_weights)
    size = log_weights.shape[0]
    if size < 5 * _LEAST_TAIL:
        raise PPLError(
            "`pareto_k` needs more weights.",
            where=user_source(),
            expected=f"at least {5 * _LEAST_TAIL}",
            got=str(size),
            remedy="take more draws",
        )
    tail = min(size // 5, math.ceil(3 * math.sqrt(size)))
    ordered = jnp.sort(log_weights)
    relative = jnp.exp(ordered[-tail - 1 :] - ordered[-1])
    exceedances = relative[1:] - relative[0]
    rounding = 8 * jnp.finfo(exceedances.dtype).eps * jnp.maximum(1, jnp.abs(ordered[-1]))
    alike = exceedances[-1] <= rounding
    tiny = jnp.finfo(exceedances.dtype).tiny
    shape = generalized_pareto_shape(jnp.where(alike, 1.0 + jnp.arange(tail), jnp.maximum(exceedances, tiny)))
    shape = (tail * shape + 10 * 0.5) / (tail + 10)
    found = jnp.where(alike, -jnp.inf, shape)
    return jnp.where(jnp.isnan(log_weights).any() | (ordered[-1] == jnp.inf), jnp.inf, found)
