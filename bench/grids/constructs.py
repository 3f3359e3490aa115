"""The constructs of the grid: a model and a guide of two latent choices, the second given the first.

However they are written, their law is one of three (`LAWS`), which plain arithmetic knows:

    guide  z_t ~ kind(theta_t + a z_{t-1}),  model  z_t ~ kind(b z_{t-1}), x ~ normal(.8 z_0 - .5 z_1 + .2 theta_0, 1).

A coin of kind(u) has the logit u, a normal choice the mean u and the scale .8 (1 in the model).
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import ppl

GUIDE_STEP, MODEL_STEP, SCALE, OBSERVED = 0.4, 0.3, 0.8, 0.7


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


CONSTRUCTS = {  # name: (program, law)
    "plain": (plain, "chain"),
    "vmap": (lanes, "apart"),
    "scan": (scanned, "chain"),
    "cond": (branches, "chain"),
    "nested call": (nested, "chain"),
    "checkpoint": (checkpointed, "chain"),
    "below enum": (below_enumeration, "mixed"),
}


# --- The laws ----------------------------------------------------------------------------------------------------


def _outcomes(kind, nodes):
    """Return outcomes, as a function of the parameter, with weights that add up to 1 for a normal choice."""
    if kind == "coin":
        return [(lambda u, b=b: float(b), lambda u, b=b: jax.nn.sigmoid(u if b else -u)) for b in (0, 1)]
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    weights = weights / weights.sum()
    return [(lambda u, e=e: u + SCALE * e, lambda u, w=w: w) for e, w in zip(points, weights, strict=True)]


def _log_density(kind, u, z, scale):
    if kind == "coin":
        return z * u - jax.nn.softplus(u)
    return -(((z - u) / scale) ** 2) / 2 - jnp.log(scale * jnp.sqrt(2 * jnp.pi))


def law(name, kind, theta, nodes=12):
    """Return weights and log weights of all outcomes of the guide, as functions of the parameters."""
    first = "coin" if name == "mixed" else kind
    a, b = (0.0, 0.0) if name == "apart" else (GUIDE_STEP, MODEL_STEP)
    rows = []
    for (one, weigh_one), (two, weigh_two) in itertools.product(_outcomes(first, nodes), _outcomes(kind, nodes)):
        z = one(theta[0])
        u = theta[1] + a * z
        w = two(u)
        log_q = _log_density(first, theta[0], z, SCALE) + _log_density(kind, u, w, SCALE)
        log_p = _log_density(first, 0.0, z, 1.0) + _log_density(kind, b * z, w, 1.0)
        mean = 0.8 * z - 0.5 * w + 0.2 * theta[0]
        log_p = log_p + _log_density("normal", mean, OBSERVED, 1.0)
        rows.append((weigh_one(theta[0]) * weigh_two(u), log_p - log_q))
    return tuple(jnp.stack([jnp.asarray(x, theta.dtype) for x in column]) for column in zip(*rows, strict=True))


@functools.cache
def programs(construct, kind, strategy):
    """Return the model and the guide of a cell."""
    model, guide = CONSTRUCTS[construct][0](kind, strategy)
    return ppl.gen(model), ppl.gen(guide)
