"""The hidden Markov model with a Markov guide, whose states are summed out along the chain."""

import jax

from estimators import elbo
from ppl import categorical, enum, gen, normal


@gen
def model(params):
    """Walk over the states from state 0 and observe their locations with noise."""

    def step(z, _):
        z = categorical(logits=params["transition"][z]) @ "z"
        normal(params["locs"][z], 1.0) @ "y"
        return z, None

    jax.lax.scan(step, 0, None, length=params["guide"].shape[0])


@gen
def guide(params, observed):
    """Walk with transitions that depend on the step."""

    def step(z, logits):
        z = categorical(logits=logits[z], grad=enum()) @ "z"
        return z, None

    jax.lax.scan(step, 0, params["guide"])


def objective(**_):
    """Return the exact ELBO."""
    bound = elbo(model, guide)
    return lambda params, seen: bound(params, {"y": seen})
