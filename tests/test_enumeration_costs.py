"""What enumeration takes beside hand-written JAX, counted; and that neither layout nor order of sums changes a number.

Beyond the floors there is, for every value of a choice, a test whether a cost is infinite where it has no probability
(0 times infinity is 0 here), and what a density written for itself takes more than one written for this program.
"""

import importlib

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import ppl
from bench.against_floors import pair
from ppl import categorical, enum, normal
from ppl.reports import compiled_costs, costs
from ppl.transforms import trailing
from ppl.transforms.possible import possible_product

KEY = jr.key(0)
EXTRA = {
    # ne, is_finite, or, select, and once more in the derivative (5); the derivative by the log scale has a sum of its
    # own (1); three products less than the floor, as the scale divides sums, not elements (-3).
    "mixture": 5 + 1 - 3,
    # The same test, with an `and` for the state before (6); a sum over an axis of length one, which is a reshape (1).
    "hmm": 6 + 1,
}
"""Operations on each element more than the floor's."""


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("name", ["mixture", "hmm"])
def test_beyond_the_floor_there_is_only_the_test_for_infinite_costs(name, number):
    floor = importlib.import_module(f"bench.floors.{name}")
    size = floor.SIZES[number]
    ours, theirs = (costs(function)(*args) for *functions, args in [pair(name, size)] for function in functions)
    params, _ = floor.setup(KEY, **size)
    elements = params["guide"].size
    assert ours.transcendentals <= theirs.transcendentals + 1
    assert ours.matmul_flops <= theirs.matmul_flops
    assert ours.flops - theirs.flops <= EXTRA[name] * elements + 0.01 * theirs.flops
    assert ours.executed <= theirs.executed + 30
    assert ours.random_words == 0


@pytest.mark.parametrize("number", [0, 1])
def test_the_compiled_mixture_takes_no_more_than_the_floor(number):
    """The test for infinite costs is not evaluated again backwards."""
    ours, theirs, args = pair("mixture", importlib.import_module("bench.floors.mixture").SIZES[number])
    mine, floor = compiled_costs(ours)(*args), compiled_costs(theirs)(*args)
    assert mine.bytes <= 1.01 * floor.bytes
    assert mine.flops <= 1.02 * floor.flops


def mixture(params):
    """Cost of a choice for each row of logits, of several kinds."""
    k = jax.vmap(lambda logits: categorical(logits=logits, grad=enum()).sample())(params["logits"])
    points = jnp.linspace(-1.0, 1.0, len(params["logits"]))
    x = normal(params["locs"][k], jnp.exp(params["scale"])).log_prob(points)
    prior = categorical(logits=params["prior"]).log_prob(k)
    own = categorical(logits=params["logits"]).log_prob(k)
    return jnp.where(k > 1, x + prior, 2.0 * x).sum() - own.sum() + jnp.sin(params["locs"][k] * points).sum()


def by_hand(params):
    logits = params["logits"]
    q, k = jax.nn.softmax(logits), jnp.arange(logits.shape[1])
    points = jnp.linspace(-1.0, 1.0, len(logits))[:, None]
    z = (points - params["locs"]) / jnp.exp(params["scale"])
    x = -(z**2) / 2 - params["scale"] - jnp.log(2 * jnp.pi) / 2
    prior = jax.nn.log_softmax(params["prior"])
    cost = jnp.where(k > 1, x + prior, 2.0 * x) - jax.nn.log_softmax(logits) + jnp.sin(params["locs"] * points)
    return (q * cost).sum()


def mixture_params(values, lanes):
    keys = jr.split(KEY, 3)
    return {
        "logits": jr.normal(keys[0], (lanes, values)),
        "locs": jr.normal(keys[1], (values,)),
        "prior": jr.normal(keys[2], (values,)),
        "scale": jnp.asarray(0.3),
    }


@pytest.mark.x64
@pytest.mark.parametrize(("values", "lanes"), [(3, 5), (8, 5), (12, 1), (9, 9)])
def test_few_and_many_values_are_exact_to_second_order(values, lanes):
    params = mixture_params(values, lanes)
    ours = lambda params: ppl.expect(mixture)(KEY, params)
    np.testing.assert_allclose(ours(params), by_hand(params), rtol=1e-12)
    for derivative in (jax.grad, lambda f: lambda params: jax.jvp(jax.grad(f), (params,), (params,))[1]):
        both = derivative(ours)(params), derivative(by_hand)(params)
        jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12), *both)


@pytest.mark.x64
def test_many_values_keep_their_axis_last(monkeypatch):
    def cost(params):
        k = jax.vmap(lambda logits: categorical(logits=logits, grad=enum()).sample())(params["logits"])
        x = jax.vmap(lambda k, y: normal(params["locs"][k], 1.0).log_prob(y))(k, jnp.arange(5.0))
        own = jax.vmap(lambda k, logits: categorical(logits=logits).log_prob(k))(k, params["logits"])
        return (x - own).sum()

    lead = lambda: {
        eqn.outvars[0].aval.shape
        for eqn in jax.make_jaxpr(ppl.expect(cost))(KEY, mixture_params(9, 5)).eqns
        if eqn.primitive.name in ("exp", "select_n", "mul")
    }
    assert (5, 9) in lead()
    assert (9, 5) not in lead()
    monkeypatch.setattr(trailing, "MANY_VALUES", 10)
    assert (9, 5) in lead()


@pytest.mark.x64
def test_an_impossible_value_of_infinite_cost_does_not_count():
    params = mixture_params(9, 4)
    params["logits"] = params["logits"].at[:, 0].set(-jnp.inf)
    params["prior"] = params["prior"].at[0].set(-jnp.inf)
    less = {name: leaf[..., 1:] if leaf.ndim else leaf for name, leaf in params.items()}

    def cost(params):
        k = jax.vmap(lambda logits: categorical(logits=logits, grad=enum()).sample())(params["logits"])
        prior, own = (categorical(logits=params[name]).log_prob(k) for name in ("prior", "logits"))
        return (prior - own + params["locs"][k]).sum()

    ours = [jax.value_and_grad(lambda params: ppl.expect(cost)(KEY, params))(p) for p in (params, less)]
    np.testing.assert_allclose(ours[0][0], ours[1][0], rtol=1e-12)
    for name in ("logits", "prior", "locs"):
        np.testing.assert_allclose(ours[0][1][name][..., 1:], ours[1][1][name], rtol=1e-10)
        np.testing.assert_array_equal(ours[0][1][name][..., 0], 0.0)


WEIGHTS = jnp.array([0.5, 0.0, 0.0, 0.0])
COSTS = jnp.array([3.0, 2.0, jnp.inf, -jnp.inf])
COUNTS = jnp.isfinite(COSTS) | (WEIGHTS != 0)


@pytest.mark.x64
def test_a_product_with_what_is_impossible_is_0_and_so_are_its_derivatives():
    product = lambda weight, cost: possible_product(weight, cost, COUNTS)
    np.testing.assert_array_equal(product(WEIGHTS, COSTS), [1.5, 0.0, 0.0, 0.0])
    tangents = jnp.ones(4), jnp.array([1.0, 1.0, jnp.inf, jnp.nan])  # what an infinite cost makes of its own
    np.testing.assert_array_equal(jax.jvp(product, (WEIGHTS, COSTS), tangents)[1], [3.5, 2.0, 0.0, 0.0])
    by_weight, by_cost = jax.grad(lambda *both: product(*both).sum(), (0, 1))(WEIGHTS, COSTS)
    np.testing.assert_array_equal(by_weight, [3.0, 2.0, 0.0, 0.0])
    np.testing.assert_array_equal(by_cost, WEIGHTS)


@pytest.mark.x64
@pytest.mark.parametrize("way", [lambda f: f, jax.jit, jax.checkpoint], ids=["eager", "jit", "checkpoint"])
def test_a_product_with_probabilities_has_derivatives_of_every_order_and_lanes(way):
    def ours(x):
        weight, cost = jnp.sin(x), jnp.exp(2 * x)
        return jax.vmap(possible_product, (0, None, None))(jnp.stack([weight, 2 * weight]), cost, cost > 0).sum()

    by_hand = lambda x: 3 * (jnp.sin(x) * jnp.exp(2 * x)).sum()
    x, hessian = jnp.array([0.3, -0.4]), lambda f: jax.hessian(f)(x)
    np.testing.assert_allclose(jax.grad(way(ours))(x), jax.grad(by_hand)(x), rtol=1e-12)
    np.testing.assert_allclose(hessian(way(ours)), hessian(by_hand), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(jax.jacrev(jax.grad(ours))(x), hessian(by_hand), rtol=1e-12, atol=1e-12)
    unmapped = jax.vmap(lambda _: possible_product(x, x, x > -1), out_axes=None, axis_size=2)(None)
    np.testing.assert_array_equal(unmapped, x**2)
    assert "select" not in str(jax.make_jaxpr(jax.vjp(lambda t: possible_product(x, t, t > 0), x)[1])(x))


@pytest.mark.x64
def test_few_impossible_values_give_no_nan_in_any_direction():
    """Forward derivatives of log(0) are infinite, and count as 0 where the value has no probability."""

    def cost(probs):
        k = categorical(probs=probs, grad=enum()).sample()
        return categorical(probs=probs).log_prob(k)

    probs = jnp.array([0.25, 0.75, 0.0])
    direction = jnp.array([1.0, -1.0, 0.0])
    found = jax.jvp(lambda p: ppl.expect(cost)(KEY, p), (probs,), (direction,))[1]
    np.testing.assert_allclose(found, jnp.log(0.25) - jnp.log(0.75), rtol=1e-10)
