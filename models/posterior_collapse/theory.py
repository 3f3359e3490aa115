"""Closed forms beside those of `estimators.diagnostics`, and the losses whose minima all of them are.

Dang, Tran, Nguyen and Ho 2024: "VAE", "CVAE" and "MHVAE" below are their linear models. The losses integrate over data
and latents; they are functions of parameters only, to be minimised by any means and compared.
"""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from estimators.diagnostics.linear_theory import require_moments, require_scales, require_weight


def fixed_variance_optimum(
    theta: Float[np.ndarray, " k"],
    sigma: Float[np.ndarray, " k"],
    *,
    beta: float = 1.0,
    noise: float = 1.0,
    prior: float = 1.0,
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """Return singular values of decoder and encoder of a VAE whose guide's scales are not learned.

    With k = sqrt(beta) noise / prior, the largest theta meets the smallest sigma: then the squares are
    k (theta - k sigma) / sigma and sigma (theta - k sigma) / k, both 0 where theta <= k sigma.

    Raises:
        ValueError: A scale is not positive, beta is negative, or a theta is.
    """
    theta = np.sqrt(require_moments(np.asarray(theta, np.float64) * np.abs(theta)))
    require_scales(noise=noise, prior=prior, **{f"sigma[{i}]": float(s) for i, s in enumerate(np.ravel(sigma))})
    require_weight(beta)
    if beta == 0:
        raise ValueError("without divergence the encoder of fixed scales grows without bound")
    sigma, k = np.sort(np.ravel(sigma)), math.sqrt(beta) * noise / prior
    left = np.maximum(theta - k * sigma, 0.0)
    return np.sqrt(k * left / sigma), np.sqrt(sigma * left / k)


def fixed_hierarchy(
    theta: float, fixed: tuple[float, float], *, betas: tuple[float, float] = (1.0, 1.0), noise: float, prior: float
) -> tuple[float, float]:
    """Return singular values of the first encoder and of the map from z2 to z1, where no scale of the guide is learned.

    Both levels are active only if theta >= sqrt(k s1 s2) and theta >= b2 c^2 s2^2 / (sqrt(b1) s1), where c is
    noise / prior and k is sqrt(b1 b2) c; below the second threshold z1 is left alone, and where z1 says nothing z2 may
    still model its noise. Of these four points the one of least loss is taken (`mhvae_loss`).

    Args:
        theta: Singular value of the mode.
        fixed: Scales s1 and s2 of the guide.
        betas: Weights b1 and b2.
        noise: eta_dec.
        prior: eta_enc.

    Raises:
        ValueError: A number is not positive.
    """
    (s1, s2), (b1, b2), c = fixed, betas, noise / prior
    require_scales(theta=theta, s1=s1, s2=s2, b1=b1, b2=b2, noise=noise, prior=prior)
    k, above = math.sqrt(b1 * b2) * c, lambda x: math.sqrt(max(x, 0.0))
    both = (
        (s1**2 / (k * s2)) ** (1 / 3) * above(theta ** (4 / 3) - (k * s1 * s2) ** (2 / 3)),
        (math.sqrt(b2) * c * s1 / (b1 * s2**2)) ** (1 / 3)
        * above(theta ** (2 / 3) - (b2 * c**2 * s2**2 / (math.sqrt(b1) * s1)) ** (2 / 3)),
    )
    alone = above(s1 / math.sqrt(b1) * (theta - math.sqrt(b1) * s1))
    ratio = math.sqrt(b2 / b1) * c
    of_noise = above(ratio * (s1 - ratio * s2) / s2)
    points = [both, (alone, 0.0), (0.0, of_noise), (0.0, 0.0)]

    def loss(point: tuple[float, float]) -> float:
        encoder, top = point
        decoder, guide = theta * encoder / (encoder**2 + s1**2), b1 * top / (b1 * top**2 + b2 * c**2)
        params = np.array([decoder, encoder, top, guide, math.log(s2)])
        return float(mhvae_loss(params, theta, s1, betas, noise, prior))

    return min(points, key=loss)


def rate(theta2: Float[np.ndarray, " k"], beta: float, noise: float) -> float:
    """Return the nats of an optimal VAE by reverse water-filling: sum of max(0, log(theta^2 / (beta noise^2)) / 2)."""
    require_scales(noise=noise, beta=beta)
    return float(np.sum(np.maximum(0.0, 0.5 * np.log(np.maximum(theta2, 1e-300) / (beta * noise**2)))))


def best_noise(theta2: Float[np.ndarray, " k"], latents: int) -> float:
    """Return the learned standard deviation of the observations at beta = 1: the root mean discarded eigenvalue.

    Probabilistic PCA (Tipping and Bishop 1999, equation 8); collapse is then the choice of the rank itself.

    Raises:
        ValueError: Nothing is discarded.
    """
    theta2 = require_moments(theta2)
    if not 0 <= latents < len(theta2):
        raise ValueError(f"of {len(theta2)} modes, 0 to {len(theta2) - 1} can be kept, got {latents}")
    return math.sqrt(theta2[latents:].mean())


def log_evidence(moment: Float[np.ndarray, "d d"], decoder: Float[np.ndarray, "d k"], noise: float) -> float:
    """Return the mean log density of data with a second moment under N(0, U U' + noise^2 I)."""
    covariance = decoder @ decoder.T + noise**2 * np.eye(len(moment))
    _, log_det = np.linalg.slogdet(2 * np.pi * covariance)
    return float(-0.5 * (log_det + np.trace(np.linalg.solve(covariance, moment))))


def vae_loss(params: dict[str, Array], moment: Float[Array, "d d"], beta: float, noise: float, prior: float) -> Array:
    """Return E |y - U z|^2 / noise^2 + 2 beta KL, with `U` (d, k), `W` (k, d) and `log_scale` (k,)."""
    u, w, variance = params["U"], params["W"], jnp.exp(2 * params["log_scale"])
    left = jnp.eye(len(moment)) - u @ w
    decoded = jnp.trace(left @ moment @ left.T) + jnp.sum(u**2 @ variance)
    return decoded / noise**2 + beta * _twice_divergence(jnp.trace(w @ moment @ w.T), variance, prior)


def cvae_loss(params: dict[str, Array], moment: Float[Array, "e e"], beta: float, noise: float, prior: float) -> Array:
    """Return the same for y | x, z ~ N(U1 z + U2 x, noise^2), q(z | x, y) = N(W1 x + W2 y, ...).

    The moment is that of x above y, in one vector; the shape of `U2` says how long x is.
    """
    u1, u2, variance = params["U1"], params["U2"], jnp.exp(2 * params["log_scale"])
    d, k = u2.shape
    encoder = jnp.concatenate([params["W1"], params["W2"]], axis=1)
    left = jnp.concatenate([-u2, jnp.eye(d)], axis=1) - u1 @ encoder
    decoded = jnp.trace(left @ moment @ left.T) + jnp.sum(u1**2 @ variance)
    divergence = _twice_divergence(jnp.trace(encoder @ moment @ encoder.T), variance, prior)
    return decoded / noise**2 + beta * divergence


def _twice_divergence(square: Array, variance: Float[Array, " k"], prior: float) -> Array:
    return square / prior**2 + jnp.sum(variance / prior**2 - 1 - jnp.log(variance / prior**2))


def mhvae_loss(
    params: Float[Array | np.ndarray, " 5"],
    theta: float,
    fixed: float,
    betas: tuple[float, float],
    noise: float,
    prior: float,
) -> Array:
    """Return the MHVAE's loss of one mode, times noise^2: of u1, lambda, u2, w2 and log s2."""
    u1, encoder, u2, w2, log_scale = params
    (beta1, beta2), c, variance = betas, noise / prior, jnp.exp(2 * log_scale)
    left = (u2 * w2 - 1) ** 2
    decoded = (u1 * encoder - theta) ** 2 + (u1 * fixed) ** 2
    first = left * encoder**2 + u2**2 * variance + left * fixed**2
    second = (w2 * encoder) ** 2 + (w2 * fixed) ** 2 + variance
    return decoded + beta1 * first + beta2 * c**2 * second - 2 * beta2 * noise**2 * log_scale
