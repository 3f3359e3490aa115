"""The same variational auto-encoder written by hand in JAX, with neither `ppl` nor NumPyro.

It is the floor under the program's held-out ELBO: same networks, initial weights, batches, one-sample estimator, noise
and optimiser. Densities are written out, batches go through matrix products, and the gradient is `jax.grad` of the
reparameterised mean: what one would write without a language.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key, PyTree, UInt8

Images = UInt8[Array, "n pixels"]


class Weights(NamedTuple):
    """The five affine maps of the auto-encoder, each a pair (weight, bias)."""

    encoder_hidden: tuple[Array, Array]
    loc: tuple[Array, Array]
    log_variance: tuple[Array, Array]
    decoder_hidden: tuple[Array, Array]
    logits: tuple[Array, Array]

    @classmethod
    def of(cls, networks: PyTree) -> "Weights":
        """Take the weights of the program's networks."""
        encoder, decoder = networks.encoder, networks.decoder
        layers = (encoder.hidden, encoder.loc, encoder.log_variance, decoder.hidden, decoder.logits)
        return cls(*((layer.weight, layer.bias) for layer in layers))


def affine(layer: tuple[Array, Array], inputs: Float[Array, "n in"]) -> Float[Array, "n out"]:
    """Apply one layer to a batch."""
    weight, bias = layer
    return inputs @ weight.T + bias


def encode(weights: Weights, pixels: Float[Array, "n pixels"]) -> tuple[Array, Array]:
    """Return location and log variance of q(z | x)."""
    hidden = jnp.tanh(affine(weights.encoder_hidden, pixels))
    return affine(weights.loc, hidden), affine(weights.log_variance, hidden)


def decode(weights: Weights, latents: Float[Array, "n latents"]) -> Float[Array, "n pixels"]:
    """Return the logits of p(x | z)."""
    return affine(weights.logits, jnp.tanh(affine(weights.decoder_hidden, latents)))


def elbo(weights: Weights, noise: Float[Array, "n latents"], images: Images) -> Float[Array, " n"]:
    r"""Return the one-sample ELBO of each image.

    With $z = \mu + \sigma \varepsilon$ it is $\log p(x \mid z) + \log p(z) - \log q(z \mid x)$, where the constants of
    the two normal densities cancel: $\sum_j x_j l_j - \log(1 + e^{l_j}) + \sum_i \tfrac12 (\varepsilon_i^2 - z_i^2) +
    \log \sigma_i$.
    """
    pixels = images.astype(noise.dtype)
    loc, log_variance = encode(weights, pixels)
    latents = loc + jnp.exp(log_variance / 2) * noise
    logits = decode(weights, latents)
    log_likelihood = jnp.sum(pixels * logits - jax.nn.softplus(logits), axis=-1)
    return log_likelihood + jnp.sum((noise**2 - latents**2 + log_variance) / 2, axis=-1)


def fit(
    weights: Weights,
    images: Images,
    batches: Callable[[Int[Array, ""]], Int[Array, " batch"]],
    noise: Callable[[Int[Array, ""]], Float[Array, "batch latents"]],
    optimizer: optax.GradientTransformation,
    steps: int,
) -> tuple[Weights, Float[Array, " steps"]]:
    """Maximise the mean ELBO of minibatches.

    Args:
        weights: Where to start.
        images: The data.
        batches: Positions in `images` of a step's minibatch.
        noise: Standard normal noise of a step.
        optimizer: Any optax optimiser; it is given the gradient of the negative ELBO.
        steps: How many.

    Returns:
        The weights, and the value of each step.
    """

    def loss(weights: Weights, noise: Array, batch: Array) -> Array:
        return -jnp.mean(elbo(weights, noise, batch))

    def step(carry: PyTree, i: Array) -> tuple[PyTree, Array]:
        weights, state = carry
        value, gradient = jax.value_and_grad(loss)(weights, noise(i), images[batches(i)])
        updates, state = optimizer.update(gradient, state, weights)
        return (optax.apply_updates(weights, updates), state), -value

    run = jax.jit(partial(jax.lax.scan, step))
    (weights, _), values = run((weights, optimizer.init(weights)), jnp.arange(steps))
    return weights, values


def held_out(weights: Weights, images: Images, key: Key[Array, ""], *, runs: int) -> Float[np.ndarray, " n"]:
    """Estimate the ELBO of each image, as the mean of so many one-sample estimates."""

    @jax.jit
    def one(key: Array) -> Array:
        return elbo(weights, jr.normal(key, (len(images), len(weights.loc[1]))), images)

    return np.stack([one(key) for key in jr.split(key, runs)]).mean(axis=0, dtype=np.float64)
