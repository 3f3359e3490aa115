"""Which latents an optimal linear Gaussian auto-encoder ignores, in closed form from second moments.

The loss is that of Dang, Tran, Nguyen and Ho (2024), arXiv:2306.05023: |y - decoded|^2 / noise^2 + 2 beta KL, which is
minus twice the tempered ELBO up to constants. All moments are those of the data as they are given: centre data first.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

RIDGE = 1e-9
"""Share of the largest eigenvalue of an input's second moment below which a direction of it is none."""


@dataclass(frozen=True)
class LinearOptimum:
    """The optimum of a linear auto-encoder with one level of latents, mode by mode, in the order of the moments.

    Attributes:
        moments: All moments theta_i^2, falling; the first `len(scale)` have a latent.
        decoder: Singular values of the decoder.
        encoder: Singular values of the encoder of whitened data.
        scale: Standard deviations of the guide.
        kl: Nats of each latent, E KL(q(z_i | x), p(z_i)).
        loss: The loss without constants.
    """

    moments: Float[np.ndarray, " modes"]
    decoder: Float[np.ndarray, " latents"]
    encoder: Float[np.ndarray, " latents"]
    scale: Float[np.ndarray, " latents"]
    kl: Float[np.ndarray, " latents"]
    loss: float

    @property
    def active(self) -> int:
        """Return the number of latents that are not collapsed."""
        return int(np.sum(self.decoder > 0))

    @property
    def rate(self) -> float:
        """Return the nats of all latents together."""
        return float(self.kl.sum())


def linear_optimum(
    moments: Float[np.ndarray, " modes"], latents: int, *, beta: float = 1.0, noise: float = 1.0, prior: float = 1.0
) -> LinearOptimum:
    """Return the optimum of y ~ N(U z, noise^2), z ~ N(0, prior^2), q(z | y) = N(W y, diag(sigma^2)).

    With theta_i^2 the eigenvalues of E y y', mode i is active where theta_i^2 > beta noise^2 (Dang et al. 2024, theorem
    on linear VAEs; at beta = 1 probabilistic PCA, Lucas et al. 2019): then its decoder has the singular value
    sqrt(theta_i^2 - beta noise^2) / prior and its latent sigma_i = sqrt(beta) prior noise / theta_i, and it takes
    log(theta_i^2 / (beta noise^2)) / 2 nats. Whether it collapses does not depend on the prior's scale. For a
    conditional auto-encoder the moments are those of what inputs leave unexplained (`residual_moment`).

    Args:
        moments: theta_i^2, in any order, at least 0 (up to rounding).
        latents: Number of latents, at most that of moments.
        beta: Weight of the divergence; 0 warns, since an auto-encoder without divergence collapses nowhere.
        noise: Standard deviation of the observations.
        prior: Standard deviation of the latents.

    Raises:
        ValueError: A number is out of range, or there are more latents than moments.

    Example:
        >>> import numpy as np
        >>> from estimators.diagnostics import linear_optimum
        >>> found = linear_optimum(np.array([4.0, 0.81]), 2)
        >>> found.active, found.decoder.round(4).tolist(), round(found.rate, 4)  # log 2
        (1, [1.7321, 0.0], 0.6931)
    """
    moments = require_moments(moments)
    require_scales(noise=noise, prior=prior)
    require_weight(beta, "no divergence, no collapse: an auto-encoder")
    if not 1 <= latents <= len(moments):
        raise ValueError(f"latents are numbered 1 to {len(moments)}, the number of moments, got {latents}")
    top, threshold = moments[:latents], beta * noise**2
    excess = np.maximum(top - threshold, 0.0)
    active = excess > 0
    root = np.sqrt(np.where(active, top, 1.0))  # where theta is 0 nothing is divided by it
    with np.errstate(divide="ignore"):  # without a threshold an active mode takes infinitely many nats
        kl = np.where(active, 0.5 * np.log(np.square(root) / threshold), 0.0)
    paid = np.where(active, beta + 2 * beta * kl if beta else 0.0, top / noise**2)
    return LinearOptimum(
        moments=moments,
        decoder=np.sqrt(excess) / prior,
        encoder=np.where(active, prior * np.sqrt(excess) / root, 0.0),
        scale=np.where(active, math.sqrt(beta) * prior * noise / root, prior),
        kl=kl,
        loss=float(paid.sum() + moments[latents:].sum() / noise**2),
    )


def second_moment(y: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "d d"]:
    """Return E y y' over the rows of a matrix.

    Raises:
        ValueError: It is no matrix with rows, or not finite.
    """
    y = _matrix(y)
    return y.T @ y / len(y)


def residual_moment(y: Float[np.ndarray, "n d"], x: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "d d"]:
    """Return E yy' - E yx' (E xx')^+ E xy', the second moment of what the best linear map of x leaves of y.

    Directions in which x does not vary (constant pixels) are left out of the inverse.

    Raises:
        ValueError: One is no matrix, or their rows are not as many.
    """
    y, x = _matrix(y), _matrix(x)
    if len(y) != len(x):
        raise ValueError(f"observations and inputs need one row for each datum, got {len(y)} and {len(x)}")
    left = y - x @ (np.linalg.pinv(x.T @ x, rcond=RIDGE, hermitian=True) @ (x.T @ y))
    return left.T @ left / len(y)


def spectrum(moment: Float[np.ndarray, "d d"]) -> Float[np.ndarray, " d"]:
    """Return the eigenvalues of a second moment, falling; what rounding made negative is 0."""
    return np.maximum(np.linalg.eigvalsh(np.asarray(moment, np.float64))[::-1], 0.0)


@dataclass(frozen=True)
class Hierarchy:
    """The optimum of a linear hierarchy z2 -> z1 -> y, mode by mode, for falling moments.

    Attributes:
        encoder: Singular values lambda of the first level's encoder of whitened data.
        top: Singular values omega of the map from z2 to the mean of z1.
        decoder: Singular values of the map from z1 to the mean of y.
        guide: Those of the map from z1 to the mean of z2.
        scale: Standard deviations of z2 in the guide.
        loss: The loss times noise^2, without constants.
        terms: Nats of log q - log p of z1 and of z2, each.
        information: Nats of information on the data, I(y; z1) and I(y; z2), each.
    """

    encoder: Float[np.ndarray, " latents"]
    top: Float[np.ndarray, " latents"]
    decoder: Float[np.ndarray, " latents"]
    guide: Float[np.ndarray, " latents"]
    scale: Float[np.ndarray, " latents"]
    loss: float
    terms: tuple[Float[np.ndarray, " latents"], Float[np.ndarray, " latents"]]
    information: tuple[Float[np.ndarray, " latents"], Float[np.ndarray, " latents"]]


def linear_hierarchy(
    moments: Float[np.ndarray, " modes"],
    latents: int,
    fixed: float,
    *,
    betas: tuple[float, float] = (1.0, 1.0),
    noise: float = 1.0,
    prior: float = 1.0,
) -> Hierarchy:
    """Return the optimum of z2 ~ N(0, prior^2), z1 | z2 ~ N(U2 z2, noise^2), y | z1 ~ N(U1 z1, noise^2).

    The guide is q(z1 | y) = N(W1 y, fixed^2), q(z2 | z1) = N(W2 z1, diag(s^2)) with s learned (Dang et al. 2024, the
    theorem on Markovian hierarchical VAEs). Given the encoder and U2, the others follow by setting derivatives to 0.

    Where `fixed` is large and theta^2 < betas[1] noise^2, U2 is not 0 although z2 knows nothing of y: it models the
    noise of z1. So look at `information`.

    Args:
        moments: theta_i^2, eigenvalues of E y y'.
        latents: Number of latents of each level.
        fixed: Standard deviation of z1 in the guide.
        betas: Weights of log q - log p of z1 and z2.
        noise: Standard deviation of y and of z1 in the model.
        prior: Standard deviation of z2 in the model.

    Raises:
        ValueError: A number is out of range, or there are more latents than moments.

    Example:
        >>> import numpy as np
        >>> from estimators.diagnostics import linear_hierarchy
        >>> found = linear_hierarchy(np.array([9.0, 0.25]), 2, fixed=0.5)
        >>> [level.round(3).tolist() for level in found.information]
        [[1.099, 0.0], [0.34, 0.0]]
    """
    moments = require_moments(moments)
    require_scales(fixed=fixed, noise=noise, prior=prior)
    for beta in betas:
        require_weight(beta)
    if not 1 <= latents <= len(moments) or min(betas) == 0:
        raise ValueError(f"a hierarchy needs 1 to {len(moments)} latents and positive weights, got {latents}, {betas}")
    theta = np.sqrt(moments[:latents])
    encoder, top = _encoder_and_top(theta, fixed, *betas, noise, prior)
    return _complete(theta, moments[latents:].sum(), encoder, top, fixed, betas, noise, prior)


def _encoder_and_top(theta, fixed, beta1, beta2, noise, prior) -> tuple[np.ndarray, np.ndarray]:
    """Return lambda and omega in the theorem's three cases."""
    ratio, root = beta2 / beta1, lambda x: np.sqrt(np.maximum(x, 0.0))
    both = fixed / (math.sqrt(beta2) * noise) * root(theta**2 - beta2 * noise**2)
    carried = (fixed * theta) ** 2 / (beta2 * (prior * noise) ** 2) - ratio * (noise / prior) ** 2
    if fixed**2 >= ratio * noise**2:
        return both, root(np.maximum((fixed**2 - ratio * noise**2) / prior**2, carried))
    dead = (fixed * theta) ** 2 / (beta2 * noise**2) < ratio * noise**2
    alone = root(fixed / math.sqrt(beta1) * (theta - math.sqrt(beta1) * fixed))
    return np.where(dead, alone, both), np.where(dead, 0.0, root(carried))


def _complete(theta, discarded, encoder, top, fixed, betas, noise, prior) -> Hierarchy:
    """Add what the other parameters are, the loss and the nats."""
    (beta1, beta2), c, spread = betas, noise / prior, encoder**2 + fixed**2
    precision = beta1 * top**2 + beta2 * c**2
    guide, scale = beta1 * top / precision, np.sqrt(beta2 * noise**2 / precision)
    decoder = theta * encoder / spread
    left = (top * guide - 1) ** 2 * spread + (top * scale) ** 2  # E |z1 - U2 z2|^2
    above = guide**2 * spread + scale**2
    decoded = (decoder * encoder - theta) ** 2 + (decoder * fixed) ** 2
    loss = decoded + beta1 * left + beta2 * c**2 * above - 2 * beta2 * noise**2 * np.log(scale)
    terms = (
        0.5 * (left / noise**2 - 1 - 2 * math.log(fixed / noise)),
        0.5 * (above / prior**2 - 1 - 2 * np.log(scale / prior)),
    )
    information = (
        0.5 * np.log1p((encoder / fixed) ** 2),
        0.5 * np.log1p((guide * encoder) ** 2 / ((guide * fixed) ** 2 + scale**2)),
    )
    return Hierarchy(encoder, top, decoder, guide, scale, float(loss.sum() + discarded), terms, information)


def require_moments(moments: Float[np.ndarray, " modes"]) -> Float[np.ndarray, " modes"]:
    """Return moments in falling order.

    Raises:
        ValueError: They are no vector of finite numbers, or one is negative beyond rounding.
    """
    moments = np.asarray(moments, np.float64)
    if moments.ndim != 1 or not len(moments) or not np.isfinite(moments).all():
        raise ValueError(f"moments must be a vector of finite numbers, got shape {moments.shape}")
    if moments.min() < -1e-8 * max(moments.max(), 1.0):
        raise ValueError(f"moments are squares and cannot be negative, got {moments.min()}")
    return np.sort(np.maximum(moments, 0.0))[::-1]


def require_scales(**scales: float) -> None:
    """Refuse standard deviations that are not positive and finite."""
    for name, scale in scales.items():
        if not (np.isscalar(scale) and 0 < float(scale) < math.inf):
            raise ValueError(f"`{name}` is a standard deviation and must be positive, got {scale}")


def require_weight(beta: float, without: str = "") -> None:
    """Refuse a weight of the divergence that is negative; warn of 0 if there is something to say."""
    if not (np.isscalar(beta) and 0 <= float(beta) < math.inf):
        raise ValueError(f"the weight of a divergence must be nonnegative, got {beta}")
    if beta == 0 and without:
        warnings.warn(f"the weight of the divergence is 0: {without}", stacklevel=3)


def _matrix(rows: np.ndarray) -> np.ndarray:
    rows = np.asarray(rows, np.float64)
    if rows.ndim != 2 or not rows.size or not np.isfinite(rows).all():
        raise ValueError(f"data must be a matrix of finite numbers, one row for each datum, got shape {rows.shape}")
    return rows
