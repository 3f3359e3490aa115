"""Chains as products of matrices, in a loop and as a tree: numbers, derivatives, what is impossible, what they cost."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ppl
from ppl import bernoulli, categorical, gen, jaxprs, marginal, normal
from ppl.reports.costs import costs
from ppl.summation.logs import log_sum_exp
from ppl.summation.matrices import prefers_tree
from ppl.summation.scaled import columns, lowest, message, sequentially
from ppl.summation.tree import as_tree

pytestmark = pytest.mark.x64
WAYS = {"loop": sequentially, "tree": as_tree}
PARALLEL = {"loop": False, "tree": True}
NUMBERS = np.random.RandomState(0)


def in_logarithms(start, tables, gains):
    """Return the message by a Python loop of logarithms."""
    message = start
    for t in range(len(gains)):
        table = tables if tables.ndim == 2 else tables[t]
        message = log_sum_exp(message[..., :, None] + table, -2) + gains[t]
    return message


def with_derivatives(function, weights):
    """Return a function that gives finite values, all gradients, and a second derivative along one direction."""
    finite = lambda *args: jnp.where(jnp.isfinite(out := function(*args)), out, 0)
    both = jax.value_and_grad(lambda *args: jnp.sum(weights * jnp.tanh(finite(*args))), argnums=(0, 1, 2))
    along = lambda *args: tuple(jnp.ones_like(arg) * 0.7 for arg in args)
    return jax.jit(lambda *args: (function(*args), jax.jvp(both, args, along(*args))))


def assert_close(one, other, tolerance=1e-10):
    """Compare pytrees."""
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), one, other)


SHAPES = [(1, (), 3, False), (2, (), 3, True), (7, (), 4, False), (8, (2,), 3, False), (5, (2, 3), 2, True)]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("steps", "lanes", "k", "varying"), SHAPES)
def test_values_and_derivatives_equal_a_loop_of_logarithms(way, steps, lanes, k, varying):
    tables = jnp.asarray(2 * NUMBERS.randn(*((steps,) if varying else ()), k, k))
    gains = jnp.asarray(3 * NUMBERS.randn(steps, *lanes, k)).at[0, ..., 0].set(-jnp.inf)
    start = jnp.asarray(NUMBERS.randn(*lanes, k)).at[..., -1].set(-jnp.inf)
    weights = jnp.asarray(NUMBERS.randn(*lanes, k))
    by_hand = with_derivatives(in_logarithms, weights)(start, tables, gains)
    assert np.isfinite(by_hand[0]).any()
    found = with_derivatives(lambda *args: message(*args, WAYS[way]), weights)(start, tables, gains)
    assert_close(found, by_hand)


@pytest.mark.parametrize("way", WAYS)
def test_what_is_impossible_infinite_or_no_number(way):
    tables = jnp.asarray(NUMBERS.randn(3, 3))
    run = jax.jit(lambda start, gains: message(start, tables, gains, WAYS[way]))
    gradient = jax.jit(jax.grad(lambda start, gains: run(start, gains)[0], argnums=(0, 1)))
    start, gains = jnp.zeros(3), jnp.asarray(NUMBERS.randn(4, 3))
    for wrong in ((start - jnp.inf, gains), (start, gains.at[2].set(-jnp.inf))):
        assert (run(*wrong) == -jnp.inf).all()
        assert all((part == 0).all() for part in gradient(*wrong))
    last = gains.at[3, 1].set(-jnp.inf)
    assert (jnp.isneginf(run(start, last)) == jnp.array([False, True, False])).all()
    assert jnp.isfinite(gradient(start, last)[1]).all()
    assert (run(start, gains.at[1, 2].set(jnp.inf)) == jnp.inf).all()
    assert jnp.isnan(run(start, gains.at[1, 2].set(jnp.nan))).all()
    assert jnp.isnan(run(start.at[0].set(jnp.nan), gains)).all()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("way", WAYS)
def test_the_smallest_number_that_a_table_may_hold(way, dtype):
    """Tables, observations and starts as adverse as the bound admits lose nothing."""
    k, steps, limit = 4, 9, lowest(dtype, 4, {"loop": 2, "tree": 3}[way])
    tables = jnp.where(jnp.eye(k, dtype=bool), 0.0, float(np.log(limit)) * 0.999)
    assert columns(tables.astype(dtype))[0].min() >= limit
    far = float(jnp.log(jnp.finfo(dtype).tiny))
    for seed in range(5):
        numbers = np.random.RandomState(seed)
        # Each observation all but excludes the state in which the chain has stayed so far.
        gains = jnp.asarray(far * 1.5 * jax.nn.one_hot(numbers.randint(k, size=steps), k))
        start = jnp.asarray(far * 1.5 * (1 - jax.nn.one_hot(0, k)))
        gains = gains.at[0].set(far * 1.5 * jax.nn.one_hot(0, k))
        truth = in_logarithms(start, tables, gains)
        found = jax.jit(lambda *args: message(*args, WAYS[way]))(*(x.astype(dtype) for x in (start, tables, gains)))
        possible = truth > truth.max() + far / 2
        tolerance = 2000 * float(jnp.finfo(dtype).eps) * float(abs(truth.max()))
        np.testing.assert_allclose(found[possible], truth[possible], rtol=0, atol=tolerance)


# --- Programs ----------------------------------------------------------------------------------------------------


def hidden_markov(params, steps, reverse=False):
    """Observe a chain of hidden states."""

    def step(z, t):
        z = categorical(logits=params["transition"][z] + params["drift"] * t) @ "z"
        normal(params["loc"][z], 0.7) @ "y"
        return z, None

    jax.lax.scan(step, 0, jnp.arange(1.0 * steps), reverse=reverse)


def forward(params, ys, reverse=False):
    """Return the evidence by the forward recursion, written by hand."""
    density = lambda y: -0.5 * ((y - params["loc"]) / 0.7) ** 2 - jnp.log(0.7) - 0.5 * jnp.log(2 * jnp.pi)

    def step(alpha, given):
        y, t = given
        table = jax.nn.log_softmax(params["transition"] + params["drift"] * t)
        return log_sum_exp(alpha[:, None] + table, 0) + density(y), None

    first = jnp.where(jnp.arange(len(params["loc"])) == 0, 0.0, -jnp.inf)
    alpha, _ = jax.lax.scan(step, first, (ys, jnp.arange(1.0 * len(ys))), reverse=reverse)
    return log_sum_exp(alpha, 0)


def parameters(k, drift=0.0):
    """Return parameters of a model with k states."""
    numbers = np.random.RandomState(k)
    drift = drift * jnp.arange(float(k))
    return {"transition": jnp.asarray(numbers.randn(k, k)), "loc": jnp.asarray(numbers.randn(k)), "drift": drift}


def evidence(way):
    """Return the evidence of `hidden_markov` as a function of parameters and data."""
    x = marginal(gen(hidden_markov), "y", method=ppl.methods.exact(parallel=PARALLEL.get(way)))
    return lambda params, ys, *rest: x.log_density({"y": ys}, params, len(ys), *rest)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("reverse", [False, True], ids=["onwards", "backwards"])
@pytest.mark.parametrize("drift", [0.0, 0.3], ids=["fixed", "varying"])
def test_a_model_equals_the_forward_recursion(way, reverse, drift):
    params, ys = parameters(5, drift), jnp.asarray(np.random.RandomState(1).randn(13))
    one = jax.jit(jax.value_and_grad(lambda params, ys: evidence(way)(params, ys, reverse), argnums=(0, 1)))
    other = jax.jit(jax.value_and_grad(lambda params, ys: forward(params, ys, reverse), argnums=(0, 1)))
    assert_close(one(params, ys), other(params, ys))


@pytest.mark.parametrize("way", WAYS)
def test_transitions_that_are_impossible_are_left_to_logarithms(way):
    """A model that goes from left to right only, and data that leave just one state."""
    params, ys = parameters(4), jnp.asarray(np.random.RandomState(1).randn(9))
    params["transition"] = jnp.where(jnp.tri(4, k=-1) > 0, -jnp.inf, params["transition"])
    for data in (ys, 1e3 * ys):
        one = jax.jit(jax.value_and_grad(evidence(way)))(params, data)
        other = jax.jit(jax.value_and_grad(forward))(params, data)
        assert np.isfinite(one[0])
        assert_close(one, other)


@pytest.mark.parametrize("way", WAYS)
def test_lanes_of_chains(way):
    @gen
    def program(params):
        def lane(shift):
            def step(z, _):
                z = bernoulli(logits=params[z] * (1.0 + z)) @ "z"
                normal(z + shift, 0.5) @ "y"
                return z, None

            jax.lax.scan(step, 1, None, length=6)

        jax.vmap(lane)(jnp.arange(3.0))

    ys, params = jnp.asarray(np.random.RandomState(2).randn(3, 6)), jnp.array([0.3, -0.8])
    x = marginal(program, "y", method=ppl.methods.exact(parallel=PARALLEL[way]))

    def by_hand(params, ys):
        p = jax.nn.sigmoid(params * jnp.array([1.0, 2.0]))
        table = jnp.log(jnp.stack([1 - p, p], axis=1))
        total = 0.0
        for lane in range(3):
            alpha = jnp.array([-jnp.inf, 0.0])
            for y in ys[lane]:
                density = -0.5 * ((y - jnp.arange(2) - lane) / 0.5) ** 2 - jnp.log(0.5) - 0.5 * jnp.log(2 * jnp.pi)
                alpha = log_sum_exp(alpha[:, None] + table, 0) + density
            total += log_sum_exp(alpha, 0)
        return total

    run = lambda params, ys: x.log_density({"y": ys}, params)
    both = lambda function: jax.jit(jax.value_and_grad(function, argnums=(0, 1)))(params, ys)
    assert_close(both(run), both(by_hand))


@pytest.mark.parametrize("way", WAYS)
def test_through_vmap_over_data_and_over_parameters(way):
    data = jnp.asarray(np.random.RandomState(3).randn(4, 6))
    params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(parameters(3, 0.1 * i) for i in range(4)))
    run = jax.value_and_grad(evidence(way))
    assert_close(jax.vmap(run)(params, data), jax.vmap(jax.value_and_grad(forward))(params, data))
    one = jax.tree.map(lambda leaf: leaf[1], params)
    assert_close(jax.vmap(run, (None, 0))(one, data), jax.vmap(jax.value_and_grad(forward), (None, 0))(one, data))


def loops(function, *args):
    """Return the scans that a program runs, those of branches with logarithms left out."""

    def walk(body):
        for eqn in body.eqns:
            if eqn.primitive is jaxprs.scan_p:
                yield jaxprs.read_scan(eqn)
            inner = jaxprs.read_branches(eqn)[1:] if eqn.primitive is jaxprs.cond_p else jaxprs.inner_bodies(eqn)
            for body in inner:
                yield from walk(body)

    return list(walk(jaxprs.stage(function, args)[0].body))


def test_a_tree_has_no_loop_and_as_many_levels_as_the_logarithm_of_its_length():
    params, size = parameters(4), {}
    for steps in (16, 256, 4096):
        ys = jnp.zeros(steps)
        assert steps - 1 in [loop.length for loop in loops(jax.grad(evidence("loop")), params, ys)]
        assert loops(jax.grad(evidence("tree")), params, ys) == []
        size[steps] = costs(jax.grad(evidence("tree")))(params, ys).equations
    assert size[4096] - size[256] == size[256] - size[16] > 0


def test_a_step_is_a_product_with_a_vector_in_both_directions():
    """It takes no logarithm, and adds no table of derivatives up."""
    k, steps = 16, 50
    found = loops(jax.grad(evidence("loop")), parameters(k), jnp.zeros(steps))
    assert [loop.length for loop in found] == [steps - 1] * 2
    for loop in found:
        text = str(loop.body.jaxpr)
        assert "dot_general" in text
        assert " exp " not in text
        assert " log " not in text
        assert all(var.aval.size <= k for var in loop.body.outvars[: loop.num_carry])


def test_the_choice_of_the_way():
    assert not prefers_tree(10_000, 8)  # The tests run on a CPU.


@pytest.mark.parametrize("parallel", [False, True])
def test_the_last_state_is_used_outside(parallel):
    @gen
    def program(theta):
        def step(z, _):
            z = bernoulli(jnp.where(z == 1, 0.8, 0.3)) @ "z"
            normal(theta * z, 1.0) @ "y"
            return z, None

        last, _ = jax.lax.scan(step, 0, None, length=5)
        normal(last - theta, 1.0) @ "late"

    table = jnp.log(jnp.array([[0.7, 0.3], [0.2, 0.8]]))
    log_normal = lambda x, loc: -0.5 * (x - loc) ** 2 - 0.5 * jnp.log(2 * jnp.pi)

    def by_hand(theta, ys, late):
        alpha = jnp.array([0.0, -jnp.inf])
        for y in ys:
            alpha = log_sum_exp(alpha[:, None] + table, 0) + log_normal(y, theta * jnp.arange(2.0))
        return log_sum_exp(alpha + log_normal(late, jnp.arange(2.0) - theta), 0)

    x = marginal(program, ("y", "late"), method=ppl.methods.exact(parallel=parallel))
    run = lambda theta, ys, late: x.log_density({"y": ys, "late": late}, theta)
    args = 0.7, jnp.array([0.1, -1.0, 2.0, 0.4, 0.9]), 0.3
    both = lambda function: jax.jit(jax.value_and_grad(function, argnums=(0, 1, 2)))(*args)
    assert_close(both(run), both(by_hand))
    second = lambda function: jax.jit(jax.hessian(functools.partial(function)))(*args)
    assert_close(second(run), second(by_hand))
