"""A chain of scalar normals, each a choice of its own in model and guide."""

import jax.numpy as jnp

from estimators import elbo
from ppl import gen, normal


@gen
def model(params):
    """Walk half-way back to 0 at every step and observe the end."""
    state = 0.0
    for i in range(params["loc"].shape[0]):
        state = normal(0.5 * state, 1.0) @ f"z{i}"
    normal(state, 1.0) @ "x"


@gen
def guide(params, observed):
    """Draw every choice from a normal of its own."""
    for i in range(params["loc"].shape[0]):
        normal(params["loc"][i], jnp.exp(params["log_scale"][i])) @ f"z{i}"


def objective(**_):
    """Return the one-sample ELBO."""
    bound = elbo(model, guide)
    return lambda params, seen: bound(params, {"x": seen})
