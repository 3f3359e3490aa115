"""Regrets of Bayesian mixtures in closed form, and the bounds of Feder, Urbanke and Fogel (2025), in nats.

A mixture learner predicts with Q(x^n) = E_w P_theta(x^n). Its regret against a source P_0 of n symbols is
D(P_0^n || Q) in all, and is bounded by what the prior w says about hypotheses close to P_0, however many there are.
"""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from scipy.special import betaln, gammaln, logsumexp, xlogy
from scipy.stats import beta

TOLERANCE = 1e-6
"""By how much prior weights may miss a sum of 1."""


def require_weights(weights: Float[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
    """Return prior weights as an array.

    Raises:
        ValueError: One is negative or not finite, or they do not sum to 1.
    """
    weights = np.asarray(weights, np.float64)
    if not np.all(np.isfinite(weights)) or np.any(weights < 0) or abs(weights.sum() - 1) > TOLERANCE:
        raise ValueError(f"prior weights must be nonnegative and sum to 1 within {TOLERANCE}, got {weights}")
    return weights


def mixture(log_probs: Float[np.ndarray, "k ..."], weights: Float[np.ndarray, " k"]) -> Float[np.ndarray, "..."]:
    """Return log sum_k w_k exp(log Q_k) of finitely many hypotheses, along the first axis.

    Raises:
        ValueError: The weights are no distribution.
    """
    weights = require_weights(weights).reshape((-1,) + (1,) * (np.ndim(log_probs) - 1))
    return logsumexp(log_probs, axis=0, b=weights)


def gibbs_bound(divergence: Callable, nodes: Float[np.ndarray, " m"], weights: Float[np.ndarray, " m"]) -> float:
    """Return -log E_w exp(-D(theta)), by a quadrature of the prior: no ball, and below every ball's bound.

    It is min_rho E_rho D + KL(rho, w) (Donsker and Varadhan 1975), an ELBO.

    Args:
        divergence: Divergence of n symbols, D(P_0^n || P_theta^n), of arrays of hypotheses.
        nodes: Hypotheses.
        weights: Their prior weights.
    """
    return float(-mixture(-divergence(nodes), weights))


def ball_bound(radius: Float[np.ndarray, "..."], weight: Float[np.ndarray, "..."], n: int) -> Float[np.ndarray, "..."]:
    """Return n e - log w(B(e)) for balls of divergence e per symbol; +inf where the prior misses the ball.

    Raises:
        ValueError: A radius is not positive, or n is less than 1.
    """
    radius, weight = np.asarray(radius, np.float64), np.asarray(weight, np.float64)
    require_symbols(n)
    if np.any(radius <= 0):
        raise ValueError(f"the radius of a ball must be positive, got {radius}")
    with np.errstate(divide="ignore"):
        return n * radius - np.log(weight)


def require_symbols(n: int) -> None:
    """Refuse sequences without symbols."""
    if n < 1:
        raise ValueError(f"a regret takes at least one symbol, got n = {n}")


# --- Coins, uniform prior ----------------------------------------------------------------------------------------


def coin_divergence(theta0: float, theta: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Return D(theta0 || theta) of one toss."""
    with np.errstate(divide="ignore", invalid="ignore"):
        cross = xlogy(theta0, theta) + xlogy(1 - theta0, 1 - theta)
    return xlogy(theta0, theta0) + xlogy(1 - theta0, 1 - theta0) - cross


def coin_regret(theta0: float, n: int) -> float:
    """Return n R_o: the mixture has probability 1 / ((n + 1) C(n, k)) for each sequence with k heads."""
    require_symbols(n)
    k = np.arange(n + 1)
    binomial = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
    source = xlogy(k, theta0) + xlogy(n - k, 1 - theta0)
    return float(np.sum(np.exp(binomial + source) * (source + np.log(n + 1) + binomial)))


def coin_batch_regret(theta0: float, t: int) -> float:
    """Return r_t, the divergence of the prediction after t - 1 tosses: (k + 1) / (t + 1) after k heads."""
    require_symbols(t)
    k = np.arange(t)
    binomial = gammaln(t) - gammaln(k + 1) - gammaln(t - k)
    weights = np.exp(binomial + xlogy(k, theta0) + xlogy(t - 1 - k, 1 - theta0))
    return float(weights @ coin_divergence(theta0, (k + 1) / (t + 1)))


def coin_asymptote(theta0: float, n: int) -> float:
    """Return log(n / (2 pi e)) / 2 - log(theta0 (1 - theta0)) / 2, to which the regret tends."""
    return 0.5 * math.log(n / (2 * math.pi * math.e)) - 0.5 * math.log(theta0 * (1 - theta0))


def coin_bounds(theta0: float, n: int, points: int = 200_001) -> tuple[float, float]:
    """Return the Gibbs bound and the best ball's, by a grid of hypotheses (midpoints).

    The Gibbs bound's integral is a beta function: E_w exp(-D) = exp(n H) B(n t0 + 1, n (1 - t0) + 1).
    """
    entropy = coin_divergence(theta0, np.float64(theta0)) - xlogy(theta0, theta0) - xlogy(1 - theta0, 1 - theta0)
    gibbs = -(n * entropy + betaln(n * theta0 + 1, n * (1 - theta0) + 1))
    theta = (np.arange(points) + 0.5) / points
    radius = np.sort(coin_divergence(theta0, theta))
    weight = (np.arange(points) + 1) / points
    return float(gibbs), float(np.min(ball_bound(radius[1:], weight[1:], n)))


def coin_ball_weight(theta0: float, radius: float) -> float:
    """Return the length of the interval of coins within a divergence, by bisection."""
    from scipy.optimize import brentq

    gap = lambda theta: float(coin_divergence(theta0, np.float64(theta))) - radius
    low = brentq(gap, 1e-300, theta0) if gap(1e-300) > 0 else 0.0
    high = brentq(gap, theta0, 1 - 1e-16) if gap(1 - 1e-16) > 0 else 1.0
    return float(beta.cdf(high, 1, 1) - beta.cdf(low, 1, 1))


# --- Gaussian location and linear regression ---------------------------------------------------------------------


def location_regret(theta0: Float[np.ndarray, " d"], n: int, v: float) -> tuple[float, float]:
    """Return the regret and the Gibbs bound of x_t ~ N(theta, I), theta ~ N(0, v I)."""
    require_symbols(n)
    d, square = len(theta0), float(np.sum(np.square(theta0)))
    volume, shrunk = 0.5 * d * math.log1p(n * v), n * v / (1 + n * v)
    return volume - 0.5 * d * shrunk + shrunk * square / (2 * v), volume + n * square / (2 * (1 + n * v))


def regression_regret(phi: Float[np.ndarray, "n d"], mean: Float[np.ndarray, " n"], noise: float, v: float) -> float:
    """Return the regret of a linear regression with a fixed design, noise variance, and weights ~ N(0, v I).

    Args:
        phi: Features.
        mean: The true means, `phi @ theta0` if they are in the class.
        noise: Variance of the observations.
        v: Prior variance of each weight.
    """
    n = len(phi)
    require_symbols(n)
    covariance = noise * np.eye(n) + v * phi @ phi.T
    inverse_trace = noise * np.trace(np.linalg.inv(covariance))
    _, log_det = np.linalg.slogdet(covariance / noise)
    return float(0.5 * (inverse_trace - n + log_det + mean @ np.linalg.solve(covariance, mean)))


def mean_regression_regret(phi: Float[np.ndarray, "n d"], noise: float, v: float) -> float:
    """Return the mean of that regret under the prior: the information of the observations on the weights."""
    return float(0.5 * np.linalg.slogdet(np.eye(len(phi)) + v * phi @ phi.T / noise)[1])
