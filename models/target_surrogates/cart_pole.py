"""A pole on a cart (Barto, Sutton and Anderson 1983, with a force of any size), and an expert that balances it."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.linalg import solve_discrete_are

GRAVITY, CART, POLE, HALF_LENGTH = 9.8, 1.0, 0.1, 0.5
"""m / s^2, kg, kg, m."""
INTERVAL = 0.02
"""Seconds between two forces."""


def accelerations(state: Float[Array, "*n 4"], force: Float[Array, "*n"]) -> tuple[Array, Array]:
    """Return the accelerations of the cart (m / s^2) and of the pole's angle (rad / s^2).

    A state is the cart's position and velocity and the pole's angle from upright and its velocity.
    """
    _, _, angle, spin = jnp.moveaxis(state, -1, 0)
    total = CART + POLE
    sine, cosine = jnp.sin(angle), jnp.cos(angle)
    pushed = (force + POLE * HALF_LENGTH * spin**2 * sine) / total
    turn = (GRAVITY * sine - cosine * pushed) / (HALF_LENGTH * (4 / 3 - POLE * cosine**2 / total))
    return pushed - POLE * HALF_LENGTH * turn * cosine / total, turn


def advance(state: Float[Array, "*n 4"], force: Float[Array, "*n"]) -> Float[Array, "*n 4"]:
    """Return the state one interval later: a semi-implicit Euler step."""
    push, turn = accelerations(state, force)
    velocity, spin = state[..., 1] + INTERVAL * push, state[..., 3] + INTERVAL * turn
    position, angle = state[..., 0] + INTERVAL * velocity, state[..., 2] + INTERVAL * spin
    return jnp.stack([position, velocity, angle, spin], axis=-1)


@dataclass(frozen=True)
class Expert:
    """The linear quadratic regulator: force = -gain . state."""

    gain: Float[Array, " 4"]

    def __call__(self, state: Float[Array, "*n 4"]) -> Float[Array, "*n"]:
        """Return the force in newtons, of at most 20."""
        return jnp.clip(-(state @ self.gain), -20.0, 20.0)


def expert() -> Expert:
    """Return the regulator of the linearised pole, for unit costs of force and weights 1, 1, 10, 1 of the state."""
    with jax.enable_x64(True):
        at_rest = (jnp.zeros(4), jnp.zeros(()))
        moved, forced = (np.asarray(part) for part in jax.jacobian(advance, (0, 1))(*at_rest))
    forced = forced[:, None]
    cost = solve_discrete_are(moved, forced, np.diag([1.0, 1.0, 10.0, 1.0]), np.eye(1))
    gain = np.linalg.solve(1.0 + forced.T @ cost @ forced, forced.T @ cost @ moved)
    return Expert(jnp.asarray(gain[0], jnp.float32))
