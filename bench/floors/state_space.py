"""A random walk observed with noise and a mean-field guide: all latents drawn at once, all densities of one array."""

import jax
import jax.numpy as jnp

SIZES = ({"steps": 1_000}, {"steps": 10_000})
TINY = {"steps": 7}


def setup(key, steps):
    """Return the guide's locations and log scales and the model's log scales; the observations."""
    loc_key, key = jax.random.split(key)
    params = {
        "loc": 0.1 * jax.random.normal(loc_key, (steps,)),
        "log_scale": jnp.full(steps, -0.5),
        "log_step": jnp.asarray(-0.3),
        "log_noise": jnp.asarray(0.2),
    }
    return params, jax.random.normal(key, (steps,))


def draw(key, params, data, **_):
    """Draw standard normal noise."""
    return jax.random.normal(key, data.shape)


def objective(params, drawn, data):
    """Return the one-sample ELBO; the normalising constants of guide and walk cancel, that of the data remains."""
    latents = params["loc"] + jnp.exp(params["log_scale"]) * drawn
    steps = latents - jax.lax.pad(latents, 0.0, [(1, -1, 0)])  # `jnp.diff` concatenates, which is not vectorised
    walk = -0.5 * jnp.exp(-2 * params["log_step"]) * jnp.sum(steps**2)
    seen = -0.5 * jnp.exp(-2 * params["log_noise"]) * jnp.sum((data - latents) ** 2)
    guide = jnp.sum(0.5 * drawn**2 + params["log_scale"])
    constant = data.shape[0] * (params["log_step"] + params["log_noise"] + 0.5 * jnp.log(2 * jnp.pi))
    return walk + seen + guide - constant


def matmul_flops(steps):
    """There are no matrix products."""
    return 0
