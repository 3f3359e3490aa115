"""Online imitation (DAgger, Ross et al. 2011): a student drives, and an expert says what it would have done.

The target is the student's mean force in the states of a round; the expert is asked once for each. The states are those
in which the student was, at the time: an objective that is prepared in each step.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array, Float, Key, PyTree

import ppl
from estimators import target_surrogate
from models.target_surrogates import cart_pole
from ppl import gen, normal
from ppl.training import Targeted

UNITS = jnp.array([1.0, 1.0, 0.2, 1.0])
"""What states are divided by before the student sees them."""


@dataclass(frozen=True)
class Rounds:
    """How long the student is taught.

    Args:
        rounds: Number of rounds, each with one outer step.
        poles: Number of poles that are driven at once.
        steps: Number of forces in a round; poles times steps are the expert's answers.
        hidden: Width of the student's network.
        beta: Probability that the expert drives; 0 is what the paper calls online.
        noise: Standard deviation of velocities in each interval.
    """

    rounds: int = 50
    poles: int = 4
    steps: int = 25
    hidden: int = 32
    beta: float = 0.0
    noise: float = 0.02


@gen
def student(forces: Float[Array, " n"]) -> None:
    """Draw the forces that an expert was seen to use, given the student's."""
    normal(forces, 1.0) @ "force"


def mean_force(params: PyTree, states: Float[Array, "*n 4"]) -> Float[Array, "*n"]:
    """Return the student's forces in newtons: a network with one hidden layer."""
    hidden = jnp.tanh((states / UNITS) @ params["inner"] + params["bias"])
    return 10.0 * (hidden @ params["outer"])


def start(settings: Rounds, key: Key[Array, ""]) -> PyTree:
    """Return a student that does nothing yet."""
    inner = jr.normal(key, (4, settings.hidden)) / 2
    return {"inner": inner, "bias": jnp.zeros(settings.hidden), "outer": jnp.zeros(settings.hidden)}


def drive(settings: Rounds, teacher: Callable) -> Callable:
    """Return the program of a round: drive all poles from near the top, and return the states that were seen."""

    def round_of(params: PyTree) -> Float[Array, "n 4"]:
        first = normal(jnp.zeros((settings.poles, 4)), jnp.array([0.2, 0.2, 0.1, 0.2])).sample()

        def step(state: Array, _: None) -> tuple[Array, Array]:
            taught = ppl.bernoulli(jnp.full(settings.poles, settings.beta)).sample()
            force = jnp.where(taught == 1, teacher(state), jnp.clip(mean_force(params, state), -20.0, 20.0))
            shaken = normal(jnp.zeros((settings.poles, 2)), settings.noise).sample()
            after = cart_pole.advance(state, force)
            return after.at[:, 1::2].add(shaken), state

        _, states = jax.lax.scan(step, first, None, length=settings.steps)
        return states.reshape(-1, 4)

    return round_of


def objective(settings: Rounds) -> Targeted:
    """Return the mean negative log density of the expert's forces, in states that the student has seen."""
    teacher = cart_pole.expert()
    best = -float(jnp.log(2 * jnp.pi)) / 2  # of a student that is never wrong

    def loss(forces: Float[Array, " n"], states: Float[Array, "n 4"]) -> Float[Array, ""]:
        return best - student.log_density({"force": teacher(states)}, forces) / len(forces)

    return Targeted(mean_force, loss, drive(settings, teacher))


def teach(settings: Rounds, optimizer: Any, key: Key[Array, ""]) -> tuple[Float[np.ndarray, " rounds"], PyTree]:
    """Return the loss of every round, before what is learned in it, and the student."""
    start_key, key = jr.split(key)
    found = ppl.minimize(
        objective(settings), start(settings, start_key), None, optimizer, steps=settings.rounds, key=key, chunk=10
    )
    return found.history["value"], found.params


def adam(rate: float) -> optax.GradientTransformationExtraArgs:
    """Return Adam, one step a round: a target surrogate whose inner state goes on."""
    return target_surrogate(optax.adam(rate), 1.0, 1, carry=True)


def upright(params: PyTree | None, key: Key[Array, ""], seconds: float = 10.0) -> float:
    """Return the share of 100 poles that stay within 12 degrees for some seconds; None asks the expert."""
    teacher = cart_pole.expert()
    policy = teacher if params is None else lambda state: jnp.clip(mean_force(params, state), -20.0, 20.0)
    first = 0.05 * jr.normal(key, (100, 4))

    def step(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        state, stood = carry
        after = cart_pole.advance(state, policy(state))
        return (after, stood & (jnp.abs(after[:, 2]) < jnp.radians(12))), None

    stood = jnp.ones(100, bool)
    (_, stood), _ = jax.lax.scan(step, (first, stood), None, length=round(seconds / cart_pole.INTERVAL))
    return float(jnp.mean(stood))
