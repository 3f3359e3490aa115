"""Amortised inference in probabilistic PCA of digits, whose exact posterior says how far a guide is off."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key
from sklearn.datasets import load_digits

from estimators import elbo, kl_divergence
from models.target_surrogates.fits import fit
from ppl import GenerativeFunction, gen, multivariate_normal, normal
from ppl.training import Targeted


@dataclass(frozen=True)
class Problem:
    """Centred images, the decoder, and the posterior: precision, factor of its covariance, and the best encoder."""

    images: Float[Array, "n 64"]
    loadings: Float[Array, "64 k"]
    scale: float
    precision: Float[Array, "k k"]
    factor: Float[Array, "k k"]
    encoder: Float[Array, "64 k"]

    @property
    def curvature(self) -> float:
        """Return the largest curvature of the loss in the guide's means."""
        return float(jnp.linalg.eigvalsh(self.precision)[-1])

    def gap(self, encoder: Float[Array, "64 k"]) -> Float[Array, ""]:
        """Return the mean divergence of the guide from the posterior, exactly."""
        off = self.images @ (encoder - self.encoder)
        return jnp.mean(jnp.einsum("ni,ij,nj->n", off, self.precision, off)) / 2


def problem(latents: int = 5) -> Problem:
    """Fit the decoder in closed form (Tipping and Bishop 1999)."""
    images = load_digits().data / 16
    images = images - images.mean(0)
    values, vectors = np.linalg.eigh(images.T @ images / len(images))
    variance = values[:-latents].mean()
    loadings = vectors[:, -latents:] * np.sqrt(values[-latents:] - variance)
    precision = loadings.T @ loadings / variance + np.eye(latents)
    covariance = np.linalg.inv(precision)
    arrays = (precision, np.linalg.cholesky(covariance), loadings @ covariance / variance)
    as_float = lambda x: jnp.asarray(x, jnp.float32)
    return Problem(as_float(images), as_float(loadings), float(np.sqrt(variance)), *map(as_float, arrays))


def programs(found: Problem) -> tuple[GenerativeFunction, GenerativeFunction]:
    """Return model and guide of one image; the guide's argument is the mean, its covariance is the posterior's."""

    @gen
    def model(mean: Float[Array, " k"]) -> None:
        z = normal(jnp.zeros(len(mean)), 1.0) @ "z"
        normal(found.loadings @ z, found.scale) @ "x"

    @gen
    def guide(mean: Float[Array, " k"], observed: dict) -> None:
        multivariate_normal(mean, scale_tril=found.factor) @ "z"

    return model, guide


def objective(found: Problem, runs: int = 1) -> Targeted:
    """Return the negative ELBO as a stochastic function of the guide's means, the output of a linear encoder."""
    bound = elbo(*programs(found))

    def loss(means: Float[Array, "b k"], images: Float[Array, "b 64"]) -> Float[Array, ""]:
        return -jnp.mean(jax.vmap(lambda mean, x: bound(mean, {"x": x}))(means, images))

    return Targeted(lambda encoder, images: images @ encoder, loss, runs=runs)


def divergence(found: Problem) -> Any:
    """Return the divergence of guides, the mean over a batch: every example's own."""
    total = kl_divergence(gen(lambda means, observed: multivariate_normal(means, scale_tril=found.factor) @ "z"), {})
    return lambda means, before: total(means, before) / len(means)


def train(
    found: Problem, optimizer: Any, steps: int, key: Key[Array, ""], *, plain: bool = False, runs: int = 1
) -> dict[int, float]:
    """Return the exact gap after every ten steps on batches of 256, from an encoder of zeros."""
    targeted = objective(found, runs)
    f = (lambda encoder, images: targeted(encoder, images)) if plain else targeted
    start = jnp.zeros_like(found.encoder)
    return fit(f, start, found.images, optimizer, found.gap, steps=steps, every=10, key=key, batch_size=256)
