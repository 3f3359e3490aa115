"""The bounds of one image, and how the choices of the guide are differentiated in them."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

import ppl
from estimators import constant, elbo, enum, iwelbo, leave_one_out_lanes, mvd, reinforce, reweighted_wake_sleep
from models.air.scenes import guide, model

STRATEGIES = {
    "enum": enum(),
    "mvd": mvd(),
    "reinforce": reinforce(),
    "reinforce_lanes": reinforce(baseline=leave_one_out_lanes()),
    "reinforce_constant": reinforce(baseline=constant(0.0)),
}
"""How the presence of objects is differentiated; `lanes` compares an image with the others of its batch."""

HYBRIDS = {
    "enum_where_reinforce": {"present": enum(), "where": reinforce(baseline=leave_one_out_lanes())},
    "mvd_where_reinforce": {"present": mvd(), "where": reinforce(baseline=leave_one_out_lanes())},
}
"""Places by a score function too, so that no derivative passes through the edges of a window."""

PARTICLES = 2


BOUNDS = {
    "elbo": elbo,
    "iwelbo": partial(iwelbo, particles=PARTICLES),
    "rws": partial(reweighted_wake_sleep, particles=PARTICLES),
}


def objective_of(name: str, most: int) -> Callable:
    """Return a bound of one image as a stochastic function of `(params, image)`.

    Args:
        name: Of a strategy, for the ELBO; or `BOUND-STRATEGY`, as `iwelbo-mvd`. In `rws` the strategy is not used.
        most: Most objects that are looked for.

    Raises:
        KeyError: No bound or strategy is called so.
    """
    bound, _, strategy = name.rpartition("-")
    chosen = HYBRIDS[strategy] if strategy in HYBRIDS else {"present": STRATEGIES[strategy]}
    objective = BOUNDS[bound or "elbo"](model, ppl.with_grad(guide, chosen))
    return lambda params, image: objective(params, {"image": image}, most)


def of_batch(objective: Callable) -> Callable:
    """Turn an objective of one image into its mean over a batch."""
    return lambda params, images: jnp.mean(jax.vmap(partial(objective, params))(images))
