"""Every strategy through every construct: unbiased, random where it should be, and one result per key."""

import functools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import ppl
from tests.cases import CASES, THETA, Law
from tests.statistics import assert_unbiased, enumerate_law

PAIRS = [pytest.param(case, draw, id=f"{case}-{draw}") for case in CASES for draw in case.draws()]
THIRD = {str(case) for case in CASES[::3]}


def quick(pairs, always=(), in_a_third=()):
    """Mark as slow all but these ways to make the choices, some of which are quick in every third case only."""

    def is_quick(case, draw):
        return str(draw) in always or (str(draw) in in_a_third and str(case) in THIRD)

    return [pair if is_quick(*pair.values) else pytest.param(*pair.values, id=pair.id, marks=SLOW) for pair in pairs]


SLOW = pytest.mark.slow
FINITE = [pair for pair in PAIRS if pair.values[1].family != "normal"]
CONTINUOUS = [pair for pair in PAIRS if pair.values[1].family == "normal"]


def truth(case, draw):
    """Enumerate the law of a case: value and gradient."""
    return enumerate_law(lambda draws, theta: case.law(Law(draw.family, draws), theta), THETA)


def program(case, draw):
    """Return the stochastic function of theta."""
    return functools.partial(case.program, draw)


@pytest.mark.x64
@pytest.mark.parametrize(("case", "draw"), FINITE)
def test_mean_is_exact(case, draw):
    value, gradient = truth(case, draw)
    exact = ppl.exact_gradient(program(case, draw))(jnp.asarray(THETA))
    np.testing.assert_allclose(exact.value, value, rtol=1e-10)
    np.testing.assert_allclose(exact.gradient, gradient, rtol=1e-10, atol=1e-10)
    assert (np.asarray(exact.variance) < 1e-20).all() if draw.is_exact else (np.asarray(exact.variance) > 0).any()


@pytest.mark.parametrize(("case", "draw"), quick(CONTINUOUS, ["normal-pathwise-reinforce"], ["normal-reinforce"]))
def test_mean_is_within_error(case, draw):
    value, gradient = truth(case, draw)
    estimate = lambda key: ppl.value_and_grad(program(case, draw))(key, jnp.asarray(THETA))
    assert_unbiased(estimate, (value, gradient), jr.key(1))


@pytest.mark.parametrize(("case", "draw"), quick(PAIRS, ["coin-reinforce"]))
def test_one_result_per_key(case, draw):
    """Eager, jit, vmap over keys and checkpoint agree for each key; so do forward and reverse mode."""
    stochastic, theta, along = program(case, draw), jnp.asarray(THETA), jnp.array([0.3, -1.2])
    reverse = ppl.value_and_grad(stochastic)

    def every_way(key):
        expected = functools.partial(ppl.expect(stochastic), key)
        checkpointed = jax.value_and_grad(jax.checkpoint(expected))(theta)
        return reverse(key, theta), checkpointed, jax.jvp(expected, (theta,), (along,))

    keys = jr.split(jr.key(2), 16)
    values, gradients = jax.jit(jax.vmap(lambda key: reverse(key, theta)))(keys)
    compiled = jax.jit(every_way)
    for i in (0, 1):
        plain, checkpointed, forward = compiled(keys[i])
        expected = values[i], gradients[i]
        for other in (plain, checkpointed):
            jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9), other, expected)
        np.testing.assert_allclose(forward, (values[i], gradients[i] @ along), rtol=1e-9, atol=1e-9)
    if str(case) in THIRD:  # Compiles every operation apart.
        eager = reverse(keys[2], theta)
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-9), eager, (values[2], gradients[2]))
    spread = np.ptp(np.asarray(gradients), axis=0)
    assert (spread == 0).all() if draw.is_exact else (spread > 0).any()
