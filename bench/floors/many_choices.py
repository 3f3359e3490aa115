"""A hundred scalar normals in a chain, each a choice of its own in the program: here one array."""

import jax
import jax.numpy as jnp

SIZES = ({"choices": 100},)
TINY = {"choices": 5}


def setup(key, choices):
    """Return locations and log scales; one observation."""
    params = {"loc": 0.1 * jax.random.normal(key, (choices,)), "log_scale": jnp.full(choices, -0.5)}
    return params, jnp.asarray(0.7)


def draw(key, params, data, **_):
    """Draw standard normal noise."""
    return jax.random.normal(key, params["loc"].shape)


def objective(params, drawn, data):
    """Return the one-sample ELBO of z_i ~ N(z_{i-1} / 2, 1) and x ~ N(z_n, 1)."""
    latents = params["loc"] + jnp.exp(params["log_scale"]) * drawn
    last = jax.lax.pad(latents, 0.0, [(1, -1, 0)])  # a concatenation is not vectorised
    chain = -0.5 * jnp.sum((latents - 0.5 * last) ** 2 - drawn**2)
    return chain + jnp.sum(params["log_scale"]) - 0.5 * (data - latents[-1]) ** 2 - 0.5 * jnp.log(2 * jnp.pi)


def matmul_flops(choices):
    """There are no matrix products."""
    return 0
