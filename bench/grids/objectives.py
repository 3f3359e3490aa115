"""The objectives of the grid: how each is made, and what it is exactly. One line each.

`exact(weights, log_w)` is the mean of the objective over a finite law: weights of the outcomes of the guide's choices
and their log weights log p - log q, both as functions of the parameters.
"""

import jax
import jax.numpy as jnp

from estimators import elbo, iwelbo


def mean_log_weight(weights, log_w):
    """E log w."""
    return weights @ log_w


def mean_log_of_pairs(weights, log_w):
    """E log (w + w') / 2 over independent pairs, a row at a time."""
    row = lambda at: weights[at] * (weights @ jnp.logaddexp(log_w[at], log_w))
    return jax.lax.map(row, jnp.arange(len(log_w)), batch_size=64).sum() - jnp.log(2.0)


OBJECTIVES = {  # name: (objective of a model and a guide, its exact value)
    "elbo": (elbo, mean_log_weight),
    "iwelbo(2)": (lambda model, guide: iwelbo(model, guide, particles=2), mean_log_of_pairs),
}
