"""`log_joint` by quadrature: its exponential integrates to the density of what is observed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from scipy import integrate, stats

from ppl import beta, dirichlet, gamma, gen, log_joint, normal, subsample, uniform
from tests.programs.replay import close

pytestmark = pytest.mark.x64


@gen
def dependent_uniforms():
    s = uniform(0.0, 2.0) @ "s"
    uniform(-s, s * s + 1.0) @ "t"


@gen
def variance():
    normal(0.0, jnp.sqrt(gamma(2.0, 3.0) @ "g")) @ "y"


@gen
def steps():
    call = gen(lambda a: uniform(a, a + 1.0) @ "u")
    last, _ = lax.scan(lambda c, _: (call(c) @ "s", None), 0.5, None, length=2)
    normal(last, 1.0) @ "y"


def variance_mass():
    density = lambda g: stats.gamma.pdf(g, 2, scale=1 / 3) * stats.norm.pdf(0.7, 0, np.sqrt(g))
    return integrate.quad(density, 0, np.inf, epsabs=1e-12)[0]


def steps_mass():
    density = lambda last, first: stats.norm.pdf(3.0, last, 1)
    return integrate.dblquad(density, 0.5, 1.5, lambda first: first, lambda first: first + 1)[0]


PROGRAMS = {  # program, observations, range and number of points, mass, tolerance
    "beta": (gen(lambda: beta(2.0, 3.0) @ "p"), {}, (-40, 40, 4001), 1.0, 1e-8),
    "gamma under a normal": (variance, {"y": 0.7}, (-40, 10, 4001), variance_mass(), 1e-8),
    "dependent supports": (dependent_uniforms, {}, (-30, 30, 401), 1.0, 1e-4),
    "simplex": (gen(lambda: dirichlet(jnp.array([1.5, 2.0, 0.7])) @ "w"), {}, (-40, 40, 401), 1.0, 1e-4),
    "supports that follow a scan": (steps, {"y": 3.0}, (-40, 40, 401), steps_mass(), 1e-5),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name.startswith("dependent") else []) for name in PROGRAMS]
)
def test_mass_inverse_and_gradient(name):
    program, observed, (low, high, num), mass, tol = PROGRAMS[name]
    log_density, constrain = log_joint(program, observed)
    grid = np.linspace(low, high, num)
    axes = np.meshgrid(*[grid] * constrain.size, indexing="ij")
    values = jax.jit(jax.vmap(log_density))(jnp.stack([jnp.ravel(axis) for axis in axes], -1))
    close(jnp.exp(values).sum() * (grid[1] - grid[0]) ** constrain.size, mass, tol)

    x, eps = jnp.asarray(np.random.RandomState(1).randn(constrain.size)), 1e-6
    close(constrain.inverse(constrain(x)), x, 1e-9)
    moved = eps * jnp.eye(constrain.size)
    differences = jax.jit(jax.vmap(lambda d: (log_density(x + d) - log_density(x - d)) / (2 * eps)))(moved)
    close(jax.jit(jax.grad(log_density))(x), differences, 1e-6)


def test_a_jitted_choice_in_a_minibatch_is_weighed_and_gathered():
    """The body of the jit stands inside the minibatch."""

    def item(i):
        t = normal(0.0, 1.0) @ "t"
        jax.jit(lambda t: normal(t, 0.5) @ "y")(t)

    program, indices, y = gen(lambda: subsample(4, 2, gen(item))() @ "s"), np.array([0, 2]), np.arange(4.0)
    log_density, _ = log_joint(program, {"s": {"indices": indices, "y": y}})
    t = np.array([0.1, 0.2])
    expected = 2 * (stats.norm.logpdf(t) + stats.norm.logpdf(y[indices], t, 0.5)).sum() - np.log(12)
    close(log_density(t), expected)
