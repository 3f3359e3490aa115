"""A mixture of K normals: 1,000 points, each with its own guide, whose assignments are summed out exactly."""

import jax
import jax.numpy as jnp
from jax.nn import log_softmax

from bench.floors import LOG_2PI

SIZES = ({"components": 8}, {"components": 128})
TINY = {"components": 3, "points": 4}


def setup(key, components, points=1000):
    """Return weights, locations, log scale and the guide's logits; the points."""
    keys = jax.random.split(key, 4)
    params = {
        "weights": 0.1 * jax.random.normal(keys[0], (components,)),
        "locs": jax.random.normal(keys[1], (components,)),
        "log_scale": jnp.asarray(0.2),
        "guide": jax.random.normal(keys[2], (points, components)),
    }
    return params, jax.random.normal(keys[3], (points,))


def draw(key, params, data, **_):
    """Draw nothing."""
    return ()


def objective(params, drawn, data):
    """Return the exact ELBO."""
    log_guide = log_softmax(params["guide"])
    z = (data[:, None] - params["locs"]) * jnp.exp(-params["log_scale"])
    log_point = log_softmax(params["weights"]) - 0.5 * z**2
    constant = params["log_scale"] + 0.5 * LOG_2PI
    return jnp.sum(jnp.exp(log_guide) * (log_point - log_guide)) - data.shape[0] * constant


def matmul_flops(components, points=1000):
    """There are no matrix products."""
    return 0
