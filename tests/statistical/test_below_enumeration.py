"""Strategies that look at costs, at choices whose parameters depend on an enumerated one: exact in the mean."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax import lax

import ppl
from estimators import learned, leave_one_out, leave_one_out_lanes, mvd, reinforce
from ppl import bernoulli, normal
from tests.statistics import assert_unbiased, enumerate_law

pytestmark = pytest.mark.x64

KEY = jr.key(0)
THETA = np.array([0.4, 0.7])
W = np.array([0.3, 0.6, 0.9])


def enumerated(p):
    return bernoulli(p, grad=ppl.enum()).sample().astype(float)


def one(coin, theta):
    e = enumerated(theta[0])
    return (e + 2 * coin(0.2 + 0.5 * e * theta[1]) + theta[0]) ** 2


def one_law(draw, theta):
    e = draw.coin(theta[0])
    return (e + 2 * draw.coin(0.2 + 0.5 * e * theta[1]) + theta[0]) ** 2


def lanes(coin, theta):
    e = enumerated(theta[0])
    return ((e + 2 * jax.vmap(coin)((0.2 + 0.5 * e * theta[1]) * W) + theta[0]) ** 2).sum()


def lanes_law(draw, theta):
    e = draw.coin(theta[0])
    return sum((e + 2 * draw.coin((0.2 + 0.5 * e * theta[1]) * w) + theta[0]) ** 2 for w in W)


def lanes_of_both(coin, theta):
    return jax.vmap(lambda w: one(coin, theta * w))(W).sum()


def lanes_of_both_law(draw, theta):
    return sum(one_law(draw, theta * w) for w in W)


def mixed(coin, theta):
    e = enumerated(theta[0])
    return (e + 2 * jax.vmap(coin)((0.2 + 0.5 * e * theta[1]) * W[:2]).sum() + theta[0]) ** 2


def mixed_law(draw, theta):
    e = draw.coin(theta[0])
    return (e + 2 * sum(draw.coin((0.2 + 0.5 * e * theta[1]) * w) for w in W[:2]) + theta[0]) ** 2


def chain(coin, theta):
    e = enumerated(theta[0])
    x = coin(0.2 + 0.5 * theta[1] * enumerated(theta[0] / 2 + 0.2 * e))
    return (e + x * enumerated(0.3 + 0.5 * x * theta[1]) + theta[0]) ** 2 + x * e


def chain_law(draw, theta):
    e = draw.coin(theta[0])
    x = draw.coin(0.2 + 0.5 * theta[1] * draw.coin(theta[0] / 2 + 0.2 * e))
    return (e + x * draw.coin(0.3 + 0.5 * x * theta[1]) + theta[0]) ** 2 + x * e


def branch(coin, theta):
    e = enumerated(theta[0])
    return (lax.cond(e == 1, lambda: coin(theta[1]) * theta[0], lambda: 2 + theta[0]) + theta[1]) ** 2


def branch_law(draw, theta):
    e = draw.coin(theta[0])
    return ((draw.coin(theta[1]) * theta[0] if e else 2 + theta[0]) + theta[1]) ** 2


def steps(coin, theta):
    e = enumerated(theta[0])
    step = lambda total, w: (total + (w * coin(0.2 + 0.5 * e * theta[1]) + e) ** 2, None)
    return lax.scan(step, theta[0], jnp.asarray(W[:2]))[0]


def steps_law(draw, theta):
    e = draw.coin(theta[0])
    return theta[0] + sum((w * draw.coin(0.2 + 0.5 * e * theta[1]) + e) ** 2 for w in W[:2])


def lanes_of_scans(coin, theta):
    """Lanes and steps, below lanes of an enumerated choice."""
    e = enumerated(theta[0] * jnp.asarray(W[:2]))
    body = lambda e: lax.scan(lambda c, w: (c + coin(0.2 + 0.5 * e * theta[1]) * w, None), e, jnp.asarray(W[:2]))[0]
    return (jax.vmap(body)(e) ** 2).sum() * theta[1]


def lanes_of_scans_law(draw, theta):
    total = 0.0
    for lane in W[:2]:
        e = draw.coin(theta[0] * lane)
        total = total + (e + sum(draw.coin(0.2 + 0.5 * e * theta[1]) * w for w in W[:2])) ** 2
    return total * theta[1]


def checkpointed(coin, theta):
    e = enumerated(theta[0])
    return jax.checkpoint(lambda e: (e + 2 * coin(0.2 + 0.5 * e * theta[1])) ** 2)(e)


def checkpointed_law(draw, theta):
    e = draw.coin(theta[0])
    return (e + 2 * draw.coin(0.2 + 0.5 * e * theta[1])) ** 2


PROGRAMS = {
    name: (globals()[name], globals()[f"{name}_law"])
    for name in (
        *("one", "lanes", "lanes_of_both", "mixed", "chain"),
        *("branch", "steps", "lanes_of_scans", "checkpointed"),
    )
}
STRATEGIES = {
    "mvd": mvd(),
    "leave_one_out_lanes": reinforce(leave_one_out_lanes()),
    "learned": reinforce(learned(lambda b: b, 1.3)),
}


def coin_of(strategy):
    return lambda p: bernoulli(p, grad=strategy).sample().astype(float)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", PROGRAMS)
def test_exact_below_an_enumerated_choice(name, strategy):
    program, law = PROGRAMS[name]
    if name == "mixed" and strategy == "leave_one_out_lanes":
        with pytest.raises(ppl.StrategyError, match="depends on several"):
            ppl.exact_gradient(lambda theta: program(coin_of(STRATEGIES[strategy]), theta))(jnp.asarray(THETA))
        return
    exact = ppl.exact_gradient(lambda theta: program(coin_of(STRATEGIES[strategy]), theta))(jnp.asarray(THETA))
    value, gradient = enumerate_law(law, THETA)
    np.testing.assert_allclose((exact.value, *exact.gradient), (value, *gradient), rtol=1e-10)
    run = ppl.value_and_grad(lambda theta: program(coin_of(STRATEGIES[strategy]), theta))
    for eager, jitted in zip(*(f(KEY, jnp.asarray(THETA)) for f in (run, jax.jit(run))), strict=True):
        np.testing.assert_allclose(eager, jitted, rtol=1e-10)


@pytest.mark.parametrize("name", ["one", "chain", "steps"])
def test_sampled_below_an_enumerated_choice(name):
    program, law = PROGRAMS[name]
    run = ppl.value_and_grad(lambda theta: program(coin_of(leave_one_out(3)), theta))
    assert_unbiased(lambda key: run(key, jnp.asarray(THETA)), enumerate_law(law, THETA), KEY)


def test_a_measure_valued_derivative_of_a_mixture():
    """x ~ N(m e, 1) below a coin e: E x**2 = 1 + p m**2."""

    def mixture(theta):
        return normal(theta[1] * enumerated(theta[0]), 1.0, grad=mvd()).sample() ** 2

    truth = jax.value_and_grad(lambda theta: 1 + theta[0] * theta[1] ** 2)(jnp.asarray(THETA))
    assert_unbiased(lambda key: ppl.value_and_grad(mixture)(key, jnp.asarray(THETA)), truth, KEY)


def test_the_regression_of_a_baseline_that_sees_the_enumerated_choice():
    """Below e, the baseline b(e) follows the mean cost given e: its gradient is a mean over e, and x does not see e."""

    def program(theta, phi):
        e = enumerated(theta[0])
        baseline = learned(lambda phi, e: phi[0] + phi[1] * e, phi, e)
        x = bernoulli(theta[1], grad=reinforce(baseline)).sample().astype(float)
        return (x + e + theta[0]) ** 2

    law = lambda draw, theta: (draw.coin(theta[1]) + draw.coin(theta[0]) + theta[0]) ** 2

    def squares(draw, phi):
        e, x = draw.coin(THETA[0]), draw.coin(THETA[1])
        return -(((x + e + THETA[0]) ** 2 - phi[0] - phi[1] * e) ** 2) / 2

    phi = np.array([0.4, -0.8])
    exact = ppl.exact_gradient(program, argnums=(0, 1))(jnp.asarray(THETA), jnp.asarray(phi))
    np.testing.assert_allclose(exact.gradient[0], enumerate_law(law, THETA)[1], rtol=1e-10)
    np.testing.assert_allclose(exact.gradient[1], enumerate_law(squares, phi)[1], rtol=1e-10)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_below_an_enumerated_choice_of_the_same_step_is_refused(strategy):
    step = lambda theta: lambda total, _: (total + one(coin_of(STRATEGIES[strategy]), theta), None)
    program = lambda theta: lax.scan(step(theta), 0.0, None, length=2)[0]
    with pytest.raises(ppl.StrategyError, match="enumerated one of a scan"):
        ppl.grad(program)(KEY, jnp.asarray(THETA))


def test_a_choice_without_a_strategy_below_an_enumerated_one():
    """Its parameters have no derivative, so none is asked for."""
    program = lambda p: (enumerated(p) + bernoulli(0.3 + 0.2 * (enumerated(0.4) > 0)).sample()) * 1.0
    np.testing.assert_allclose(ppl.exact_gradient(program)(0.3).gradient, 1.0, rtol=1e-10)
