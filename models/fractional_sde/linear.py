"""What is exact for a linear equation: the best control, the posterior, the evidence.

With z = (X, Y_1 .. Y_K) and D = 1, a step is z' = A z + G dB, and observations o ~ Normal(X, scale) follow some steps.
Looking back from the last one, log p(observations to come | z) = -z.M z / 2 + m.z + c. So the posterior of a step's
noise is normal: its mean is linear in z, its variance smaller than the step. A guide of this form leaves no gap: then
log p - log q is the same number for every path, the log evidence.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from models.fractional_sde.noise import Noise
from models.fractional_sde.process import State, Steps


class Linear(NamedTuple):
    """Steps z' = A z + G dB of a linear equation, of variances h, and the factor of the start's covariance."""

    matrix: Float[Array, "n z z"]
    push: Float[Array, "n z"]
    length: Float[Array, " n"]
    start: Float[Array, "z k"]


class Observed(NamedTuple):
    """Observations of X after every step, as values and precisions; precision 0 where there is none."""

    value: Float[Array, " n"]
    precision: Float[Array, " n"]


class Feedback(NamedTuple):
    """A control that is linear in the state: dB ~ Normal(sqrt(h) (gain.z + offset), h ratio**2), step by step."""

    gain: Float[Array, "n z"]
    offset: Float[Array, " n"]
    log_ratio: Float[Array, " n"]


class Posterior(NamedTuple):
    """The exact control, the start's standard numbers (mean, covariance), and the log evidence."""

    control: Feedback
    start_mean: Float[Array, " k"]
    start_covariance: Float[Array, "k k"]
    log_evidence: Float[Array, ""]


def linear(noise: Noise, steps: Steps, *, theta: float = 0.0, scale: float | Array = 1.0) -> Linear:
    """Return the Euler steps of dX = -theta X dt + scale dBhat from X = 0, as `process.advance` makes them."""
    weights = noise.per_step(len(steps.length))
    h = jnp.asarray(steps.length, weights.dtype)[:, None]
    first = jnp.concatenate([1 - theta * h, -scale * weights * noise.gammas * h], axis=1)
    below = jax.vmap(jnp.diag)(1 - noise.gammas * h)
    rest = jnp.concatenate([jnp.zeros((*below.shape[:2], 1)), below], axis=2)
    push = jnp.concatenate([scale * jnp.sum(weights, 1, keepdims=True), jnp.ones_like(weights)], axis=1)
    start = jnp.asarray(np.pad(noise.past_factor(), ((1, 0), (0, 0))), weights.dtype)
    return Linear(jnp.concatenate([first[:, None], rest], axis=1), push, h[:, 0], start)


def observe_last(steps: Steps, value: float, scale: float) -> Observed:
    """Observe X after the last step only."""
    last = np.arange(len(steps.length)) == len(steps.length) - 1
    return Observed(jnp.where(last, value, 0.0), jnp.where(last, 1 / scale**2, 0.0))


def posterior(system: Linear, observed: Observed) -> Posterior:
    """Look back from the last observation."""
    dim = system.start.shape[0]

    def back(tail: tuple, step: tuple) -> tuple[tuple, Feedback]:
        (matrix, vector, log_scale), (a, g, h, value, precision) = tail, step
        matrix, vector = matrix.at[0, 0].add(precision), vector.at[0].add(precision * value)
        normaliser = 0.5 * jnp.log(jnp.where(precision > 0, precision, 1.0) / (2 * math.pi))
        log_scale = log_scale - 0.5 * precision * value**2 + jnp.where(precision > 0, normaliser, 0.0)
        sharpness = 1 / h + g @ matrix @ g  # the posterior precision of this step's noise
        across, along = a.T @ matrix @ g, g @ vector
        root = sharpness * jnp.sqrt(h)
        control = Feedback(-across / root, along / root, -0.5 * jnp.log(sharpness * h))
        log_scale = log_scale + 0.5 * along**2 / sharpness - 0.5 * jnp.log(sharpness * h)
        pull = across / sharpness
        closed = a - jnp.outer(g, pull)  # A sum of squares: the usual difference loses all digits of float32.
        return (closed.T @ matrix @ closed + jnp.outer(pull, pull) / h, closed.T @ vector, log_scale), control

    tail = jnp.zeros((dim, dim)), jnp.zeros(dim), jnp.zeros(())
    (matrix, vector, log_scale), control = jax.lax.scan(back, tail, (*system[:3], *observed), reverse=True)
    sharpness = jnp.eye(system.start.shape[1]) + system.start.T @ matrix @ system.start
    pulled = system.start.T @ vector
    covariance = jnp.linalg.inv(sharpness)
    mean = covariance @ pulled
    log_evidence = log_scale + 0.5 * pulled @ mean - 0.5 * jnp.linalg.slogdet(sharpness)[1]
    return Posterior(control, mean, covariance, log_evidence)


def moments(system: Linear, found: Posterior) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """Return the mean and variance of X after every step under a control that is linear in the state."""
    root = jnp.sqrt(system.length)

    def step(state: tuple, at: tuple) -> tuple[tuple, tuple]:
        (mean, covariance), (a, g, root, gain, offset, log_ratio) = state, at
        closed = a + root * jnp.outer(g, gain)
        mean = closed @ mean + root * g * offset
        covariance = closed @ covariance @ closed.T + root**2 * jnp.exp(2 * log_ratio) * jnp.outer(g, g)
        return (mean, covariance), (mean[0], covariance[0, 0])

    start = system.start @ found.start_mean, system.start @ found.start_covariance @ system.start.T
    return jax.lax.scan(step, start, (system.matrix, system.push, root, *found.control))[1]


def feedback(t: Array, state: State, known: tuple[Feedback, Array]) -> tuple[Array, Array]:
    """Follow a linear control: return u and log r, as `process.guided_path` asks; it is told its row and the step."""
    (gain, offset, log_ratio), h = known
    z = jnp.concatenate([state.x, state.y[0]])
    return (gain @ z + offset)[None] / jnp.sqrt(h), log_ratio[None]
