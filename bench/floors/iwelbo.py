"""The auto-encoder with the importance-weighted bound of Burda et al. 2016: K latents for each of 64 images."""

import jax
import jax.numpy as jnp

from bench.floors import softplus
from bench.floors.vae import decode, encode
from bench.floors.vae import setup as setup_vae

SIZES = ({"particles": 1}, {"particles": 10}, {"particles": 50})
TINY = {"particles": 4, "batch": 3, "pixels": 12, "hidden": 5, "latents": 2}


def setup(key, particles, batch=64, pixels=784, hidden=200, latents=10):
    """Return the affine maps; the images."""
    return setup_vae(key, batch, pixels, hidden, latents)


def draw(key, params, data, particles, **_):
    """Draw standard normal noise: particles, images, latents."""
    return jax.random.normal(key, (particles, data.shape[0], params["loc"][1].shape[0]))


def objective(params, drawn, data):
    """Return the mean bound: the encoder runs once for an image, the decoder once for a particle."""
    loc, log_variance = encode(params, data)
    latents = loc + jnp.exp(log_variance / 2) * drawn
    logits = decode(params, latents)
    log_likelihood = jnp.sum(data * logits - softplus(logits), axis=-1)
    log_weights = log_likelihood + jnp.sum((drawn**2 - latents**2 + log_variance) / 2, axis=-1)
    return jnp.mean(jax.nn.logsumexp(log_weights, axis=0)) - jnp.log(drawn.shape[0])


def matmul_flops(particles, batch=64, pixels=784, hidden=200, latents=10):
    """Count the encoder for every image and the decoder for every particle, three times but for the image's map."""
    encoder = 2 * pixels * hidden + 3 * 2 * hidden * latents
    return 2 * batch * (encoder + particles * 3 * (latents * hidden + hidden * pixels))
