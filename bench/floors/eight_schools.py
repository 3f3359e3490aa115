"""Eight schools (Rubin 1981), mean-field guide: every choice is one of its own in the program, here one vector."""

import jax
import jax.numpy as jnp

from bench.floors import LOG_2PI

SIZES = ({},)
TINY = {}
EFFECTS = (28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0)
ERRORS = (15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0)


def setup(key):
    """Return location and log scale of mu, log tau and the eight effects; the effects and errors that were measured."""
    loc = 0.1 * jax.random.normal(key, (10,))
    return {"loc": loc, "log_scale": jnp.full(10, -0.5)}, (jnp.array(EFFECTS), jnp.array(ERRORS))


def draw(key, params, data, **_):
    """Draw standard normal noise."""
    return jax.random.normal(key, (10,))


def objective(params, drawn, data):
    """Return the one-sample ELBO; tau has the density of a half-Cauchy of scale 5, and a log-normal guide."""
    effects, errors = data
    packed = params["loc"] + jnp.exp(params["log_scale"]) * drawn
    mu, log_tau, theta = packed[0], packed[1], packed[2:]
    tau = jnp.exp(log_tau)
    log_mu = -0.5 * (mu / 5) ** 2 - jnp.log(5.0) - 0.5 * LOG_2PI
    log_half_cauchy = jnp.log(2 / (5 * jnp.pi)) - jnp.log1p((tau / 5) ** 2)
    log_theta = -0.5 * jnp.sum(((theta - mu) / tau) ** 2) - 8 * log_tau
    seen = -0.5 * jnp.sum(((effects - theta) / errors) ** 2) - jnp.sum(jnp.log(errors)) - 8 * LOG_2PI
    log_guide = jnp.sum(-0.5 * drawn**2 - params["log_scale"]) - 5 * LOG_2PI - log_tau
    return log_mu + log_half_cauchy + log_theta + seen - log_guide


def matmul_flops():
    """There are no matrix products."""
    return 0
