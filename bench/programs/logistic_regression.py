"""Bayesian logistic regression: a vector of weights, the labels of all rows."""

import jax.numpy as jnp

from estimators import elbo
from ppl import bernoulli, gen, normal


@gen
def model(params, inputs):
    """Draw the weights and the labels of the rows."""
    weights = normal(jnp.zeros(inputs.shape[1]), 1.0) @ "weights"
    bernoulli(logits=inputs @ weights) @ "labels"


@gen
def guide(params, observed, inputs):
    """Propose the weights."""
    normal(params["loc"], jnp.exp(params["log_scale"])) @ "weights"


def objective(**_):
    """Return the one-sample ELBO."""
    bound = elbo(model, guide)
    return lambda params, data: bound(params, {"labels": data[1]}, data[0])
