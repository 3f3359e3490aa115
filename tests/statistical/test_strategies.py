"""Strategies that look at costs: exact where the noise is finite, z-tests against closed forms elsewhere."""

import dataclasses

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax import lax

import ppl
from estimators import constant, implicit, leave_one_out, leave_one_out_lanes, mvd, reinforce
from ppl import bernoulli, categorical, gen, normal
from tests.statistics import assert_unbiased

pytestmark = pytest.mark.x64

KEY = jr.key(0)


@dataclasses.dataclass(frozen=True)
class two_values(ppl.Strategy):  # noqa: N801
    """A user's own strategy: the difference of the costs of both values."""

    def estimate(self, key, d, k):
        """Weigh the costs of both values."""
        probs = d.params["probs"]
        return probs * k(1) + (1 - probs) * k(0)


EXACT = {"reinforce": reinforce(), "constant": reinforce(constant(0.7)), "mvd": mvd(), "own": two_values()}


def flips(strategy):
    return lambda p: bernoulli(p, grad=strategy).sample().astype(float)


def nested(flip):
    inner = gen(lambda p: flip(p))
    return lambda p: (inner(p) @ "a") * (1 + (inner(p) @ "b"))


PROGRAMS = {  # a program of a coin and p, with its mean
    "one": (lambda flip: lambda p: (flip(p) - 0.45) ** 2, lambda p: p * 0.3025 + (1 - p) * 0.2025),
    "branch": (lambda flip: lambda p: lax.cond(flip(p) == 1, lambda: 0.0, lambda: -p / 2), lambda p: (p**2 - p) / 2),
    "three": (lambda flip: lambda p: (flip(p) + flip(p) + flip(p)) ** 2, lambda p: 3 * p + 6 * p**2),
    "scan, shared": (
        lambda flip: lambda p: lax.scan(lambda c, _: (c + flip(p), None), 0.0, None, length=3)[0] ** 2,
        lambda p: 3 * p + 6 * p**2,
    ),
    "scan, apart": (
        lambda flip: lambda p: lax.scan(lambda c, _: (c + (flip(p) + 1) ** 2, None), 0.0, None, length=3)[0],
        lambda p: 3 + 9 * p,
    ),
    "scan backwards": (
        lambda flip: (
            lambda p: (
                lax.scan(lambda c, x: (c + flip(p) * x, c), 0.0, jnp.array([1.0, 2.0, 3.0]), reverse=True)[1][0] ** 2
            )
        ),
        lambda p: 4 * p + 9 * p + 12 * p**2,
    ),
    "lanes, shared": (lambda flip: lambda p: jax.vmap(flip)(jnp.full(3, p)).sum() ** 2, lambda p: 3 * p + 6 * p**2),
    "lanes, apart": (lambda flip: lambda p: ((jax.vmap(flip)(jnp.full(3, p)) + 1) ** 2).sum(), lambda p: 3 + 9 * p),
    "batch, mixed": (
        lambda flip: lambda p: (flip(jnp.full((2, 2), p)).sum(1) ** 2).sum(),
        lambda p: 2 * (2 * p + 2 * p**2),
    ),
    "scan in lanes": (
        lambda flip: (
            lambda p: jax.vmap(lambda q: lax.scan(lambda c, _: (c + flip(q), None), 0.0, None, length=2)[0] ** 2)(
                jnp.full(2, p)
            ).sum()
        ),
        lambda p: 2 * (2 * p + 2 * p**2),
    ),
    "checkpoint": (lambda flip: lambda p: jax.checkpoint(flip)(p) * p, lambda p: p**2),
    "nested": (nested, lambda p: p + p**2),
    "in a branch": (
        lambda flip: lambda p: lax.cond(p > 0.2, lambda: 2 * flip(p), lambda: flip(p)) ** 2,
        lambda p: 4 * p,
    ),
}


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("strategy", EXACT)
def test_exact_where_the_noise_is_finite(name, strategy):
    make, mean = PROGRAMS[name]
    exact = ppl.exact_gradient(make(flips(EXACT[strategy])))(0.3)
    np.testing.assert_allclose(exact.value, mean(0.3), rtol=1e-10)
    np.testing.assert_allclose(exact.gradient, jax.grad(mean)(0.3), rtol=1e-10)
    value, gradient = jax.jit(ppl.value_and_grad(make(flips(EXACT[strategy]))))(KEY, 0.3)
    assert np.isfinite(value)
    assert np.isfinite(gradient)


def test_tabulated_variances():
    """Reference, sections 5 and 10: enumeration 0, score function 1/150, measure-valued derivative 6/100."""
    program = PROGRAMS["branch"][0]
    variances = [float(ppl.exact_gradient(program(flips(s)))(0.4).variance) for s in (reinforce(), mvd())]
    np.testing.assert_allclose(variances, [0.0066667, 0.06], rtol=1e-4)


def test_second_derivatives():
    cost = lambda strategy: lambda p: lax.cond(flips(strategy)(p) == 1, lambda: p, lambda: p**2)
    second = lambda strategy: ppl.exact_gradient(lambda p: cost(strategy)(p))(0.3)
    assert second(reinforce(constant(0.4))).gradient == pytest.approx(4 * 0.3 - 3 * 0.09)
    program = cost(reinforce(constant(0.4)))
    both = lambda key: (ppl.expect(program)(key, 0.3), ppl.hessian(program)(key, 0.3))
    assert_unbiased(both, (2 * 0.09 - 0.027, 2.2), KEY)
    with pytest.raises(ppl.StrategyError, match="second derivative"):
        ppl.hessian(cost(mvd()))(KEY, 0.3)


def test_lanes_are_the_baseline_of_one_another():
    program = lambda baseline: lambda p: ((jax.vmap(flips(reinforce(baseline)))(jnp.full(4, p)) + 10.0) ** 2).sum()
    plain, others = (ppl.exact_gradient(program(b))(0.3) for b in (None, leave_one_out_lanes()))
    np.testing.assert_allclose(others.gradient, plain.gradient, rtol=1e-10)
    assert others.variance < plain.variance / 50


def test_lanes_that_share_costs_are_no_baseline():
    shared = lambda p: jax.vmap(flips(reinforce(leave_one_out_lanes())))(jnp.full(4, p)).sum() ** 2
    with pytest.raises(ppl.StrategyError, match="depends on several"):
        ppl.grad(shared)(KEY, 0.3)


below = jax.scipy.stats.norm.cdf
steps = lambda strategy: (
    lambda m: lax.scan(lambda c, _: (c + normal(m, 1.0, grad=strategy).sample(), None), 0.0, None, length=3)[0]
)
SAMPLED = {  # program of a parameter, the parameter, and the mean
    "poisson": (lambda r: ppl.poisson(r, grad=mvd()).sample() ** 2.0, 1.5, lambda r: r + r**2),
    "normal mean, step": (lambda m: (normal(m, 1.0, grad=mvd()).sample() > 0) * 1.0, 0.5, below),
    "normal scale": (lambda s: normal(0.3, s, grad=mvd()).sample() ** 2, 0.7, lambda s: 0.09 + s**2),
    "normal lanes": (
        lambda m: (jax.vmap(lambda x: normal(x, 1.0, grad=mvd()).sample())(jnp.full(3, m)) ** 2).sum(),
        0.5,
        lambda m: 3 * m**2 + 3,
    ),
    "exponential": (lambda r: ppl.exponential(r, grad=mvd()).sample(), 2.0, lambda r: 1 / r),
    "gamma": (lambda r: ppl.gamma(2.5, r, grad=mvd()).sample() ** 2, 2.0, lambda r: 8.75 / r**2),
    "walk": (lambda m: steps(mvd())(m) ** 2, 0.5, lambda m: 9 * m**2 + 3),
    "leave one out": (lambda m: (normal(m, 1.0, grad=leave_one_out(3)).sample() > 0) * 1.0, 0.5, below),
    "leave one out, steps": (lambda m: steps(leave_one_out())(m) ** 2, 0.5, lambda m: 9 * m**2 + 3),
    "dependent": (
        lambda p: (lambda x: x * flips(leave_one_out())(0.2 + 0.5 * x))(flips(mvd())(p)),
        0.3,
        lambda p: 0.7 * p,
    ),
    "implicit": (lambda a: ppl.gamma(a, 1.0, grad=implicit()).sample() ** 2, 2.5, lambda a: a * (a + 1)),
}


@pytest.mark.parametrize("name", SAMPLED)
def test_unbiased_where_the_noise_is_not_finite(name):
    program, parameter, mean = SAMPLED[name]
    truth = jax.value_and_grad(mean)(parameter)
    assert_unbiased(lambda key: ppl.value_and_grad(program)(key, parameter), truth, KEY)


def test_a_categorical_choice_looks_at_every_value():
    mean = lambda t: jax.nn.softmax(t * jnp.arange(3.0)) @ jnp.arange(3.0)
    exact = ppl.exact_gradient(lambda t: categorical(logits=t * jnp.arange(3.0), grad=mvd()).sample() * 1.0)(0.3)
    np.testing.assert_allclose(exact.gradient, jax.grad(mean)(0.3), rtol=1e-10)
    np.testing.assert_allclose(exact.variance, 0, atol=1e-20)


@pytest.mark.parametrize("strategy", [mvd(), leave_one_out(2)], ids=str)
def test_steps_that_depend_on_earlier_steps(strategy):
    """x_t ~ N(1.3 x_{t-1}, 1): later choices are drawn anew for each value of an earlier one."""
    step = lambda c, _: (c + normal(0.3 * c, 1.0, grad=strategy).sample(), None)
    walk = lambda m: lax.scan(step, m, None, length=3)[0] ** 2
    truth = jax.value_and_grad(lambda m: 1.3**6 * m**2 + 1 + 1.3**2 + 1.3**4)(0.5)
    assert_unbiased(lambda key: ppl.value_and_grad(walk)(key, 0.5), truth, KEY)


WRONG = {
    "concentration": (lambda a: ppl.gamma(a, 1.0, grad=mvd()).sample(), "`concentration`"),
    "a large result": (lambda p: flips(mvd())(p) * jnp.ones(5000), "each element of a result"),
    "under enumeration in a scan": (
        lambda p: lax.scan(lambda c, _: (c + flips(mvd())(flips(ppl.enum())(p)), None), p, None, length=2)[0],
        "enumerated one of a scan",
    ),
    "too many": (lambda p: jax.vmap(flips(mvd()))(jnp.full(5000, p)).sum() ** 2, "one by one|by itself"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_done_is_refused(name):
    program, text = WRONG[name]
    run = jax.grad(lambda p: ppl.expect(program)(KEY, p).sum())
    with pytest.raises(ppl.StrategyError, match=text):
        run(0.3)


def test_families_without_a_pair_are_refused_at_the_choice():
    with pytest.raises(ppl.StrategyError, match="does not apply"):
        ppl.seed(lambda: ppl.student_t(3.0, grad=mvd()).sample())(KEY)
    with pytest.raises(ppl.StrategyError, match="no implicit derivative"):
        ppl.seed(lambda: normal(0.0, 1.0, grad=implicit()).sample())(KEY)
