"""The mixture: a point's assignment is a choice that the guide's strategy sums out."""

import jax
import jax.numpy as jnp

from estimators import elbo
from ppl import categorical, enum, gen, normal


@gen
def model(params):
    """Draw every point from one of the components."""

    def point(_):
        k = categorical(logits=params["weights"]) @ "k"
        normal(params["locs"][k], jnp.exp(params["log_scale"])) @ "x"

    jax.vmap(point)(jnp.arange(params["guide"].shape[0]))


@gen
def guide(params, observed):
    """Assign every point by logits of its own."""
    jax.vmap(lambda logits: categorical(logits=logits, grad=enum()) @ "k")(params["guide"])


def objective(**_):
    """Return the exact ELBO."""
    bound = elbo(model, guide)
    return lambda params, points: bound(params, {"x": points})
