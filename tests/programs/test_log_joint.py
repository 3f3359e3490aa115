"""`log_joint` by quadrature: its exponential integrates to the density of what is observed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from scipy import integrate, stats

from ppl import (
    AddressError,
    ControlFlowError,
    Masked,
    PPLError,
    StrategyError,
    bernoulli,
    beta,
    dirichlet,
    gamma,
    gen,
    log_joint,
    normal,
    subsample,
    uniform,
)
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


# --- Missing data -----------------------------------------------------------------------------------------------------


@gen
def sparse():
    a = gamma(2.0, 1.0) @ "a"
    lax.scan(lambda c, _: (uniform(c, c + a) @ "u",) * 2, 0.0, None, length=3)
    jax.vmap(lambda m: normal(m * a, jnp.ones(2)) @ "x")(jnp.arange(2.0))
    dirichlet(jnp.ones((2, 3)) + 1) @ "w"


U, X, W = np.array([0.3, 0.9, 1.1]), np.array([[0.1, -0.4], [0.7, 2.0]]), np.array([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]])
MASKS = {
    "u": np.array([True, False, True]),
    "x": np.array([[True, False], [False, False]]),
    "w": np.array([False, True]),
}


def test_missing_steps_lanes_and_batch_elements_are_unknowns():
    full = {"a": 1.5, "u": U, "x": X, "w": W}
    hidden = {
        name: np.where(mask.reshape(mask.shape + (1,) * (full[name].ndim - mask.ndim)), full[name], np.nan)
        for name, mask in MASKS.items()
    }
    seen = {name: Masked(hidden[name], mask) for name, mask in MASKS.items()}
    log_density, constrain = log_joint(sparse, seen)
    assert constrain.size == 1 + 1 + 3 + 2
    x = constrain.inverse(full)
    jax.tree.map(lambda a, b: close(a, b, 1e-12), constrain(x), full)
    unknown = lambda x: (lambda c: jnp.stack([c["a"], c["u"][1], c["x"][0, 1], *c["x"][1], *c["w"][0, :2]]))(
        constrain(x)
    )
    jacobian = np.linalg.slogdet(jax.jacobian(unknown)(x))[1]
    close(jax.jit(log_density)(x), sparse.log_density(full) + jacobian, 1e-10)
    assert np.isfinite(jax.grad(log_density)(x)).all()


def test_masked_data_without_anything_missing_is_data():
    seen = {"g": 0.4, "y": Masked(jnp.asarray(0.7), jnp.asarray(True))}
    log_density, constrain = log_joint(variance, seen)
    assert constrain.size == 0
    close(log_density(jnp.zeros(0)), variance.log_density({"g": 0.4, "y": 0.7}))


def coins(_=None):
    bernoulli(jnp.array([0.3, 0.4])) @ "b"


def sometimes():
    lax.cond(True, lambda: normal(0.0, 1.0) @ "b", lambda: 0.0)


def minibatch():
    subsample(4, 2, gen(lambda i: normal(0.0, 1.0) @ "b"))() @ "s"


HALF = Masked(jnp.zeros(2), jnp.array([True, False]))
REFUSED = {
    "discrete": (coins, {"b": HALF}, StrategyError, "discrete"),
    "conditional": (sometimes, {"b": Masked(jnp.zeros(()), jnp.asarray(False))}, ControlFlowError, "sometimes"),
    "all rows": (
        minibatch,
        {"s": {"indices": np.array([1, 3]), "b": Masked(jnp.zeros(4), jnp.arange(4) > 1)}},
        AddressError,
        "subsample",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_missing_data_that_is_no_unknown_is_refused_at_once(name):
    program, seen, error, text = REFUSED[name]
    with pytest.raises(error, match=text):
        log_joint(gen(program), seen)


def test_a_traced_mask_of_missing_data_is_refused():
    program = gen(lambda: normal(jnp.zeros(2), 1.0) @ "b")
    with pytest.raises(PPLError, match="mask"):
        jax.jit(lambda mask: log_joint(program, {"b": Masked(jnp.zeros(2), mask)})[0](jnp.zeros(1)))(HALF.mask)


def test_missing_rows_of_a_minibatch():
    indices, b = np.array([1, 3]), Masked(jnp.array([0.4, jnp.nan]), HALF.mask)
    log_density, _ = log_joint(gen(minibatch), {"s": {"indices": indices, "b": b}})
    close(log_density(jnp.array([0.7])), 2 * stats.norm.logpdf([0.4, 0.7]).sum() - np.log(12))
