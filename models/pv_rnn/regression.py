"""Error regression: a second inference problem over the same programs, in which only adaptive vectors are trained."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array, Float, Key

import ppl
from models.pv_rnn.generative import Parameters, free_energy, guide, meta_prior, model, of_sequences, only_adaptive
from models.pv_rnn.networks import State, width
from ppl import simulate


class Window(NamedTuple):
    """How the vectors of a window are found.

    Attributes:
        length: H, the steps whose vectors are trained.
        iterations: I, Adam steps; online, at every step of the stream.
        rate: Of Adam.
        meta: The meta-prior; larger than in training: trust what was learned; smaller: trust the senses.
        warm: Whether Adam's moments move on with the window, online, in place of being started afresh.
    """

    length: int
    iterations: int
    rate: float
    meta: float
    warm: bool = True


def regress(params: Parameters, streams: Array, window: Window, key: Key[Array, ""]) -> Parameters:
    """Find the vectors of the first steps of every stream, from rest; everything else stays as it is.

    Raises:
        ValueError: If the streams are shorter than the window.
    """
    length, latents = window.length, params.network.latents
    require_history(window, streams.shape[1])
    weights = meta_prior(latents, streams.shape[2], length, [window.meta] * len(latents))
    objective = free_energy(weights)
    start = Parameters(params.network, jnp.zeros((len(streams), length, width(latents))), params.code)
    found = ppl.maximize(
        lambda params, batch: jnp.sum(of_sequences(objective, params, *batch)),
        start,
        (jnp.arange(len(streams)), jnp.asarray(streams[:, :length])),
        optax.adam(window.rate),
        steps=window.iterations,
        key=key,
        trainable=only_adaptive,
        progress=False,
    )
    return found.params


def require_history(window: Window, steps: int) -> None:
    """Refuse a window that is longer than what there is."""
    if window.length > steps:
        raise ValueError(f"the window has {window.length} steps, but only {steps} have been observed.")


def ends(params: Parameters, streams: Array, key: Key[Array, ""]) -> tuple[State, Float[np.ndarray, "n steps x"]]:
    """Run the posterior over every stream; return the states at the ends, and the outputs on the way."""

    def run(row, x):
        steps = simulate(guide)(params.of(row), {"x": x}, params.network.start(), x.shape[0]).retval
        outputs = params.code.mean(jax.vmap(params.network.read)(steps.states))
        return jax.tree.map(lambda leaf: leaf[-1], steps.states), outputs

    rows = jnp.arange(len(streams))
    last, outputs = jax.jit(jax.vmap(ppl.seed(run)))(jr.split(key, len(streams)), rows, jnp.asarray(streams))
    return last, np.asarray(outputs)


def predict(
    params: Parameters, states: State, horizon: int, samples: int, key: Key[Array, ""]
) -> Float[np.ndarray, "n samples horizon x"]:
    """Let the model run on from each state several times."""
    one = lambda state, key: model.simulate(key, params, state, horizon).retval
    keys = jr.split(key, (len(states.begun), samples))
    return np.asarray(jax.jit(jax.vmap(jax.vmap(one, (None, 0))))(states, keys))


def squared_errors(predictions: np.ndarray, truth: np.ndarray) -> Float[np.ndarray, " n"]:
    """Return the squared error of every stream, mean over samples, steps and numbers."""
    return np.mean((predictions - truth[:, None]) ** 2, axis=(1, 2, 3))


class Online(NamedTuple):
    """What is carried along a stream: the state before the window, its vectors, Adam's state, whether it began."""

    start: State
    adaptive: Float[Array, "window vector"]
    moments: tuple


def follow(
    params: Parameters, window: Window, horizon: int, samples: int
) -> Callable[[Key[Array, ""], Float[Array, "steps x"]], Float[Array, "steps samples horizon x"]]:
    """Make the online form: at every step of a stream, train the window's vectors and predict by the prior.

    The window grows from the first step, then slides: the step that leaves it hands its state on, and the new step's
    vector begins where the posterior is the prior. All steps of all streams are one compiled program.
    """
    optimizer, latents = optax.adam(window.rate), params.network.latents

    def of_step(key, carry: Online, t, x):
        regress_key, slide_key, predict_key = jr.split(key, 3)
        carry = _slide(params, optimizer, carry, t >= window.length, window.warm, slide_key)
        seen = jnp.minimum(t, window.length - 1)
        first = jnp.maximum(t - window.length + 1, 0)
        observed = {"x": jax.lax.dynamic_slice_in_dim(x, first, window.length)}
        weights = meta_prior(latents, x.shape[1], window.length, [window.meta] * len(latents))
        shown = (jnp.arange(window.length) <= seen)[:, None] * weights["x"]
        objective = free_energy(weights | {"x": shown})
        gradient = ppl.grad(lambda adaptive: objective(_with(params, adaptive), observed, carry.start, window.length))

        climb = ppl.ascend(gradient, optimizer, window.iterations)
        adaptive, moments = climb(regress_key, carry.adaptive, carry.moments)
        run = lambda: simulate(guide)(_with(params, adaptive), observed, carry.start, window.length).retval.states
        states = jax.vmap(lambda key: jax.tree.map(lambda leaf: leaf[seen], ppl.seed(run)(key)))
        rollout = lambda key, state: model.simulate(key, params, state, horizon).retval
        sample_key, rollout_key = jr.split(predict_key)
        found = jax.vmap(rollout)(jr.split(rollout_key, samples), states(jr.split(sample_key, samples)))
        return Online(carry.start, adaptive, moments), found

    def over(key, x):
        zeros = jnp.zeros((window.length, width(latents)))
        carry = Online(params.network.start(), zeros, optimizer.init(zeros))
        body = lambda carry, given: of_step(given[0], carry, given[1], x)
        return jax.lax.scan(body, carry, (jr.split(key, len(x)), jnp.arange(len(x))))[1]

    return over


def _with(params: Parameters, adaptive: Array) -> Parameters:
    return Parameters(params.network, adaptive, params.code)


def _slide(params, optimizer, carry: Online, moves: Array, warm: bool, key) -> Online:
    """Move the window on by a step where `moves`."""
    after = lambda: simulate(guide)(_with(params, carry.adaptive), {}, carry.start, len(carry.adaptive)).retval.states
    states = ppl.seed(after)(key)
    start = jax.tree.map(lambda leaf: leaf[0], states)
    last = jax.tree.map(lambda leaf: leaf[-1], states)
    along = lambda leaf, new: jnp.concatenate([leaf[1:], new[None]]) if leaf.ndim else leaf
    adaptive = along(carry.adaptive, params.network.as_prior(last))
    moments = jax.tree.map(lambda leaf: along(leaf, jnp.zeros(leaf.shape[1:], leaf.dtype)), carry.moments)
    moments = moments if warm else optimizer.init(adaptive)
    moved = Online(start, adaptive, moments)
    kept = carry if warm else carry._replace(moments=optimizer.init(adaptive))
    return jax.tree.map(lambda new, old: jnp.where(moves, new, old), moved, kept)
