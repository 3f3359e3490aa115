"""Bayesian logistic regression with a mean-field normal guide, all rows at once."""

import jax
import jax.numpy as jnp

from bench.floors import softplus

SIZES = ({"rows": 1_000, "columns": 20}, {"rows": 10_000, "columns": 100})
TINY = {"rows": 6, "columns": 3}


def setup(key, rows, columns):
    """Return location and log scale of the weights; the design matrix and the labels."""
    keys = jax.random.split(key, 3)
    params = {"loc": 0.1 * jax.random.normal(keys[0], (columns,)), "log_scale": jnp.full(columns, -1.0)}
    inputs = jax.random.normal(keys[1], (rows, columns))
    return params, (inputs, jax.random.bernoulli(keys[2], 0.4, (rows,)).astype(jnp.int32))


def draw(key, params, data, **_):
    """Draw standard normal noise."""
    return jax.random.normal(key, params["loc"].shape)


def objective(params, drawn, data):
    """Return the one-sample ELBO with standard normal weights."""
    inputs, labels = data
    weights = params["loc"] + jnp.exp(params["log_scale"]) * drawn
    logits = inputs @ weights
    log_likelihood = jnp.sum(labels * logits - softplus(logits))
    return log_likelihood + 0.5 * jnp.sum(drawn**2 - weights**2) + jnp.sum(params["log_scale"])


def matmul_flops(rows, columns):
    """Count the product with the weights and the one for their gradient."""
    return 2 * 2 * rows * columns
