"""The same paths by a solver of diffrax: fixed or adaptive steps, the derivative by one of its adjoints.

Here the noise is not a choice but a Brownian tree with a key of the program (`ppl.fresh_key`), made as finely as the
solver asks. So a path has no density; its divergence from the prior's is Girsanov's integral, which is solved for along
with X and Y. In the sense of Stratonovich, as diffrax has it for its solvers of that kind: where the diffusion is
constant, as in the bridge, Ito's reading is the same.
"""

from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import lineax
from jaxtyping import Array, Float

import ppl
from models.fractional_sde.process import Sde, State

Control = Callable[[Array, State, Any], tuple[Array, Array]]


class Solver(eqx.Module):
    """How an equation is solved.

    Attributes:
        method: A method of diffrax for equations in the sense of Stratonovich, such as `diffrax.Heun()`.
        step: The length of a step, or of the first one.
        controller: Of the length of steps; `diffrax.PIDController` adapts it.
        adjoint: How derivatives are taken; `diffrax.BacksolveAdjoint()` takes memory that does not grow with the steps.
        resolution: The shortest time the Brownian tree tells apart.
        most: At most so many steps.
    """

    method: diffrax.AbstractSolver = diffrax.Heun()
    step: float = 0.01
    controller: diffrax.AbstractStepSizeController = diffrax.ConstantStepSize()
    adjoint: diffrax.AbstractAdjoint = diffrax.RecursiveCheckpointAdjoint()
    resolution: float = 1e-3
    most: int = 4096


class Solution(eqx.Module):
    """What a solve returns.

    Attributes:
        xs: X at the times asked for.
        divergence: 1/2 int |u|**2 dt up to the last of them.
        steps: How many steps were taken.
    """

    xs: Float[Array, "n d"]
    divergence: Float[Array, ""]
    steps: Array


def solve(
    sde: Sde, start: State, times: Float[Array, " n"], control: Control | None = None, *, solver: Solver
) -> Solution:
    """Solve the equation from time 0, its noise pushed by a control; a stochastic function, without a density.

    Args:
        sde: The equation; its weights do not change in time. `diffrax.BacksolveAdjoint` differentiates arrays that are
            leaves of its modules, and refuses those that a function closes over.
        start: X and Y at time 0.
        times: At which X is returned; increasing. They are not differentiated.
        control: Maps time, state and None to u and log r, of which r is ignored: the tree's noise cannot be scaled
            without a divergence that is infinite in continuous time. None is the prior.
        solver: How.

    Returns:
        The path, its divergence, and the number of steps.
    """
    last = times[-1]
    tree = diffrax.VirtualBrownianTree(
        0.0, last, solver.resolution, start.x.shape, ppl.fresh_key(), diffrax.SpaceTimeLevyArea
    )
    params, static = eqx.partition((sde, control), eqx.is_array)

    def drift(t: Array, at: tuple, params: Any) -> tuple:
        sde, control = eqx.combine(params, static)
        state = State(*at[:2])
        u = jnp.zeros_like(state.x) if control is None else control(t, state, None)[0]
        noise = sde.noise
        driver = jnp.sum(noise.weights) * u - state.y @ (noise.weights * noise.gammas)
        moved = sde.drift(t, state.x) + sde.diffusion(t, state.x) * driver
        return moved, u[:, None] - noise.gammas * state.y, 0.5 * jnp.sum(u**2)

    def push(t: Array, at: tuple, params: Any) -> lineax.AbstractLinearOperator:
        sde, _ = eqx.combine(params, static)
        spread = jnp.sum(sde.noise.weights) * sde.diffusion(t, at[0])
        moved = lambda db: (spread * db, jnp.broadcast_to(db[:, None], at[1].shape), jnp.zeros(()))
        return lineax.FunctionLinearOperator(moved, jax.eval_shape(lambda: at[0]))

    terms = diffrax.MultiTerm(diffrax.ODETerm(drift), diffrax.ControlTerm(push, tree))
    found = diffrax.diffeqsolve(
        terms, solver.method, 0.0, last, solver.step, (*start, jnp.zeros(())), params,
        saveat=diffrax.SaveAt(ts=times), stepsize_controller=solver.controller, adjoint=solver.adjoint,
        max_steps=solver.most,
    )  # fmt: skip
    return Solution(found.ys[0], found.ys[2][-1], found.stats["num_steps"])
