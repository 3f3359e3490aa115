"""Solves by diffrax inside of programs: moments in closed form, fixed and adaptive steps, gradients by adjoints."""

import math

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import ppl
from models.fractional_sde.noise import brownian, fractional
from models.fractional_sde.process import Sde, State
from models.fractional_sde.solver import Solver, solve
from ppl import gen, normal

THETA, SCALE, END = 0.7, 1.3, 1.0
ADAPTIVE = diffrax.PIDController(rtol=1e-2, atol=1e-2, pcoeff=0.1, icoeff=0.3, dtmin=2e-2)
FIXED = Solver(step=0.05, resolution=1e-2, most=100)
SOLVERS = {
    "fixed": FIXED,
    "adaptive": Solver(diffrax.SPaRK(), 0.05, ADAPTIVE, diffrax.RecursiveCheckpointAdjoint(), 1e-2, 200),
}


class Pull(eqx.Module):
    """A drift or diffusion with a parameter of its own: an adjoint that solves backwards looks for them in modules."""

    power: int = eqx.field(static=True)
    factor: jax.Array

    def __call__(self, t, x):
        return self.factor * x**self.power


def ornstein_uhlenbeck(theta, scale, noise):
    return Sde(Pull(1, -jnp.asarray(theta)), Pull(0, jnp.asarray(scale)), noise)


def rest(noise):
    return State(jnp.zeros(1), jnp.zeros((1, len(noise.rates))))


@pytest.mark.parametrize("name", SOLVERS)
def test_mean_square_and_its_derivative(name):
    """E X(T)**2 = scale**2 (1 - exp(-2 theta T)) / (2 theta) for Brownian noise."""

    def cost(params):
        sde = ornstein_uhlenbeck(params[0], params[1], brownian())
        return solve(sde, rest(sde.noise), jnp.array([END]), solver=SOLVERS[name]).xs[0, 0] ** 2

    variance = lambda params: params[1] ** 2 * -jnp.expm1(-2 * params[0] * END) / (2 * params[0])
    params = jnp.array([THETA, SCALE])
    run = jax.jit(jax.vmap(lambda key: ppl.value_and_grad(cost)(key, params)))
    values, gradients = run(jr.split(jr.key(0), 500))
    for draws, wanted in ((values, variance(params)), *zip(gradients.T, jax.grad(variance)(params), strict=True)):
        error = np.std(draws) / math.sqrt(len(draws))
        bias = abs(float(np.mean(draws) - wanted))
        assert 0 < bias < 4.5 * error + 0.02, (bias, error)  # of order 1 / 20 is what the steps leave


@pytest.mark.x64
def test_every_adjoint_gives_the_derivative_of_the_same_path():
    """Two differentiate the steps and agree to rounding; the third solves backwards and agrees to the steps' error."""

    def gradient(adjoint):
        solver = Solver(step=0.02, adjoint=adjoint, resolution=1e-2, most=60)

        def cost(params):
            noise = fractional(params[2], number=2, fastest=5.0, horizon=1.0, kind="II")
            sde = ornstein_uhlenbeck(params[0], params[1], noise)
            return jnp.sin(solve(sde, rest(noise), jnp.array([END]), solver=solver).xs[0, 0])

        return jax.jit(ppl.grad(cost))(jr.key(3), jnp.array([THETA, SCALE, 0.3]))

    recursive = gradient(diffrax.RecursiveCheckpointAdjoint())
    np.testing.assert_allclose(gradient(diffrax.DirectAdjoint()), recursive, rtol=1e-8)
    backwards = gradient(diffrax.BacksolveAdjoint())
    np.testing.assert_allclose(backwards, recursive, rtol=0.05)
    assert not np.allclose(backwards, recursive, rtol=1e-10)


def test_a_program_observes_what_is_solved():
    """The ELBO of an observed end, the path's noise drawn anew in every run, has the gradient of its expectation."""

    @gen
    def model(scale, end):
        sde = ornstein_uhlenbeck(THETA, scale, brownian())
        path = solve(sde, rest(sde.noise), jnp.array([END]), solver=FIXED)
        normal(path.xs[0, 0], 1.0) @ "end"

    def bound(scale):
        return ppl.assess(model)({"end": jnp.asarray(0.5)}, scale, END)[0]

    wanted = jax.grad(lambda s: -0.5 * (0.25 + s**2 * -jnp.expm1(-2 * THETA * END) / (2 * THETA)))(SCALE)
    draws = jax.jit(jax.vmap(lambda key: ppl.grad(bound)(key, SCALE)))(jr.split(jr.key(1), 500))
    assert abs(float(draws.mean() - wanted)) < 4.5 * draws.std() / math.sqrt(500) + 0.02


def test_the_divergence_of_a_constant_push():
    """1/2 u**2 T, and X is moved by scale u T when nothing pulls it back."""
    sde = ornstein_uhlenbeck(0.0, SCALE, brownian())
    push = lambda t, state, known: (jnp.full(1, 2.0), jnp.zeros(1))
    paths = lambda control: ppl.seed(lambda: solve(sde, rest(sde.noise), jnp.array([0.5, END]), control, solver=FIXED))
    pushed, free = paths(push)(jr.key(0)), paths(None)(jr.key(0))
    np.testing.assert_allclose(pushed.divergence, 0.5 * 4.0 * END, rtol=1e-5)
    assert free.divergence == 0
    np.testing.assert_allclose(pushed.xs - free.xs, SCALE * 2.0 * jnp.array([[0.5], [END]]), rtol=1e-4)


def test_adaptive_steps_follow_the_tolerance():
    sde = ornstein_uhlenbeck(5.0, SCALE, fractional(0.7, number=3, fastest=5.0, horizon=1.0, kind="II"))
    solver = SOLVERS["adaptive"]
    loose, tight = (
        Solver(solver.method, 0.05, diffrax.PIDController(tol, tol, pcoeff=0.1, icoeff=0.3, dtmin=2e-3), most=2000)
        for tol in (1e-1, 3e-3)
    )
    count = lambda solver: ppl.seed(lambda: solve(sde, rest(sde.noise), jnp.array([END]), solver=solver).steps)(
        jr.key(0)
    )
    assert count(loose) < count(tight)
