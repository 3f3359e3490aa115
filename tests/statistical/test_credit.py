"""Credit: a score is charged with the costs that its choice can influence, and with no others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import ppl

pytestmark = pytest.mark.x64


def flip(p):
    return ppl.bernoulli(p, grad=ppl.reinforce()).sample().astype(float)


def cost(b, weight=1.0):
    return weight * (b + 0.5) ** 2


def variance(f, theta):
    return np.asarray(ppl.exact_gradient(f)(jnp.asarray(theta)).variance)


def score_variance(p, weight=1.0):
    """Variance of c(b) (b / p - (1 - b) / (1 - p)) for the cost above, in closed form."""
    one, zero = weight * 2.25 / p, -weight * 0.25 / (1 - p)
    mean = p * one + (1 - p) * zero
    return p * one**2 + (1 - p) * zero**2 - mean**2


@pytest.mark.parametrize("form", ["carry", "outputs", "fori"])
@pytest.mark.parametrize("length", [2, 4, 6])
def test_variance_of_the_last_step_does_not_grow(form, length):
    """Costs to go: the last choice is not charged with the costs of the steps before it."""

    def f(theta):
        if form == "carry":
            return lax.scan(lambda total, p: (total + cost(flip(p), 3.0), None), 0.0, theta)[0]
        if form == "outputs":
            return lax.scan(lambda none, p: (none, cost(flip(p), 3.0)), None, theta)[1].sum()
        return lax.fori_loop(0, length, lambda i, total: total + cost(flip(theta[i]), 3.0), 0.0)

    np.testing.assert_allclose(variance(f, np.full(length, 0.4))[-1], score_variance(0.4, 3.0), rtol=1e-10)


@pytest.mark.parametrize("form", ["sum", "jit", "nested", "array", "stack", "vmap", "batch"])
def test_separate_costs_are_not_shared(form):
    @ppl.gen
    def coin(p):
        b = (ppl.bernoulli(p, grad=ppl.reinforce()) @ "b").astype(float)
        return b, cost(b)

    def f(theta):
        if form == "vmap":
            return (jnp.array([1.0, 100.0]) * jax.vmap(lambda p: cost(flip(p)))(theta)).sum()
        if form == "batch":
            return (jnp.array([1.0, 100.0]) * cost(flip(theta))).sum()
        if form == "nested":
            return (coin(theta[0]) @ "first")[1] + 100 * (coin(theta[1]) @ "second")[1]
        a, b = flip(theta[0]), flip(theta[1])
        if form == "stack":
            return jnp.stack([cost(a), cost(b, 100.0)]).sum()
        if form == "array":
            return jnp.array([cost(a), cost(b, 100.0)]).sum()
        if form == "jit":
            return jax.jit(lambda a, b: cost(a) + cost(b, 100.0))(a, b)
        return cost(a) + cost(b, 100.0)

    expected = [score_variance(0.4), score_variance(0.4, 100.0)]
    np.testing.assert_allclose(variance(f, [0.4, 0.4]), expected, rtol=1e-9)


def test_constants_are_not_charged():
    np.testing.assert_allclose(variance(lambda p: cost(flip(p)) + 50.0, 0.4), score_variance(0.4), rtol=1e-10)


def test_independent_costs_are_enumerated_apart():
    """20 coins, each with its own cost, take 20 times 2 evaluations; their joint values would be refused."""
    f = lambda theta: sum(cost(ppl.bernoulli(p, grad=ppl.enum()).sample().astype(float)) for p in theta)
    exact = ppl.exact_gradient(f)(jnp.full(20, 0.4))
    np.testing.assert_allclose(exact.gradient, np.full(20, 2.0), rtol=1e-12)
    np.testing.assert_allclose(exact.variance, 0, atol=1e-20)
