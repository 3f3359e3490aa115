"""Values of foreign objects: their types, what is refused; and lanes of priors known by their score."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import lax
from scipy import stats

from ppl import Masked, PPLError, SupportError, choice, gen, score_prior
from tests.programs.replay import KEY, close

pytestmark = pytest.mark.x64

DTYPES = ["bool", "uint8", "int8", "int32", "uint32", "int64"]
LOG = np.log([0.7, 0.3])


class Coins:
    """Three coins of a type of their own, in which alone they have a density."""

    def __init__(self, dtype):
        self.dtype = dtype

    def sample(self, key):
        return jr.bernoulli(key, 0.3, (3,)).astype(self.dtype)

    def log_prob(self, value):
        assert value.dtype == self.dtype
        return jnp.where(value == 1, LOG[1], LOG[0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_of_a_discrete_object_are_int32_whatever_it_draws(dtype):
    program = gen(lambda: choice(Coins(jnp.dtype(dtype))) @ "k")
    trace = jax.jit(program.simulate)(KEY)
    assert trace["k"].dtype == jnp.int32
    close(trace.log_density, LOG[np.asarray(trace["k"])].sum())
    for given in ([0, 1, 1], [False, True, True], np.array([0, 1, 1], np.uint8), [0.0, 1.0, 1.0]):
        close(program.log_density({"k": np.asarray(given)}), LOG[[0, 1, 1]].sum())


@pytest.mark.parametrize("dtype", ["bool", "uint8", "uint32", "int64"])
def test_values_that_a_discrete_object_never_draws(dtype):
    program = gen(lambda: choice(Coins(jnp.dtype(dtype))) @ "k")
    density = jax.jit(lambda value: program.log_density({"k": value}))
    for value in (0.5, jnp.nan, 3e9):
        assert density(jnp.array([0.0, value, 1.0])) == -jnp.inf
    if dtype != "int64":
        assert density(jnp.array([0, -1, 1])) == -jnp.inf
    if dtype in ("bool", "uint8"):
        assert density(jnp.array([0, 257, 1])) == -jnp.inf
    with pytest.raises(SupportError, match="integral"):
        program.log_density({"k": np.array([0.0, 0.5, 1.0])})


def test_counts_of_numpyro_in_lanes():
    program = gen(lambda: jax.vmap(lambda rate: choice(dist.Poisson(rate)) @ "n")(jnp.array([1.0, 4.0])))
    trace = program.simulate(KEY)
    close(trace.log_density, stats.poisson.logpmf(trace["n"], [1, 4]).sum())
    close(program.log_density({"n": jnp.array([2, 3])}), stats.poisson.logpmf([2, 3], [1, 4]).sum())


def test_the_density_of_one_value_under_many_objects():
    densities = jax.vmap(lambda loc: choice(dist.Normal(loc, 1.0)).log_prob(0.5))(jnp.arange(3.0))
    close(densities, stats.norm.logpdf(0.5, np.arange(3)))
    close(choice(dist.Normal(0.0, 1.0)).log_prob(1), stats.norm.logpdf(1))


def made(drawn, log_prob):
    """Return an object that draws and scores so."""
    methods = {"sample": lambda self, key: drawn(key), "log_prob": lambda self, value: log_prob(value)}
    return type("Odd", (), methods)()


ODD = {
    "sample": made(lambda key: (jr.normal(key), jr.normal(key)), lambda value: 0.0),
    "log_prob": made(jr.normal, lambda value: (value, value)),
}


@pytest.mark.parametrize("name", ODD)
def test_objects_that_do_not_return_one_array_are_refused(name):
    with pytest.raises(PPLError, match=f"{name}. of Odd .*one array"):
        gen(lambda: choice(ODD[name]) @ "x").simulate(KEY)


# --- Scores ----------------------------------------------------------------------------------------------------------


def scored(shape=()):
    return gen(lambda p: score_prior(lambda x: (p - x) / 2, shape) @ "x")


def test_scores_in_lanes_of_values_of_parameters_and_of_both():
    x, p = jnp.array([1.0, -2.0, 0.5]), jnp.array([0.3, 0.1, -0.7])
    density = lambda x, p: scored().log_density({"x": x}, p)
    close(jax.vmap(jax.grad(density))(x, p), (p - x) / 2)
    for axes, expected in [((0, 0), (p - x) / 2), ((0, None), (p[0] - x) / 2), ((None, 0), jnp.sum(p - x[0]) / 2)]:
        args = [v if axis == 0 else v[0] for v, axis in zip((x, p), axes, strict=True)]
        total = lambda x, q, axes=axes: jax.vmap(density, axes)(x, q).sum()
        close(total(*args), 0.0)
        close(jax.jit(jax.grad(total))(*args), expected)


def test_scores_in_branches_of_steps_and_in_batches():
    body = lambda c, q: (c, lax.cond(q > 0, lambda: scored()(q) @ "in", lambda: 0.0))
    program = gen(lambda p: lax.scan(body, 0.0, p)[0])
    mask, p = jnp.array([False, True, True]), jnp.array([0.0, 1.0, 2.0])
    x = jnp.array([[0.0, 2.0, 3.0], [0.0, -1.0, 0.5]])
    density = lambda x, p: program.log_density({"in": {"x": Masked(x, mask)}}, p)
    gradients = jax.jit(jax.vmap(jax.grad(density, (0, 1)), (0, None)))(x, p)
    close(gradients[0], np.where(mask, (p - x) / 2, 0))
    close(gradients[1], 0.0)  # A score says nothing of how the density varies with its parameters.


def test_a_score_of_another_shape_than_its_value_is_refused():
    with pytest.raises(PPLError, match="shape"):
        score_prior(lambda x: -x.sum(), (2,))
