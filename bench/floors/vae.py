"""The auto-encoder of Kingma & Welling 2014: 784 pixels, 200 hidden units, 10 latents, one-sample ELBO of a batch."""

import jax
import jax.numpy as jnp

from bench.floors import affine, dense, softplus

SIZES = ({"batch": 64}, {"batch": 256}, {"batch": 1024})
TINY = {"batch": 3, "pixels": 12, "hidden": 5, "latents": 2}


def setup(key, batch, pixels=784, hidden=200, latents=10):
    """Return the five affine maps, and binary images."""
    keys = jax.random.split(key, 6)
    shapes = {
        "encoder_hidden": (pixels, hidden),
        "loc": (hidden, latents),
        "log_variance": (hidden, latents),
        "decoder_hidden": (latents, hidden),
        "logits": (hidden, pixels),
    }
    params = {name: dense(key, *shape) for key, (name, shape) in zip(keys, shapes.items(), strict=False)}
    return params, jax.random.bernoulli(keys[5], 0.3, (batch, pixels)).astype(jnp.uint8)


def encode(params, images):
    """Return location and log variance of q(z | x)."""
    hidden = jnp.tanh(affine(params["encoder_hidden"], images.astype(float)))
    return affine(params["loc"], hidden), affine(params["log_variance"], hidden)


def decode(params, latents):
    """Return the logits of p(x | z)."""
    return affine(params["logits"], jnp.tanh(affine(params["decoder_hidden"], latents)))


def draw(key, params, data, **_):
    """Draw standard normal noise."""
    return jax.random.normal(key, (data.shape[0], params["loc"][1].shape[0]))


def log_weights(params, drawn, data):
    """Return log p(x, z) - log q(z | x) of every row; the constants of the two normal densities cancel."""
    loc, log_variance = encode(params, data)
    latents = loc + jnp.exp(log_variance / 2) * drawn
    logits = decode(params, latents)
    log_likelihood = jnp.sum(data * logits - softplus(logits), axis=-1)
    return log_likelihood + jnp.sum((drawn**2 - latents**2 + log_variance) / 2, axis=-1)


def objective(params, drawn, data):
    """Return the mean one-sample ELBO."""
    return jnp.mean(log_weights(params, drawn, data))


def matmul_flops(batch, pixels=784, hidden=200, latents=10):
    """Count a product for each map, and two for its gradient, or one where the input is the image."""
    products = 2 * pixels * hidden + 3 * 2 * latents * hidden + 3 * hidden * latents + 3 * hidden * pixels
    return 2 * batch * products
