"""Eight schools with a choice of its own for every school."""

import jax.numpy as jnp

from estimators import elbo
from ppl import gen, half_cauchy, log_normal, normal


@gen
def model(params, errors):
    """Draw mean and spread of the effects, each school's effect, and what was measured there."""
    mu = normal(0.0, 5.0) @ "mu"
    tau = half_cauchy(5.0) @ "tau"
    for i in range(errors.shape[0]):
        theta = normal(mu, tau) @ f"theta{i}"
        normal(theta, errors[i]) @ f"y{i}"


@gen
def guide(params, observed, errors):
    """Draw every choice from a distribution of its own."""
    scale = jnp.exp(params["log_scale"])
    normal(params["loc"][0], scale[0]) @ "mu"
    log_normal(params["loc"][1], scale[1]) @ "tau"
    for i in range(errors.shape[0]):
        normal(params["loc"][2 + i], scale[2 + i]) @ f"theta{i}"


def objective(**_):
    """Return the one-sample ELBO."""
    bound = elbo(model, guide)

    def of_data(params, data):
        effects, errors = data
        return bound(params, {f"y{i}": effects[i] for i in range(errors.shape[0])}, errors)

    return of_data
