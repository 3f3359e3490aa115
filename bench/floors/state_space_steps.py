"""The same random walk, written step by step: one scan that draws from the guide and adds up both densities."""

import jax
import jax.numpy as jnp

from bench.floors import LOG_2PI
from bench.floors.state_space import SIZES as SIZES
from bench.floors.state_space import TINY as TINY
from bench.floors.state_space import matmul_flops as matmul_flops
from bench.floors.state_space import setup as setup


def draw(key, params, data, **_):
    """Make a key for each step; the noise is drawn there."""
    return jax.random.split(key, data.shape[0])


def objective(params, drawn, data):
    """Return the one-sample ELBO of keys (or of noise)."""
    step_precision, noise_precision = jnp.exp(-2 * params["log_step"]), jnp.exp(-2 * params["log_noise"])
    constant = params["log_step"] + params["log_noise"] + 0.5 * LOG_2PI

    def step(carry, inputs):
        last, total = carry
        given, loc, log_scale, seen = inputs
        noise = jax.random.normal(given) if jnp.issubdtype(given.dtype, jax.dtypes.prng_key) else given
        latent = loc + jnp.exp(log_scale) * noise
        walk, data_term = step_precision * (latent - last) ** 2, noise_precision * (seen - latent) ** 2
        return (latent, total + 0.5 * (noise**2 - walk - data_term) + log_scale - constant), None

    inputs = (drawn, params["loc"], params["log_scale"], data)
    return jax.lax.scan(step, (0.0, 0.0), inputs)[0][1]
