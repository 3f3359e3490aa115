"""Closed forms against their numbers in the notes on the paper: the largest error of each program's."""

import math

import numpy as np

from estimators.diagnostics import linear_hierarchy, linear_optimum
from models.posterior_collapse.theory import fixed_variance_optimum, mhvae_loss

EIGENVALUES = np.array([3.55733937, 1.53481844, 0.37849182, 0.09211508])


def errors() -> dict[str, float]:
    """Return the largest error of the optima of VAE, CVAE and MHVAE.

    Those of the MHVAE are by how much another point nearby is better than the closed form.
    """
    one, two = linear_optimum(np.array([4.0]), 1), linear_optimum(np.array([1.69]), 1, beta=2.0, prior=0.7, noise=0.5)
    fixed = fixed_variance_optimum(np.array([2.0]), np.array([0.6]))
    pairs = [
        (one.decoder[0], 1.7320508),
        (one.encoder[0], 0.8660254),
        (one.scale[0], 0.5),
        (one.rate, math.log(2)),
        (one.loss, 2.386294361),
        (two.decoder[0], 1.5583874),
        (two.encoder[0], 0.5873922),
        (two.scale[0], 0.3807498),
        (two.loss, 4.435751419),
        (fixed[0][0], 1.5275252),
        (fixed[1][0], 0.9165151),
    ]
    conditional = linear_optimum(EIGENVALUES, 4, noise=0.5)
    expected = np.array([1.8186092, 1.1334983, 0.3584576, 0.0])
    found = {
        "vae": max(abs(x - y) for x, y in pairs),
        "cvae": max(np.abs(conditional.decoder - expected).max(), abs(conditional.loss - 8.253207583)),
    }
    settings = [(2.0, 1.5, (1.0, 1.0)), (1.2, 0.5, (1.0, 1.0)), (4.0, 0.5, (1.0, 1.0))]
    return {name: float(error) for name, error in (found | {"mhvae": max(_better(*s) for s in settings)}).items()}


def _better(theta: float, fixed: float, betas: tuple[float, float]) -> float:
    found = linear_hierarchy(np.array([theta**2]), 1, fixed, betas=betas)
    parts = (found.decoder, found.encoder, found.top, found.guide, np.log(found.scale))
    best = np.array([part[0] for part in parts])
    loss = lambda params: float(mhvae_loss(params, theta, fixed, betas, 1.0, 1.0))
    moved = best + 0.05 * np.random.default_rng(0).normal(size=(200, 5))
    return max(0.0, loss(best) - min(loss(params) for params in moved))
