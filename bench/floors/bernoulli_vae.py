"""An auto-encoder with 200 Bernoulli latents, by the score function with a constant baseline.

Every latent is charged with the likelihood of its own image and with its own part of log p(z) - log q(z | x).
"""

import jax
import jax.numpy as jnp
import numpy as np

from bench.floors import affine, dense, softplus

SIZES = ({"batch": 64}, {"batch": 256})
TINY = {"batch": 2, "pixels": 12, "hidden": 5, "latents": 3}
BASELINE = -float(np.log(2.0))
"""What is taken from every charged cost, for each pixel: the log likelihood of a decoder that knows nothing.

The mean of the estimate does not depend on it.
"""


def setup(key, batch, pixels=784, hidden=200, latents=200):
    """Return the four affine maps, and binary images."""
    keys = jax.random.split(key, 5)
    shapes = {
        "encoder_hidden": (pixels, hidden),
        "encoder_logits": (hidden, latents),
        "decoder_hidden": (latents, hidden),
        "logits": (hidden, pixels),
    }
    params = {name: dense(key, *shape) for key, (name, shape) in zip(keys, shapes.items(), strict=False)}
    return params, jax.random.bernoulli(keys[4], 0.3, (batch, pixels)).astype(jnp.uint8)


def encode(params, images):
    """Return the logits of q(z | x)."""
    return affine(params["encoder_logits"], jnp.tanh(affine(params["encoder_hidden"], images.astype(float))))


def decode(params, latents):
    """Return the logits of p(x | z)."""
    return affine(params["logits"], jnp.tanh(affine(params["decoder_hidden"], latents)))


def draw(key, params, data, **_):
    """Draw uniform noise."""
    return jax.random.uniform(key, (data.shape[0], params["encoder_logits"][1].shape[0]))


def objective(params, drawn, data):
    """Return the mean ELBO; what is added to charge the latents is 0 and has the derivatives of the score function."""
    logits = encode(params, data)
    latents = (drawn < jax.nn.sigmoid(logits)).astype(logits.dtype)
    log_guide = latents * logits - softplus(logits)
    pixels = decode(params, latents)
    log_likelihood = jnp.sum(data * pixels - softplus(pixels), axis=-1)
    own = -jnp.log(2.0) - log_guide
    charged = jax.lax.stop_gradient(log_likelihood[:, None] + own) - BASELINE * data.shape[1]
    score = jnp.sum(charged * (log_guide - jax.lax.stop_gradient(log_guide)), axis=-1)
    return jnp.mean(log_likelihood + jnp.sum(own, axis=-1) + score)


def matmul_flops(batch, pixels=784, hidden=200, latents=200):
    """Count three products for each map, but two where the input is the image or a detached latent."""
    products = 2 * pixels * hidden + 3 * hidden * latents + 2 * latents * hidden + 3 * hidden * pixels
    return 2 * batch * products
