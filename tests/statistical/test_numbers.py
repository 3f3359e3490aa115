"""Numbers computed elsewhere (sheet = core_reference.md; elsewhere derived in the test) for the three strategies."""

import math

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax import lax

import ppl
from estimators import elbo, iwelbo
from ppl import enum, pathwise, reinforce
from tests.statistics import assert_unbiased, expectation

pytestmark = pytest.mark.x64
DISCRETE = [enum, reinforce]
both = pytest.mark.parametrize("strategy", DISCRETE)


def flip(p, strategy):
    return ppl.bernoulli(p, grad=strategy()).sample()


def close(actual, expected, digits=10):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=0.51 * 10.0**-digits)


def check(f, theta, value, gradient, digits=10):
    """Compare the exact mean of value and gradient with printed digits; return the exact result."""
    exact = ppl.exact_gradient(f)(theta)
    close(exact.value, value, digits)
    close(exact.gradient, gradient, digits)
    return exact


def unbiased(f, theta, value, gradient, **options):
    """The same for noise that is not finite, within 4.5 standard errors."""
    assert_unbiased(lambda key: ppl.value_and_grad(f)(key, theta), (value, gradient), jr.key(3), **options)


# --- Sheet, section 5: A1, A2 ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("strategy", "variance"), [(enum, 0.0), (reinforce, 0.0066667)])
@pytest.mark.parametrize("construct", ["where", "cond"])
def test_a1(strategy, variance, construct):
    def f(p):
        b = flip(p, strategy)
        return jnp.where(b, 0.0, -p / 2) if construct == "where" else lax.cond(b == 1, lambda: 0.0, lambda: -p / 2)

    exact = check(f, 0.4, -0.12, -0.1)
    close(exact.variance, variance, 7)


@both
def test_a2_expectation_of_exp_is_not_exp_of_expectation(strategy):
    exact = ppl.exact_gradient(lambda p: jnp.exp(jnp.where(flip(p, strategy), 0.0, -p / 2)))(0.4)
    close(exact.value, 0.8912385, 7)
    close(exact.gradient, 1 - 0.6 * 0.5 * math.exp(-0.2) - math.exp(-0.2), 10)
    assert abs(float(exact.value) - 0.8869204) > 0.004


# --- Sheet, section 6 --------------------------------------------------------------------------------------------


def sheet_6_continuous():
    x = lambda choice: choice.sample().astype(float)
    indicator = lambda x: jnp.where(x > 0, 1.0, 0.0)
    return [
        ("poisson", lambda r: x(ppl.poisson(r, grad=reinforce())) ** 2, 1.5, 3.75, 4.0),
        ("gamma-mean", lambda a: x(ppl.gamma(a, 1.0)), 2.5, 2.5, 1.0),
        ("gamma-square", lambda a: x(ppl.gamma(a, 1.0)) ** 2, 2.5, 8.75, 6.0),
        ("beta", lambda a: x(ppl.beta(a, 3.0)), 2.0, 0.4, 0.12),
        ("indicator", lambda mu: indicator(x(ppl.normal(mu, 1.0, grad=reinforce()))), 0.5, 0.6914625, 0.3520653),
        ("exponential-pathwise", lambda r: x(ppl.exponential(r)), 2.0, 0.5, -0.25),
        ("exponential-score", lambda r: x(ppl.exponential(r, grad=reinforce())), 2.0, 0.5, -0.25),
        ("uniform", lambda t: x(ppl.uniform(0.0, t)) ** 2, 1.5, 0.75, 1.0),
    ]


@pytest.mark.parametrize("row", sheet_6_continuous(), ids=lambda row: row[0])
def test_section_6(row):
    unbiased(*row[1:])


def test_section_6_uniform_by_score_is_refused():
    f = lambda t: ppl.uniform(0.0, t, grad=reinforce()).sample() ** 2
    with pytest.raises(ppl.UnsoundGradientError, match="moves with its parameters"):
        ppl.grad(f)(jr.key(0), 1.5)
    assert np.isfinite(ppl.expect(f)(jr.key(0), 1.5))


@both
def test_section_6_categorical(strategy):
    f = lambda t: ppl.categorical(logits=t * jnp.arange(3.0), grad=strategy()).sample().astype(float)
    probs = np.exp(0.3 * np.arange(3)) / np.exp(0.3 * np.arange(3)).sum()
    variance = probs @ np.arange(3) ** 2 - (probs @ np.arange(3)) ** 2  # .6376; the sheet's .6377 is of rounded digits
    check(f, 0.3, probs @ np.arange(3), variance)
    close([probs @ np.arange(3), variance], [1.1971, 0.6377], 3)


# --- Sheet, section 8 --------------------------------------------------------------------------------------------


@both
def test_section_8_flips_in_scan(strategy):
    f = lambda p: lax.scan(lambda s, _: (s + flip(p, strategy), None), jnp.int32(0), None, 3)[0].astype(float) ** 2
    check(f, 0.3, 3 * 0.3 * 0.7 + 0.81, 6.6)


@pytest.mark.parametrize("strategy", [pathwise, reinforce])
def test_section_8_normals_in_scan(strategy):
    draw = lambda mu: ppl.normal(mu, 1.0, grad=strategy()).sample()
    f = lambda mu: lax.scan(lambda s, _: (s + draw(mu), None), 0.0, None, 3)[0] ** 2
    unbiased(f, 0.5, 3 + 9 * 0.25, 9.0)


@both
def test_section_8_cond(strategy):
    def f(p):
        here = lambda: ppl.normal(p, 1.0, grad=pathwise()).sample()
        there = lambda: ppl.normal(2 * p, 1.0, grad=reinforce()).sample()
        return lax.cond(flip(p, strategy) == 1, here, there) ** 2

    unbiased(f, 0.3, 1 + 0.3 * 0.09 + 0.7 * 0.36, 1.59, chunk=2**18)


@both
def test_second_order_of_a_flip(strategy):
    f = lambda p: jnp.where(flip(p, strategy), p, p * p)
    close(mean_over_flips(lambda key, p: jax.grad(jax.grad(ppl.expect(f), 1), 1)(key, p), f, 0.3), 2.2)
    close(mean_over_flips(lambda key, p: jax.jacfwd(jax.jacrev(ppl.expect(f), 1), 1)(key, p), f, 0.3), 2.2)


@both
def test_third_order_of_a_flip(strategy):
    """E[b ? p : p^2] = 2 p^2 - p^3; E[b ? p^3 : p^4] = 2 p^4 - p^5, whose third derivative is 48 p - 60 p^2."""
    third = lambda f: lambda key, p: jax.grad(jax.grad(jax.grad(ppl.expect(f), 1), 1), 1)(key, p)
    f = lambda p: jnp.where(flip(p, strategy), p, p * p)
    close(mean_over_flips(third(f), f, 0.3), -6.0)
    f = lambda p: jnp.where(flip(p, strategy), p**3, p**4)
    close(mean_over_flips(third(f), f, 0.3), 48 * 0.3 - 60 * 0.09)


def mean_over_flips(derivative, f, p):
    """Average an estimate that one coin of probability p decides: its two results are told apart by their values."""
    keys = jr.split(jr.key(4), 32)
    coins = jax.vmap(lambda key: jnp.stack([ppl.expect(f)(key, p), derivative(key, p)]))(keys)
    results = np.unique(np.round(np.asarray(coins), 9), axis=0)
    if len(results) == 1:
        return coins[0, 1]
    first, second = (np.asarray(coins)[np.abs(coins[:, 0] - value) < 1e-8][0] for value in results[:, 0])
    taken = first if first[0] == p or first[0] == p**3 else second
    other = second if taken is first else first
    return p * taken[1] + (1 - p) * other[1]


@pytest.mark.parametrize("strategy", [pathwise, reinforce])
def test_second_order_of_a_normal(strategy):
    f = lambda mu: ppl.normal(mu, 1.0, grad=strategy()).sample() ** 3
    second = lambda key: jax.grad(jax.grad(ppl.expect(f), 1), 1)(key, 0.5)
    assert_unbiased(lambda key: (ppl.expect(f)(key, 0.5), second(key)), (0.125 + 1.5, 3.0), jr.key(5), chunk=2**18)


def mixed(draw, theta):
    """Coins by score and by enumeration and a normal whose location depends on both, inside and after a scan."""
    a = draw.score(theta[0])
    b = draw.sum(theta[1] * (0.5 + 0.4 * a))
    x = draw.normal(theta[0] * b + a * theta[1], 0.5)
    return (x + a * b) ** 2 * theta[1] + a * theta[0] ** 2 + b * x


class Mixed:
    """The draws of `mixed` in JAX."""

    score = staticmethod(lambda p: flip(p, reinforce).astype(float))
    sum = staticmethod(lambda p: flip(p, enum).astype(float))
    normal = staticmethod(lambda loc, scale: ppl.normal(loc, scale).sample())


def test_mixed_hessian():
    class Tree:
        def __init__(self, draws):
            self.score = self.sum = draws.coin
            self.normal = draws.normal

    theta = jnp.array([0.45, 0.6])
    mean = lambda theta: expectation(lambda draws, theta: mixed(Tree(draws), theta), theta)
    hessian, gradient = jax.hessian(mean)(theta), jax.grad(mean)(theta)
    expected = lambda key: ppl.expect(lambda theta: mixed(Mixed, theta))
    estimate = lambda key: jax.jacfwd(jax.grad(expected(key), 1), 1)(key, theta)
    first = lambda key: jax.grad(expected(key), 1)(key, theta)
    assert_unbiased(lambda key: (mean(theta) + 0 * first(key)[0], first(key), estimate(key)), (
        mean(theta), gradient, hessian), jr.key(6), power=0.03)  # fmt: skip


# --- Sheet, section 10 -------------------------------------------------------------------------------------------


def two_point(strategy):
    """T2P: weights W(1) = .24, W(0) = .07."""

    @ppl.gen
    def model(theta):
        z = ppl.bernoulli(0.3, grad=strategy()) @ "z"
        ppl.bernoulli(jnp.where(z, 0.8, 0.1)) @ "x"

    @ppl.gen
    def guide(theta, observed):
        ppl.bernoulli(theta, grad=strategy()) @ "z"

    return model, guide


OBSERVED = {"x": 1}
T2P = {1: (-1.3500410, 1.2321437), 2: (-1.2606120, 0.6837566), 3: (-1.2286420, 0.4449587), 5: (-1.2040471, 0.2514002)}


@both
@pytest.mark.parametrize("particles", T2P)
def test_iwelbo_of_two_points(strategy, particles):
    objective = lambda theta: iwelbo(*two_point(strategy), particles)(theta, OBSERVED)
    exact = check(objective, 0.5, *T2P[particles], digits=7)
    if strategy is enum:
        close(exact.variance, 0, 6)


@pytest.mark.parametrize(("strategy", "variance"), [(enum, 0.0), (reinforce, 22.0907708)])
def test_elbo_of_two_points(strategy, variance):
    objective = lambda theta: elbo(*two_point(strategy))(theta, OBSERVED)
    exact = check(objective, 0.5, *T2P[1], digits=7)
    close(exact.variance, variance, 6)  # ((2 + log .48 + log .14))**2 = 22.0907711
    check(objective, 0.3, -1.6787526, 2.0794415, digits=7)


def gaussian(strategy):
    """GC: x = 2, guide N(.5, .8)."""

    @ppl.gen
    def model(params):
        z = ppl.normal(0.0, 1.0) @ "z"
        ppl.normal(z, 1.0) @ "x"

    @ppl.gen
    def guide(params, observed):
        ppl.normal(params[0], params[1], grad=strategy()) @ "z"

    return model, guide


@pytest.mark.parametrize("strategy", [pathwise, reinforce])
@pytest.mark.parametrize(
    ("particles", "value", "gradient"), [(1, -2.5320821, [1.0, -0.35]), (2, -2.3857187, [0.5017988, 0.0794045])]
)
def test_iwelbo_of_gaussians(strategy, particles, value, gradient):
    f = lambda params: iwelbo(*gaussian(strategy), particles)(params, {"x": 2.0})
    options = {"chunk": 2**18} if strategy is pathwise else {"chunk": 2**19, "power": 0.04}
    unbiased(f, jnp.array([0.5, 0.8]), value, jnp.array(gradient), **options)


@pytest.mark.parametrize(("strategy", "variances"), [(pathwise, [2.56, 6.12]), (reinforce, [24.8900, 63.0636])])
def test_variance_of_the_elbo_of_gaussians(strategy, variances):
    """The sheet; ds pathwise: d/ds (-s^2 e^2 - 2 (m - 1) s e + log s) has variance 8 s^2 + 4 (m - 1)^2 = 6.12."""
    grad = jax.jit(jax.vmap(lambda key: ppl.grad(elbo(*gaussian(strategy)))(key, jnp.array([0.5, 0.8]), {"x": 2.0})))
    draws = np.asarray(grad(jr.split(jr.key(7), 400_000)))
    np.testing.assert_allclose(draws.var(0), variances, rtol=0.05)


# --- Sheet, section 15 -------------------------------------------------------------------------------------------


def two_sites(strategy):
    def f(theta):
        p, m = theta
        b = flip(p, strategy).astype(float)
        x = ppl.normal(b + m, 1.0, grad=pathwise()).sample()
        return x**2 + 3 * b

    return f


@both
def test_section_15(strategy):
    unbiased(two_sites(strategy), jnp.array([0.3, 0.5]), 2.75, jnp.array([5.0, 1.6]))


def test_section_15_enumeration_has_less_noise():
    keys, theta = jr.split(jr.key(8), 100_000), jnp.array([0.3, 0.5])
    run = lambda strategy: jax.jit(jax.vmap(lambda key: ppl.grad(two_sites(strategy))(key, theta)))(keys)
    summed, scored = run(enum), run(reinforce)
    assert summed[:, 0].var() < 0.5 * scored[:, 0].var()
    np.testing.assert_allclose(summed[:, 0].var(), 4.0, rtol=0.05)  # the two values of b share e: Var[2 e + 5]


# --- Enumeration of a choice in the carry ------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "refused"), [(2, False), (6, False), (64, True)])
def test_enumeration_of_a_chain(length, refused):
    def f(p):
        def step(carry, _):
            state, total = carry
            state = flip(0.2 + p * state / 2, enum).astype(float)
            return (state, total + state * total + state), None

        return lax.scan(step, (1.0, p), None, length)[0][1]

    def law(draw, p):
        state, total = 1.0, p
        for _ in range(length):
            state = draw.coin(0.2 + p * state / 2)
            total = total + state * total + state
        return total

    if refused:
        with pytest.raises(ppl.StrategyError, match="reaches later steps"):
            ppl.grad(f)(jr.key(0), 0.6)
        return
    mean = lambda p: expectation(law, p)
    check(f, 0.6, mean(0.6), (mean(0.6 + 1e-30j) / 1e-30).imag)
