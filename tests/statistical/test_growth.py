"""What a gradient costs, and how noisy it is, as programs grow."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax import lax

import ppl
from bench.credit_variance import PROGRAMS, exact_variance, variance
from ppl.reports import costs, growth

KEY = jr.key(0)


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_variance_of_an_element_does_not_depend_on_the_number_of_others(name):
    program, sizes = PROGRAMS[name]
    exact = exact_variance(program)
    for size in sizes[:3]:
        found, error = variance(program, size, draws=100_000)
        print(name, size, found, error, exact)
        assert error < 0.025 * exact
        assert abs(found - exact) < 4.5 * error


# --- Enumeration -------------------------------------------------------------------------------------------------


def flip(p):
    return ppl.bernoulli(p, grad=ppl.enum()).sample().astype(float)


def chain(length):
    """Coins written one by one, each biased by the one before, with costs of neighbours."""

    def program(p):
        value = flip(p)
        total = value
        for _ in range(length - 1):
            after = flip(0.2 + 0.5 * p * value)
            total = total + (value + 0.3) * (after + 0.1) ** 2
            value = after
        return total

    return program


def chain_mean(length, p):
    """Sum over the chain by the law of each pair."""
    prob, total = p, p
    for _ in range(length - 1):
        up = [0.2, 0.2 + 0.5 * p]
        pairs = {(a, b): (prob if a else 1 - prob) * (up[a] if b else 1 - up[a]) for a in (0, 1) for b in (0, 1)}
        total = total + sum(weight * (a + 0.3) * (b + 0.1) ** 2 for (a, b), weight in pairs.items())
        prob = pairs[0, 1] + pairs[1, 1]
    return total


def tree(depth):
    """A binary tree of coins, each biased by its parent, with a cost on every edge."""

    def below(value, p, depth):
        if depth == 0:
            return 0.0
        children = [flip(0.2 + 0.5 * p * value + 0.1 * i) for i in range(2)]
        return sum((value + 1) * (child + 0.3) ** 2 + below(child, p, depth - 1) for child in children)

    return lambda p: below(flip(p), p, depth)


def tree_mean(depth, p):
    def below(prob, depth):
        if depth == 0:
            return 0.0
        total = 0.0
        for i in range(2):
            up = [0.2 + 0.1 * i, 0.2 + 0.5 * p + 0.1 * i]
            for a, weight in ((0, 1 - prob), (1, prob)):
                total = total + weight * (a + 1) * (up[a] * 1.69 + (1 - up[a]) * 0.09)
            total = total + below((1 - prob) * up[0] + prob * up[1], depth - 1)
        return total

    return below(p, depth)


FORMS = {
    "one by one": lambda n: lambda p: sum((flip(p) + i) ** 2 for i in range(n)),
    "vmap": lambda n: lambda p: jax.vmap(lambda i: (flip(p) + i) ** 2)(jnp.arange(n)).sum(),
    "batch": lambda n: lambda p: ((flip(jnp.full(n, p)) + jnp.arange(n)) ** 2).sum(),
}


@pytest.mark.x64
@pytest.mark.parametrize("form", FORMS)
def test_independent_coins_cost_their_number(form):
    make, sizes = FORMS[form], (10, 20, 40)
    for n in sizes:
        value, gradient = jax.jit(ppl.value_and_grad(make(n)))(KEY, 0.3)
        np.testing.assert_allclose(value, sum(0.3 * (1 + 2 * i) + i**2 for i in range(n)), rtol=1e-12)
        np.testing.assert_allclose(gradient, sum(1 + 2 * i for i in range(n)), rtol=1e-12)
    assert growth(sizes, [costs(ppl.value_and_grad(make(n)))(KEY, 0.3).flops for n in sizes]) < 1.1


@pytest.mark.x64
@pytest.mark.parametrize(("make", "mean", "sizes"), [(chain, chain_mean, (5, 10, 20)), (tree, tree_mean, (1, 2, 3))])
def test_chains_and_trees_cost_their_edges(make, mean, sizes):
    for size in sizes:
        value, gradient = jax.jit(ppl.value_and_grad(make(size)))(KEY, 0.3)
        np.testing.assert_allclose(value, mean(size, 0.3), rtol=1e-12)
        np.testing.assert_allclose(gradient, jax.grad(lambda p, n=size: mean(n, p))(0.3), rtol=1e-10)
    edges = sizes if make is chain else [2 ** (depth + 1) - 2 for depth in sizes]
    assert growth(edges, [costs(ppl.value_and_grad(make(n)))(KEY, 0.3).flops for n in sizes]) < 1.15


TRANSITION = np.random.default_rng(0).normal(size=(3, 3))


def scanned(length):
    """A chain of three states in a scan, with costs of neighbours, and a cost of its end."""

    def program(logits):
        def step(carry, x):
            state, total = carry
            after = ppl.categorical(logits=logits[state] * (1 + x), grad=ppl.enum()).sample()
            return (after, total + (after + 0.3 * x) ** 2 * (state + 0.5)), None

        times = jnp.arange(length) / length
        (state, total), _ = lax.scan(step, (jnp.int32(1), 0.0), times)
        return total + jnp.sin(1.0 * state)

    return program


def scanned_mean(length, logits):
    prob, total = jnp.array([0.0, 1.0, 0.0]), 0.0
    for t in range(length):
        x = t / length
        pairs = prob[:, None] * jax.nn.softmax(logits * (1 + x))
        total = total + (pairs * (jnp.arange(3.0) + 0.3 * x) ** 2 * (jnp.arange(3.0)[:, None] + 0.5)).sum()
        prob = pairs.sum(0)
    return total + prob @ jnp.sin(jnp.arange(3.0))


@pytest.mark.x64
def test_a_chain_in_a_scan_passes_messages():
    logits = jnp.asarray(TRANSITION)
    for length in (1, 2, 7, 40):
        value, gradient = jax.jit(ppl.value_and_grad(scanned(length)))(KEY, logits)
        expected = jax.value_and_grad(lambda a, n=length: scanned_mean(n, a))(logits)
        np.testing.assert_allclose(value, expected[0], rtol=1e-12)
        np.testing.assert_allclose(gradient, expected[1], rtol=1e-9, atol=1e-12)


@pytest.mark.x64
def test_second_derivatives_of_a_chain():
    second = ppl.hessian(lambda a: scanned(4)(a * jnp.asarray(TRANSITION)))(KEY, 0.8)
    expected = jax.grad(jax.grad(lambda a: scanned_mean(4, a * jnp.asarray(TRANSITION))))(0.8)
    np.testing.assert_allclose(second, expected, rtol=1e-9)


def test_the_size_of_a_chain_in_a_scan_does_not_depend_on_its_length():
    counted = [costs(ppl.value_and_grad(scanned(length)))(KEY, jnp.asarray(TRANSITION)) for length in (50, 50_000)]
    assert counted[0].equations == counted[1].equations
    assert growth([50, 50_000], [c.flops for c in counted]) == pytest.approx(1, abs=0.02)


def states(count):
    def program(logits):
        step = lambda state, _: (ppl.categorical(logits=logits[state], grad=ppl.enum()).sample(), None)
        return jnp.cos(1.0 * lax.scan(step, jnp.int32(0), None, length=10)[0])

    return costs(ppl.value_and_grad(program))(KEY, jnp.ones((count, count))).flops


def test_a_chain_takes_the_square_of_its_states():
    assert growth([16, 32, 64], [states(count) for count in (16, 32, 64)]) < 2.1


@pytest.mark.x64
def test_lanes_that_mix_beside_lanes_that_do_not():
    """One choice is summed jointly over its lanes, the other lane by lane; both meet in one operation."""

    def program(p):
        shared, apart = flip(jnp.full(3, p)), flip(jnp.full(3, 0.3))
        both = jnp.where(apart == 1, shared, 2 * shared + 1) * (apart + shared)
        return (both**2).sum() + shared.sum() ** 2

    def mean(p):
        each = sum(
            (p if a else 1 - p) * (0.3 if b else 0.7) * ((a if b else 2 * a + 1) * (a + b)) ** 2
            for a in (0, 1)
            for b in (0, 1)
        )
        return 3 * each + 3 * p + 6 * p**2

    value, gradient = ppl.value_and_grad(program)(KEY, 0.4)
    np.testing.assert_allclose(value, mean(0.4), rtol=1e-12)
    np.testing.assert_allclose(gradient, jax.grad(mean)(0.4), rtol=1e-12)


LANES_OF_CHAINS = 5


@pytest.mark.x64
def test_lanes_of_chains_are_summed_lane_by_lane():
    logits = jnp.asarray(np.random.default_rng(1).normal(size=(LANES_OF_CHAINS, 3, 3)))
    value, gradient = ppl.value_and_grad(lambda a: jax.vmap(scanned(6))(a).sum())(KEY, logits)
    expected = jax.value_and_grad(lambda a: sum(scanned_mean(6, lane) for lane in a))(logits)
    np.testing.assert_allclose(value, expected[0], rtol=1e-12)
    np.testing.assert_allclose(gradient, expected[1], rtol=1e-9, atol=1e-12)


@pytest.mark.x64
def test_a_pathwise_choice_beside_a_chain():
    """A drawn drift moves the chain: the mean over both by Gauss quadrature."""

    def program(loc):
        drift = ppl.normal(loc, 0.5).sample()
        return scanned(4)(jnp.asarray(TRANSITION) * drift)

    points, weights = np.polynomial.hermite_e.hermegauss(40)
    mean = lambda loc: (
        sum(
            w * scanned_mean(4, jnp.asarray(TRANSITION) * (loc + 0.5 * x)) for x, w in zip(points, weights, strict=True)
        )
        / weights.sum()
    )
    keys = jr.split(KEY, 20_000)
    gradients = jax.jit(jax.vmap(lambda key: ppl.grad(program)(key, 0.7)))(keys)
    error = gradients.std() / np.sqrt(len(keys))
    assert abs(gradients.mean() - jax.grad(mean)(0.7)) < 4.5 * error
