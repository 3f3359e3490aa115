"""The weights of the Markov approximation, in closed form: least squares along the path."""

import warnings
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammainc, gammaln
from jaxtyping import Array, Float

from models.fractional_sde.incomplete_gamma import scaled_upper, sinh_excess
from models.fractional_sde.settings import require_grid, require_horizon, require_hurst, require_precision

Kind = Literal["I", "II"]
"""Which fractional Brownian motion: I has stationary increments (Mandelbrot and van Ness 1968), II starts without a
past (Riemann and Liouville; Levy 1953)."""


def geometric_rates(number: int, fastest: float) -> Float[np.ndarray, " number"]:
    """Return rates from 1 / fastest to fastest, each the same multiple of the one before.

    Args:
        number: K, at least 2.
        fastest: The largest, per unit of time; above 1.

    Raises:
        SettingError: If there are fewer than two, or the fastest is not above 1.

    Example:
        >>> geometric_rates(3, 20.0).tolist()
        [0.05, 1.0, 20.0]
    """
    require_grid(number, fastest)
    return fastest ** np.linspace(-1.0, 1.0, number)


def products(rates: Float[np.ndarray, " k"], horizon: float, kind: Kind) -> Float[np.ndarray, "k k"]:
    """Integrate E[(Y_i(t) - Y_i(0)) (Y_j(t) - Y_j(0))] over t from 0 to the horizon, for processes of unit noise."""
    rates = np.asarray(rates, np.float64)
    total = rates[:, None] + rates
    if kind == "II":
        return (horizon + np.expm1(-total * horizon) / total) / total
    lost = np.expm1(-rates * horizon) / rates
    return (2 * horizon + lost[:, None] + lost) / total


def inner(rates: Float[Array, " k"], hurst: Float[Array, "*s"], horizon: float, kind: Kind) -> Float[Array, "*s k"]:
    """Integrate E[B_H(t) (Y_k(t) - Y_k(0))] over t from 0 to the horizon.

    With a = H + 1/2, Z = rate * horizon, and P, Q the regularised incomplete Gamma functions, rate**(a + 1) times it is

        I:   2 Z - Z**a / Gamma(a + 1) + e**-Z - e**Z Q(a, Z)  =  e**Z P(a + 1, Z) - 2 (sinh Z - Z)
        II:  Z P(a, Z) - a P(a + 1, Z).

    For small Z the first form of I subtracts large numbers from one another, for large Z the second: each has its side.
    """
    a, reach = jnp.asarray(hurst)[..., None] + 0.5, rates * horizon
    if kind == "II":
        value = reach * gammainc(a, reach) - a * gammainc(a + 1, reach)
    else:
        slow, fast = jnp.minimum(reach, 2.0), jnp.maximum(reach, 2.0)
        short = jnp.exp(slow) * gammainc(a + 1, slow) - 2 * sinh_excess(slow)
        power = jnp.exp(a * jnp.log(fast) - gammaln(a + 1))
        long = 2 * fast - power + jnp.exp(-fast) - scaled_upper(a, fast)
        value = jnp.where(reach < 2.0, short, long)
    return value * jnp.exp(-(a + 1) * jnp.log(rates))


def energy(hurst: Float[Array, "*s"], horizon: float, kind: Kind) -> Float[Array, "*s"]:
    """Integrate the variance of fractional Brownian motion over time, from 0 to the horizon."""
    a = hurst + 0.5
    if kind == "II":
        return horizon ** (2 * hurst + 1) / (2 * hurst * (2 * hurst + 1) * jnp.exp(2 * gammaln(a)))
    return type_one_variance(hurst) * horizon ** (2 * hurst + 1) / (2 * hurst + 1)


def type_one_variance(hurst: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """Return the variance of type I at time 1, 1 / (Gamma(2 H + 1) sin(pi H)); it is 1 for Brownian motion."""
    return jnp.exp(-gammaln(2 * hurst + 1)) / jnp.sin(jnp.pi * hurst)


def optimal_weights(
    rates: Float[np.ndarray, " k"], hurst: Float[Array, "*s"] | float, horizon: float, kind: Kind
) -> Float[Array, "*s k"]:
    """Return the weights with which a sum of Ornstein-Uhlenbeck processes is nearest to fractional Brownian motion.

    They minimise the squared distance along the path, E (sum_k w_k (Y_k(t) - Y_k(0)) - B_H(t))**2, averaged over t
    from 0 to the horizon, where all processes and B_H are made of one Brownian motion (Daems et al. 2024): A w = b, A
    the matrix of `products`, which does not know H, and b that of `inner`. So derivatives in H go through b alone, and
    A is factored in float64 when the program is traced.

    Args:
        rates: The K rates of mean reversion, per unit of time.
        hurst: H between 0 and 1, a number, or an array: of a Hurst index that changes in time, say.
        horizon: T, in units of time.
        kind: Of fractional Brownian motion.

    Raises:
        SettingError: If H is not between 0 and 1, the horizon not positive, or the weights cannot be had in float32
            (K above 10, or rates that are nearly the same process over the horizon).

    Example:
        >>> optimal_weights(geometric_rates(5, 20.0), 0.3, 6.0, "II").shape
        (5,)
    """
    require_hurst(hurst)
    require_horizon(horizon)
    system = products(rates, horizon, kind)
    require_precision(system)
    if kind == "I" and not isinstance(hurst, jax.core.Tracer):
        _warn_of_missing_memory(float(np.min(rates)) * horizon, np.max(np.asarray(hurst)))
    right = inner(jnp.asarray(rates), jnp.asarray(hurst), horizon, kind)
    factor = np.linalg.cholesky(system)
    inverse = np.linalg.solve(factor, np.eye(len(rates)))
    return right @ jnp.asarray(inverse.T @ inverse, right.dtype)


def _warn_of_missing_memory(reach: float, hurst: float) -> None:
    if reach > 0.1 and hurst > 0.5:
        text = f"slowest rate times horizon is {reach:.2g}: type I with H > 0.5 has a memory that is longer (below 0.1)"
        warnings.warn(text, UserWarning, stacklevel=4)


def residual(
    weights: Float[Array, " k"], rates: Float[np.ndarray, " k"], hurst: float, horizon: float, kind: Kind
) -> Float[Array, ""]:
    """Return the mean squared distance along the path, relative to the mean variance: from 0 to 1 for the best weights.

    The mean squared distance itself is this times `energy(hurst, horizon, kind) / horizon`.
    """
    hurst = jnp.asarray(hurst)
    quadratic = weights @ jnp.asarray(products(rates, horizon, kind)) @ weights
    mixed = weights @ inner(jnp.asarray(rates), hurst, horizon, kind)
    return (quadratic - 2 * mixed) / energy(hurst, horizon, kind) + 1.0
