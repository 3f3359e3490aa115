"""Stochastic differential equations driven by noise with memory, as programs: every step of the noise is a choice.

The state (X, Y) of the prior follows, with D independent Brownian motions B and K processes Y for each of them,

    dX = b(t, X) dt + s(X) dBhat,    dBhat = sum_k weights_k dY_k,    dY_k = -rates_k Y_k dt + dB,

read in the sense of Ito (`scheme="euler"`) or of Stratonovich (`scheme="stratonovich"`: Milstein's scheme, for a
diffusion each of whose components depends on its own coordinate only). Where s is constant the two are one.

In the prior the steps dB_i ~ Normal(0, h) are choices, in the guide they are dB_i ~ Normal(u h, r**2 h): u is the
paper's control, r a factor that it does not have (1 there). The divergence of the paths needs no formula: it is what
`elbo` makes of the densities of these choices. In the limit of short steps and with r = 1 it is Girsanov's.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from models.fractional_sde.noise import Noise
from models.fractional_sde.settings import require_steps, require_times
from ppl import multivariate_normal, normal

Scheme = Literal["euler", "stratonovich"]


class State(NamedTuple):
    """Where a path is: X, and the processes that remember its noise."""

    x: Float[Array, " d"]
    y: Float[Array, "d k"]


class Steps(NamedTuple):
    """When the steps of a path begin, and how long they are."""

    start: Float[np.ndarray, " n"]
    length: Float[np.ndarray, " n"]


class Sde(eqx.Module):
    """An equation: drift and diffusion, both of time and X to (D,), its noise, and how it is discretised."""

    drift: Callable[[Array, Array], Array]
    diffusion: Callable[[Array, Array], Array]
    noise: Noise
    scheme: Scheme = eqx.field(static=True, default="euler")


def steps_between(times: np.ndarray, fastest: float) -> Steps:
    """Return the steps between times.

    Raises:
        SettingError: If times do not increase, or the fastest rate times the longest step is not below 1/2.

    Example:
        >>> steps_between([0.0, 0.01, 0.03], 20.0).start.tolist()
        [0.0, 0.01]
    """
    times = require_times(times)
    require_steps(times, fastest)
    return Steps(times[:-1], np.diff(times))


def advance(sde: Sde, state: State, weights: Float[Array, " k"], t: Array, h: Array, db: Float[Array, " d"]) -> State:
    """Make one step with given noise."""
    x, y = state
    gammas = sde.noise.gammas
    rough = jnp.sum(weights) * db
    driver = rough - y @ (weights * gammas) * h
    moved = x + sde.drift(t, x) * h
    if sde.scheme == "stratonovich":
        scale, slope = jax.jvp(lambda x: sde.diffusion(t, x), (x,), (jnp.ones_like(x),))
        moved = moved + scale * driver + 0.5 * scale * slope * rough**2
    else:
        moved = moved + sde.diffusion(t, x) * driver
    return State(moved, y - gammas * y * h + db[:, None])


def prior_path(sde: Sde, start: State, steps: Steps) -> Float[Array, "n d"]:
    """Draw a path: its steps of noise are choices at "dB". Return X after every step."""

    def step(state: State, at: tuple) -> tuple[State, Array]:
        t, h, weights = at
        db = normal(jnp.zeros_like(state.x), jnp.sqrt(h)) @ "dB"
        state = advance(sde, state, weights, t, h, db)
        return state, state.x

    return jax.lax.scan(step, start, _inputs(sde, steps))[1]


def guided_path(
    sde: Sde, start: State, steps: Steps, control: Callable[[Array, State, Any], tuple[Array, Array]], context: PyTree
) -> Float[Array, ""]:
    """Draw a path whose noise is pushed by a control: choices at "dB". Return its Girsanov cost, 1/2 int |u|**2 dt.

    Args:
        sde: The prior's.
        start: Where the path begins.
        steps: The prior's.
        control: Maps time, state and what is known of that step to u and log r, both (D,).
        context: What the control is told; leading axis of steps.
    """

    def step(state: State, at: tuple) -> tuple[State, Array]:
        (t, h, weights), known = at
        u, log_ratio = control(t, state, known)
        db = normal(u * h, jnp.sqrt(h) * jnp.exp(log_ratio)) @ "dB"
        return advance(sde, state, weights, t, h, db), 0.5 * h * jnp.sum(u**2)

    return jnp.sum(jax.lax.scan(step, start, (_inputs(sde, steps), context))[1])


def _inputs(sde: Sde, steps: Steps) -> tuple[Array, Array, Array]:
    start, length = (jnp.asarray(part, jnp.result_type(float)) for part in steps)
    return start, length, sde.noise.per_step(len(steps.length))


def past(noise: Noise, dimension: int) -> Float[Array, "d k"]:
    """Draw the processes' values at time 0: a choice at "past", of standard normal numbers; none without a past."""
    shape = dimension, len(noise.rates)
    return noise.past(normal(jnp.zeros(shape), 1.0) @ "past") if noise.stationary else jnp.zeros(shape)


class Past(eqx.Module):
    """A normal guide of the processes at time 0: mean and factor of the standard numbers that they are made of."""

    loc: Float[Array, "d k"]
    log_diagonal: Float[Array, "d k"]
    below: Float[Array, "d k k"]

    def __init__(self, dimension: int, number: int):
        self.loc = jnp.zeros((dimension, number))
        self.log_diagonal = jnp.zeros((dimension, number))
        self.below = jnp.zeros((dimension, number, number))

    @classmethod
    def of(cls, loc: Float[Array, "d k"], factor: Float[Array, "d k k"]) -> "Past":
        """Return the guide with a mean and a lower triangular factor."""
        log_diagonal = jnp.log(jnp.diagonal(factor, axis1=-2, axis2=-1))
        leaves = lambda guide: (guide.loc, guide.log_diagonal, guide.below)
        return eqx.tree_at(leaves, cls(*loc.shape), (loc, log_diagonal, factor))

    @property
    def factor(self) -> Float[Array, "d k k"]:
        """Return the lower triangular factor."""
        return jnp.tril(self.below, -1) + jnp.exp(self.log_diagonal)[..., None] * jnp.eye(self.loc.shape[-1])


def guided_past(noise: Noise, dimension: int, inferred: Past | None) -> Float[Array, "d k"]:
    """Propose the processes' values at time 0: by a guide of their own, or else as the prior draws them."""
    if inferred is None or not noise.stationary:
        return past(noise, dimension)
    return noise.past(multivariate_normal(inferred.loc, scale_tril=inferred.factor) @ "past")
