"""Generators of f-divergences D_f(p, q) = E_q f(p / q), as functions of log t, t = p / q: nothing overflows early.

Each is convex in t with f(1) = 0. A generator of your own is any function of one array, f(log t).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.scipy.special import xlogy


def kl_forward(log_ratio: jax.Array) -> jax.Array:
    """Return t log t: KL(p, q), which covers what p likes.

    Example:
        >>> from estimators import divergences
        >>> float(divergences.kl_forward(0.0))
        0.0
    """
    ratio = jnp.exp(log_ratio)
    return xlogy(ratio, ratio)


def kl_reverse(log_ratio: jax.Array) -> jax.Array:
    """Return -log t: KL(q, p), which seeks a mode of p; the ELBO's.

    Example:
        >>> from estimators import divergences
        >>> divergences.kl_reverse(2.0)
        -2.0
    """
    return -log_ratio


def squared_hellinger(log_ratio: jax.Array) -> jax.Array:
    """Return (sqrt t - 1)^2: sum (sqrt p - sqrt q)^2, between 0 and 2.

    Example:
        >>> from estimators import divergences
        >>> float(divergences.squared_hellinger(0.0))
        0.0
    """
    return jnp.expm1(log_ratio / 2) ** 2


def total_variation(log_ratio: jax.Array) -> jax.Array:
    """Return |t - 1| / 2: the largest difference of probabilities of one event, between 0 and 1.

    Example:
        >>> from estimators import divergences
        >>> float(divergences.total_variation(0.0))
        0.0
    """
    return jnp.abs(jnp.expm1(log_ratio)) / 2


def jensen_shannon(log_ratio: jax.Array) -> jax.Array:
    """Return (t log t - (t + 1) log((t + 1) / 2)) / 2: between 0 and log 2 (Lin 1991).

    Example:
        >>> from estimators import divergences
        >>> abs(round(float(divergences.jensen_shannon(0.0)), 6))
        0.0
    """
    ratio = jnp.exp(log_ratio)
    return (xlogy(ratio, ratio) - (ratio + 1) * (jax.nn.softplus(log_ratio) - jnp.log(2.0))) / 2


def chi_square(log_ratio: jax.Array) -> jax.Array:
    """Return (t - 1)^2: Pearson's E_q t^2 - 1, the variance of importance weights.

    Example:
        >>> from estimators import divergences
        >>> float(divergences.chi_square(0.0))
        0.0
    """
    return jnp.expm1(log_ratio) ** 2
