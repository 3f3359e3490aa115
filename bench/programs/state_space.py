"""The random walk and its mean-field guide, both written as scans."""

import jax
import jax.numpy as jnp

from estimators import elbo
from ppl import gen, normal


@gen
def model(params):
    """Walk, and observe every step."""

    def step(z, _):
        z = normal(z, jnp.exp(params["log_step"])) @ "z"
        normal(z, jnp.exp(params["log_noise"])) @ "y"
        return z, None

    jax.lax.scan(step, 0.0, None, length=params["loc"].shape[0])


@gen
def guide(params, observed):
    """Draw every step from a normal of its own."""

    def step(carry, row):
        loc, log_scale = row
        normal(loc, jnp.exp(log_scale)) @ "z"
        return carry, None

    jax.lax.scan(step, 0.0, (params["loc"], params["log_scale"]))


def objective(**_):
    """Return the one-sample ELBO."""
    bound = elbo(model, guide)
    return lambda params, seen: bound(params, {"y": seen})
