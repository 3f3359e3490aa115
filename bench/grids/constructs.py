"""The constructs of the grid: a model and a guide of two latent choices, the second given the first.

However they are written, their law is one of three, which plain arithmetic knows (`bench.grids.laws`):

    guide  z_t ~ kind(theta_t + a z_{t-1}),  model  z_t ~ kind(b z_{t-1}), x ~ normal(.8 z_0 - .5 z_1 + .2 theta_0, 1).

A coin of kind(u) has the logit u, a normal choice the mean u and the scale .8 (1 in the model). Two more
constructs have laws of their own, for objectives that ask for other programs: an auxiliary choice, and a filter.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

import ppl
from bench.grids.laws import GUIDE_STEP, MODEL_STEP, OBSERVED, SCALE

REVERSE_STEP, REVERSE_START = 0.6, 0.1
SERIES = (0.7, -0.2)


def choose(kind, u, strategy=None):
    """Prepare a choice of the guide, or (without a strategy) of the model."""
    if kind == "coin":
        return ppl.bernoulli(logits=u, grad=strategy)
    return ppl.normal(u, SCALE if strategy is not None else 1.0, grad=strategy)


def observe(z, w, theta):
    """Make the observed choice."""
    ppl.normal(0.8 * z - 0.5 * w + 0.2 * theta[0], 1.0) @ "x"


def plain(kind, s):
    """Two choices, one after the other."""

    def model(theta):
        z = choose(kind, 0.0) @ "z"
        observe(z, choose(kind, MODEL_STEP * z) @ "w", theta)

    def guide(theta, observed):
        z = choose(kind, theta[0], s) @ "z"
        choose(kind, theta[1] + GUIDE_STEP * z, s) @ "w"

    return model, guide


def lanes(kind, s):
    """Two lanes."""

    def model(theta):
        z, w = jax.vmap(lambda u: choose(kind, u) @ "z")(jnp.zeros(2))
        observe(z, w, theta)

    return model, lambda theta, observed: jax.vmap(lambda u: choose(kind, u, s) @ "z")(theta)


def scanned(kind, s):
    """Two steps of a scan; each hands its value to the next."""

    def walk(first, step, us, strategy):
        def body(before, u):
            z = (choose(kind, u + step * before, strategy) @ "z").astype(float)
            return z, z

        return lax.scan(body, first, us)[1]

    def model(theta):
        z, w = walk(0.0, MODEL_STEP, jnp.zeros(2), None)
        observe(z, w, theta)

    def guide(theta, observed):
        walk(0.0, GUIDE_STEP, theta, s)

    return model, guide


def branches(kind, s):
    """Choices in the branches of a cond whose predicate is an argument."""
    model, _ = plain(kind, s)

    def guide(theta, observed):
        u = theta[0]
        z = lax.cond(u < 5.0, lambda: choose(kind, u, s) @ "z", lambda: choose(kind, 2.0 * u, s) @ "z")
        choose(kind, theta[1] + GUIDE_STEP * z, s) @ "w"

    return model, guide


def nested(kind, s):
    """One body called under two addresses."""
    inner = ppl.gen(lambda u, strategy: choose(kind, u, strategy) @ "v")

    def model(theta):
        z = inner(0.0, None) @ "z"
        observe(z, inner(MODEL_STEP * z, None) @ "w", theta)

    def guide(theta, observed):
        z = inner(theta[0], s) @ "z"
        inner(theta[1] + GUIDE_STEP * z, s) @ "w"

    return model, guide


def checkpointed(kind, s):
    """Bodies under `jax.checkpoint`."""
    model, _ = plain(kind, s)

    def guide(theta, observed):
        z = jax.checkpoint(lambda u: choose(kind, u, s) @ "z")(theta[0])
        jax.checkpoint(lambda u, z: choose(kind, u + GUIDE_STEP * z, s) @ "w")(theta[1], z)

    return model, guide


def below_enumeration(kind, s):
    """A choice that depends on an enumerated coin."""

    def model(theta):
        z = choose("coin", 0.0) @ "z"
        observe(z, choose(kind, MODEL_STEP * z) @ "w", theta)

    def guide(theta, observed):
        z = choose("coin", theta[0], ppl.enum()) @ "z"
        choose(kind, theta[1] + GUIDE_STEP * z, s) @ "w"

    return model, guide


def auxiliary(kind, s):
    """A guide with an auxiliary choice, and the program that proposes it."""

    def model(theta):
        ppl.normal(0.8 * (choose(kind, 0.0) @ "z") + 0.2 * theta[0], 1.0) @ "x"

    def guide(theta, observed):
        u = choose(kind, theta[0], s) @ "u"
        choose(kind, theta[1] + GUIDE_STEP * u, s) @ "z"

    def reverse(kept, theta, observed):
        choose(kind, REVERSE_STEP * kept["z"] + REVERSE_START * theta[1], s) @ "u"

    return model, guide, reverse


def filtered(kind, s):
    """Two steps of a filter: the first one, the other, and the program that proposes their choices."""

    def emit(z, theta):
        ppl.normal(0.8 * z + 0.2 * theta[0], 1.0) @ "x"
        return z.astype(float)

    def init(theta):
        return emit(choose(kind, 0.0) @ "z", theta)

    def step(theta, before, t):
        return emit(choose(kind, MODEL_STEP * before) @ "z", theta)

    def proposal(theta, before, now, t):
        choose(kind, theta[0] if before is None else theta[1] + GUIDE_STEP * before, s) @ "z"

    return init, step, proposal


CONSTRUCTS = {  # name: (programs, law, observed)
    "plain": (plain, "chain", OBSERVED),
    "vmap": (lanes, "apart", OBSERVED),
    "scan": (scanned, "chain", OBSERVED),
    "cond": (branches, "chain", OBSERVED),
    "nested call": (nested, "chain", OBSERVED),
    "checkpoint": (checkpointed, "chain", OBSERVED),
    "below enum": (below_enumeration, "mixed", OBSERVED),
    "auxiliary": (auxiliary, "auxiliary", OBSERVED),
    "filter": (filtered, "filter", SERIES),
}


@functools.cache
def programs(construct, kind, strategy):
    """Return the programs of a cell: model and guide, or what its objective asks for."""
    return tuple(ppl.gen(one) for one in CONSTRUCTS[construct][0](kind, strategy))
