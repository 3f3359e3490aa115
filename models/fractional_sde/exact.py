"""Gaussian processes: covariances of fractional Brownian motion and of its approximation, and evidences from them."""

import math

import numpy as np
from jaxtyping import Float
from scipy import integrate, linalg, special

from models.fractional_sde.noise import Noise
from models.fractional_sde.weights import Kind

Matrix = Float[np.ndarray, "n n"]


def fbm_covariance(times: Float[np.ndarray, " n"], hurst: float, kind: Kind) -> Matrix:
    """Return the covariance of fractional Brownian motion, as kernels (t - s)**(H - 1/2) / Gamma(H + 1/2) make it.

    Type I is 1 / (Gamma(2 H + 1) sin(pi H)) times the standard (t**2H + s**2H - |t - s|**2H) / 2.
    """
    if kind == "I":
        t, s = np.meshgrid(times, times)
        scale = 1 / (special.gamma(2 * hurst + 1) * math.sin(math.pi * hurst))
        return scale * (t ** (2 * hurst) + s ** (2 * hurst) - np.abs(t - s) ** (2 * hurst)) / 2
    return np.array([[_type_two(min(t, s), max(t, s), hurst) for t in times] for s in times])


def _type_two(s: float, t: float, hurst: float) -> float:
    """Integrate ((t - r) (s - r))**(a - 1) / Gamma(a)**2 over r from 0 to s, the singular factor as a weight."""
    a = hurst + 0.5
    if s == t:
        return s ** (2 * hurst) / (2 * hurst * special.gamma(a) ** 2)
    if s == 0:
        return 0.0
    value, _ = integrate.quad(lambda r: (t - r) ** (a - 1), 0, s, weight="alg", wvar=(0.0, a - 1))
    return value / special.gamma(a) ** 2


def fgn_covariance(number: int, step: float, hurst: float) -> Matrix:
    """Return the covariance of the increments of type I, scaled to unit variance at time 1, over equal steps."""
    lag = np.arange(number)
    row = 0.5 * (np.abs(lag + 1) ** (2 * hurst) + np.abs(lag - 1) ** (2 * hurst) - 2.0 * lag ** (2 * hurst))
    return linalg.toeplitz(step ** (2 * hurst) * row)


def approximate_covariance(noise: Noise, times: Float[np.ndarray, " n"]) -> Matrix:
    """Return the covariance of sum_k weights_k (Y_k(t) - Y_k(0)), in continuous time, for a constant Hurst index."""
    rates, weights = np.asarray(noise.rates), np.asarray(noise.weights, np.float64)
    total = rates[:, None] + rates
    s, t = np.minimum.outer(times, times), np.maximum.outer(times, times)
    covariance = np.zeros_like(s)
    for i, j in np.ndindex(total.shape):
        if noise.stationary:
            between = (np.exp(-rates[j] * (t - s)) - np.exp(-rates[j] * t) - np.exp(-rates[i] * s) + 1) / total[i, j]
        elif total[i, j]:
            between = np.exp(-rates[j] * (t - s)) * -np.expm1(-total[i, j] * s) / total[i, j]
        else:
            between = s
        covariance += weights[i] * weights[j] * between
    return (covariance + covariance.T) / 2 if noise.stationary else covariance


def increments(covariance: Matrix) -> Matrix:
    """Return the covariance of a process's increments from that of its values, the first from 0 at time 0."""
    padded = np.pad(covariance, ((1, 0), (1, 0)))
    return np.diff(np.diff(padded, axis=0), axis=1)


def log_evidence(values: Float[np.ndarray, " n"], covariance: Matrix, mean: float = 0.0) -> float:
    """Return the log density of values under a Gaussian process."""
    factor = np.linalg.cholesky(covariance)
    white = linalg.solve_triangular(factor, values - mean, lower=True)
    return float(-0.5 * white @ white - np.log(np.diag(factor)).sum() - 0.5 * len(values) * math.log(2 * math.pi))


def best_evidence(values: Float[np.ndarray, " n"], covariance: Matrix) -> float:
    """Return the log evidence at the best mean and scale of `mean + scale * process` (a profile likelihood)."""
    number = len(values)
    factor = np.linalg.cholesky(covariance)
    ones, white = (linalg.solve_triangular(factor, part, lower=True) for part in (np.ones(number), values))
    mean = ones @ white / (ones @ ones)
    variance = np.mean((white - mean * ones) ** 2)
    return float(-0.5 * number * (math.log(2 * math.pi * variance) + 1) - np.log(np.diag(factor)).sum())
