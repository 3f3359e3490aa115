"""The laws of simulate, assess and generate."""

import math

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.stats as st
from jax import lax

import ppl
from ppl import bernoulli, beta, categorical, gamma, gen, normal, poisson

KEY = jr.key(11)
X64 = pytest.mark.x64


def tolerance() -> float:
    return 1e-10 if jax.config.jax_enable_x64 else 1e-5


# --- Programs ----------------------------------------------------------------------------------------------------


@gen
def plain():
    z = normal(0.0, 1.0) @ "z"
    return normal(z, 1.0) @ "x"


@gen
def chain(scale):
    def step(state, _):
        state = normal(0.9 * state, scale) @ "state"
        return state, normal(state, 0.5) @ "seen"

    return lax.scan(step, 0.0, None, 3)[1]


@gen
def plate(scale):
    rate = gamma(2.0, 1.0) @ "rate"
    return rate, jax.vmap(lambda x: poisson(rate * x) @ "count")(jnp.array([0.5, 1.0, 2.0])), scale


@gen
def branching(p):
    heads = bernoulli(p) @ "heads"
    z = lax.cond(heads == 1, lambda: normal(1.0, 0.5) @ "z", lambda: normal(-1.0, 2.0) @ "z")
    return lax.cond(z > 0, lambda: z + normal() @ "extra", lambda: z)


@gen
def lanes(p):
    heads = jax.vmap(lambda q: bernoulli(q) @ "heads")(jnp.array([p, 0.5, 0.9]))
    return jax.vmap(lambda h: lax.cond(h == 1, lambda: beta(2.0, 3.0) @ "b", lambda: 0.0))(heads)


@gen
def nested(p):
    first = branching(p) @ "first"
    return first + jax.jit(lambda x: jax.checkpoint(lambda y: branching(y) @ "second")(x))(p) + chain.inline(p).sum()


PROGRAMS = [(plain, ()), (chain, (0.7,)), (plate, ("static",)), (branching, (0.4,)), (lanes, (0.4,)), (nested, (0.4,))]
EACH = pytest.mark.parametrize(("gf", "args"), PROGRAMS, ids=lambda value: getattr(value, "name", ""))


# --- simulate and assess -----------------------------------------------------------------------------------------


@EACH
def test_log_density_is_that_of_the_choices(gf, args):
    @jax.jit
    def run(key):
        trace = gf.simulate(key, *args)
        log_density, retval = gf.assess(key, trace.choices, *args)
        return trace, log_density, gf.log_density(trace.choices, *args), split(retval)

    for key in jr.split(KEY, 3):
        trace, log_density, same, retval = run(key)
        np.testing.assert_allclose(trace.log_density, log_density, rtol=tolerance())
        assert log_density.shape == ()
        assert jnp.isfinite(log_density)
        np.testing.assert_allclose(log_density, same, rtol=tolerance())  # Loops may be summed in another order.
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), split(trace.retval), retval)
        assert trace.args == args


def split(tree):
    return [leaf for leaf in jax.tree.leaves(tree) if not isinstance(leaf, str)]


@EACH
def test_the_three_ways_to_simulate_are_one(gf, args):
    @jax.jit
    def run(key):
        trace = gf.simulate(key, *args)
        return trace, ppl.seed(ppl.simulate(gf))(key, *args), split(ppl.seed(gf)(key, *args))

    trace, other, retval = run(KEY)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), other.choices, trace.choices)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), retval, split(trace.retval))
    np.testing.assert_allclose(other.log_density, trace.log_density, rtol=1e-6)


def test_mean_of_a_density_ratio_is_one():
    """E over traces of h / p is 1 for a normalised h with no more support."""

    @gen
    def other(p):
        heads = bernoulli(0.5) @ "heads"
        z = lax.cond(heads == 1, lambda: normal(0.5, 0.5) @ "z", lambda: normal(-1.0, 1.0) @ "z")
        return lax.cond(z > 0, lambda: z + normal(0.2, 0.8) @ "extra", lambda: z)

    def ratio(key):
        trace = branching.simulate(key, 0.4)
        return jnp.exp(other.log_density(trace.choices, 0.4) - trace.log_density)

    assert_mean(ratio, 1.0, 20_000)


def assert_mean(function, truth, num):
    draws = np.asarray(jax.jit(jax.vmap(function))(jr.split(KEY, num)), np.float64)
    error = draws.std(ddof=1) / math.sqrt(num)
    assert 0 < error < 0.02 * abs(truth)
    assert abs(draws.mean() - truth) < 4.5 * error


@X64
def test_g1():
    np.testing.assert_allclose(plain.log_density({"z": 0.5, "x": 2.0}), -math.log(2 * math.pi) - 1.25, rtol=1e-12)
    np.testing.assert_allclose(plain.log_density({"z": 0.5, "x": 2.0}), -3.0878771, atol=5e-8)
    truth = st.norm(0, math.sqrt(2)).pdf(2.0)
    np.testing.assert_allclose(truth, 0.1037769, atol=5e-8)
    assert_mean(lambda key: jnp.exp(plain.generate(key, {"x": 2.0})[1]), truth, 40_000)


@X64
def test_log_densities_by_hand():
    chosen = {"state": np.array([0.3, -0.2, 1.0]), "seen": np.array([0.1, 0.4, 0.8])}
    before = 0.9 * np.array([0.0, 0.3, -0.2])
    expected = st.norm(before, 0.7).logpdf(chosen["state"]) + st.norm(chosen["state"], 0.5).logpdf(chosen["seen"])
    np.testing.assert_allclose(chain.log_density(chosen, 0.7), expected.sum(), rtol=1e-12)
    chosen = {"rate": 1.7, "count": np.array([0, 3, 2])}
    expected = st.gamma(2.0).logpdf(1.7) + st.poisson([0.85, 1.7, 3.4]).logpmf(chosen["count"]).sum()
    np.testing.assert_allclose(plate.log_density(chosen, ""), expected, rtol=1e-12)


def test_addresses_may_be_paths_or_nested():
    given = {"state": jnp.ones(3), "seen": jnp.ones(3)}
    sub = {"heads": 1, "z": 0.5, "extra": 0.1}
    whole = {"first": sub, "second": sub, **given}
    flat = {f"{call}/{name}": value for call in ("first", "second") for name, value in sub.items()} | given
    paths = {(call, name): value for call in ("first", "second") for name, value in sub.items()} | given
    assert nested.log_density(whole, 0.4) == nested.log_density(flat, 0.4) == nested.log_density(paths, 0.4)
    trace, _ = nested.generate(KEY, flat, 0.4)
    assert trace["first"]["heads"] == trace["first/heads"] == trace["first", "heads"] == 1


def test_a_tuple_address_nests():
    program = gen(lambda: (normal() @ ("group", "a"), normal() @ ("group", "b")))
    choices = program.simulate(KEY).choices
    assert list(choices) == ["group"]
    assert set(choices["group"]) == {"a", "b"}


def test_inline_and_nested_calls_have_one_density():
    inlined = gen(lambda: plain.inline())
    called = gen(lambda: plain() @ "sub")
    twice = gen(lambda: (called() @ "one", called() @ "two"))
    given = {"z": 0.5, "x": 2.0}
    density = plain.log_density(given)
    assert inlined.log_density(given) == called.log_density({"sub": given}) == density
    np.testing.assert_allclose(twice.log_density({"one": {"sub": given}, "two/sub": given}), 2 * density, rtol=1e-6)


def test_a_method_may_be_generative():
    class Model:
        scale = 2.0

        @gen
        def prior(self, loc):
            return normal(loc, self.scale) @ "z"

    np.testing.assert_allclose(Model().prior.log_density({"z": 1.0}, 0.5), st.norm(0.5, 2).logpdf(1.0), rtol=1e-6)


# --- generate ----------------------------------------------------------------------------------------------------


@EACH
def test_observing_nothing_weighs_nothing_and_everything_the_density(gf, args):
    @jax.jit
    def run(key):
        drawn = gf.simulate(key, *args)
        return drawn, gf.generate(key, {}, *args), gf.generate(jr.fold_in(key, 1), drawn.choices, *args)

    drawn, (free, no_weight), (fixed, log_weight) = run(KEY)
    assert no_weight == 0.0
    np.testing.assert_allclose(free.log_density, drawn.log_density, rtol=1e-6)
    np.testing.assert_allclose([log_weight, fixed.log_density], [drawn.log_density] * 2, rtol=tolerance())
    jax.tree.map(np.testing.assert_array_equal, fixed.choices, drawn.choices)


FINITE = jnp.array([[0.1, 0.2, 0.7], [0.5, 0.3, 0.2]])


@gen
def finite(p):
    a = bernoulli(p) @ "a"
    b = jax.vmap(lambda q: bernoulli(q + 0.3 * a) @ "b")(jnp.array([0.2, 0.6]))
    c = lax.cond(b.sum() > 0, lambda: categorical(FINITE[a]) @ "c", lambda: jnp.int32(0))
    lax.scan(lambda s, q: (bernoulli(q + 0.2 * s) @ "d", None), a, jnp.array([0.3, 0.6]))
    return c


def outcomes():
    """List all choice maps of the finite program, and whether `c` is made in each."""
    a, b0, b1, c, d0, d1 = np.indices((2, 2, 2, 3, 2, 2)).reshape(6, -1).astype(np.int32)
    made = (b0 + b1) > 0
    keep = made | (c == 0)
    maps = {"a": a, "b": np.stack([b0, b1], 1), "c": ppl.Masked(c, made), "d": np.stack([d0, d1], 1)}
    return jax.tree.map(lambda leaf: jnp.asarray(leaf[keep]), maps)


@X64
def test_probabilities_of_all_choices_sum_to_one():
    densities = jax.jit(jax.vmap(lambda choices: finite.log_density(choices, 0.4)))(outcomes())
    np.testing.assert_allclose(jnp.exp(densities).sum(), 1.0, rtol=1e-12)


@X64
@pytest.mark.parametrize("observed", [{"d": [1, 0]}, {"a": 1}, {"b": [1, 0], "c": 2}, {"a": 0, "d": [1, 1]}], ids=str)
def test_mean_weight_is_the_exact_marginal(observed):
    """Sum over everything that is not observed, of its probability given what generate does, times the weight."""
    observed = {name: jnp.asarray(value) for name, value in observed.items()}
    maps = outcomes()
    agrees = jnp.ones(len(maps["a"]), bool)
    for name, value in observed.items():
        leaf = maps[name].value if name == "c" else maps[name]
        agrees &= (leaf == value).reshape(len(leaf), -1).all(1)
    densities = jnp.exp(jax.jit(jax.vmap(lambda choices: finite.log_density(choices, 0.4)))(maps))
    truth = float(densities[agrees].sum())
    weights = jax.jit(jax.vmap(lambda key: jnp.exp(finite.generate(key, observed, 0.4)[1])))(jr.split(KEY, 20_000))
    if not np.ptp(weights):
        np.testing.assert_allclose(weights[0], truth, rtol=1e-12)
    else:
        assert abs(weights.mean() - truth) < 4.5 * weights.std() / math.sqrt(len(weights)) < 0.05 * truth


@X64
def test_the_weight_is_the_density_of_what_is_observed_given_the_rest():
    trace, log_weight = finite.generate(KEY, {"d": jnp.array([1, 0])}, 0.4)
    first = 0.3 + 0.2 * trace["a"]
    np.testing.assert_allclose(log_weight, np.log(first * (1 - 0.8)), rtol=1e-12)
    np.testing.assert_allclose(trace.log_density, finite.log_density(trace.choices, 0.4), rtol=1e-12)


@X64
def test_mean_weight_is_the_marginal_of_a_chain():
    """By the Kalman filter of the linear chain, written as one joint normal."""
    lower = np.array([[0.9 ** (i - j) if i >= j else 0.0 for j in range(3)] for i in range(3)])
    marginal = st.multivariate_normal(np.zeros(3), 0.49 * lower @ lower.T + 0.25 * np.eye(3))
    seen = jnp.array([0.2, -0.3, 0.5])
    assert_mean(lambda key: jnp.exp(chain.generate(key, {"seen": seen}, 0.7)[1]), marginal.pdf(seen), 20_000)


def test_transformations_compose_with_jax():
    given = jr.normal(KEY, (4, 2))
    density = lambda zx: plain.log_density({"z": zx[0], "x": zx[1]})
    batched = jax.jit(jax.vmap(density))(given)
    np.testing.assert_allclose(batched, [density(row) for row in given], rtol=1e-6)
    gradient = jax.grad(density)(given[0])
    z, x = given[0]
    np.testing.assert_allclose(gradient, [x - 2 * z, z - x], rtol=1e-5)
    np.testing.assert_allclose(jax.hessian(density)(given[0]), [[-2, 1], [1, -1]], rtol=1e-5)


def test_a_transformed_program_is_itself_stochastic():
    """simulate and generate keep their choices when they are used in an objective."""

    def objective(x):
        trace, log_weight = ppl.generate(plain)({"x": x})
        return log_weight + 0.0 * trace["z"]

    value, gradient = ppl.value_and_grad(objective)(KEY, 2.0)
    z = plain.generate(KEY, {"x": 2.0})[0]["z"]
    np.testing.assert_allclose([value, gradient], [st.norm(z).logpdf(2.0), z - 2.0], rtol=1e-5)
