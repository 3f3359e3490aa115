"""ARM, DisARM, Rao-Blackwellised lanes and importance sampling: exactly over their noise, then in whole programs."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro.distributions as dist
import pytest

import ppl
from estimators import (
    arm,
    disarm,
    importance,
    leave_one_out,
    mvd,
    rao_blackwell,
    rebar,
    reinforce,
    relax,
    stochastic_perturbation,
    unordered,
)
from ppl import bernoulli, categorical
from tests.statistics import assert_unbiased
from tests.strategies.exactly import costs, distribution, moments, unit_interval

pytestmark = pytest.mark.x64

KEY = jr.key(1)
LOGITS = [-1.3, 0.0, 0.7]
K = lambda b: (b - 0.45) ** 2 + 3.0 * b + 10.0


def truth(logit):
    return jax.grad(lambda x: jax.nn.sigmoid(x) * K(1.0) + jax.nn.sigmoid(-x) * K(0.0))(logit)


@pytest.mark.parametrize("logit", LOGITS)
@pytest.mark.parametrize("strategy", [arm(), disarm()], ids=str)
def test_the_mean_over_the_uniform_number_is_exact(strategy, logit):
    prob = float(jax.nn.sigmoid(logit))
    u, weights = unit_interval(prob, 1 - prob)
    estimate = lambda u, x: strategy.given(u, distribution("bernoulli", logits=x), costs(K))
    mean, variance = moments(estimate, logit, u, weights)
    np.testing.assert_allclose(mean, truth(logit), rtol=1e-10)
    by_score = ppl.exact_gradient(lambda x: K(bernoulli(logits=x, grad=reinforce()).sample() * 1.0))(logit).variance
    assert variance < by_score


@pytest.mark.parametrize("logit", LOGITS)
def test_disarm_is_the_mean_of_arm_given_both_flips(logit):
    prob = float(jax.nn.sigmoid(logit))
    u, weights = unit_interval(prob, 1 - prob)
    of = lambda strategy: jax.vmap(
        jax.grad(lambda x, u: strategy.given(u, distribution("bernoulli", logits=x), costs(K))), (None, 0)
    )(logit, u)
    first, second = of(arm()), of(disarm())
    flips = 2 * (1 - u < prob) + (u < prob)
    for pair in range(4):
        chosen = np.asarray(flips == pair)
        if chosen.any():
            np.testing.assert_allclose(
                weights[chosen] @ first[chosen], weights[chosen] @ second[chosen], rtol=1e-9, atol=1e-12
            )
    (_, by_arm), (_, by_disarm) = (
        moments(lambda u, x, s=s: s.given(u, distribution("bernoulli", logits=x), costs(K)), logit, u, weights)
        for s in (arm(), disarm())
    )
    assert by_disarm < by_arm


def test_the_variances_that_the_docstrings_state():
    """At logit 0 and k = (b + 10)**2: 9.19 with ARM, 0 with DisARM, (121 + 100)**2 / 16 with the score."""
    square = lambda b: (b + 10.0) ** 2
    u, weights = unit_interval(0.5)
    estimate = lambda s: lambda u, x: s.given(u, distribution("bernoulli", logits=x), costs(square))
    mean, variance = moments(estimate(arm()), 0.0, u, weights)
    np.testing.assert_allclose([mean, variance], [5.25, 21**2 / 12 - 5.25**2], rtol=1e-10)
    np.testing.assert_allclose(moments(estimate(disarm()), 0.0, u, weights)[1], 0, atol=1e-18)
    score = ppl.exact_gradient(lambda x: square(bernoulli(logits=x, grad=reinforce()).sample() * 1.0))(0.0)
    np.testing.assert_allclose(score.variance, (121 / 2 + 100 / 2) ** 2 / 4, rtol=1e-10)


@pytest.mark.parametrize("strategy", [arm(), disarm()], ids=str)
def test_probabilities_and_logits_are_one_strategy(strategy):
    by_logit = lambda x: bernoulli(logits=x, grad=strategy).sample() * 2.0 + 1.0
    by_prob = lambda x: bernoulli(jax.nn.sigmoid(x), grad=strategy).sample() * 2.0 + 1.0
    first, second = (ppl.grad(f)(KEY, 0.4) for f in (by_logit, by_prob))
    np.testing.assert_allclose(first, second, rtol=1e-9)


def lanes(strategy):
    return lambda p: (jax.vmap(lambda q: bernoulli(q, grad=strategy).sample())(jnp.full(3, p)).sum() + 0.5) ** 2


LANES = lambda p: 3 * p + 6 * p**2 + 3 * p + 0.25  # E (S + 1/2)**2


@pytest.mark.parametrize("strategy", [arm(), disarm()], ids=str)
def test_lanes_that_share_a_cost_flip_at_once(strategy):
    truth = jax.value_and_grad(LANES)(0.3)
    assert_unbiased(lambda key: ppl.value_and_grad(lanes(strategy))(key, 0.3), truth, KEY)


def test_two_evaluations_for_all_lanes():
    """The work of vector DisARM does not grow with the number of coins but for the cost itself."""
    shared = lambda n: lambda p: jnp.tanh(bernoulli(jnp.full(n, p), grad=disarm()).sample().sum())
    tanhs = [str(jax.make_jaxpr(jax.grad(ppl.expect(shared(n)), 1))(KEY, 0.3)).count(" tanh ") for n in (2, 40)]
    assert tanhs[0] == tanhs[1]
    assert ":f64[40] = tanh" not in str(jax.make_jaxpr(jax.grad(ppl.expect(shared(40)), 1))(KEY, 0.3))


class TestRaoBlackwell:
    def test_one_coin_has_no_noise(self):
        exact = ppl.exact_gradient(lambda x: K(bernoulli(logits=x, grad=rao_blackwell()).sample() * 1.0))(0.7)
        np.testing.assert_allclose(exact.gradient, truth(0.7), rtol=1e-12)
        np.testing.assert_allclose(exact.variance, 0, atol=1e-20)

    def test_lanes_are_looked_at_one_by_one(self):
        """The formula of the reference: sum_i dp_i (k(1, b_-i) - k(0, b_-i)), over all outcomes of the others."""
        exact = ppl.exact_gradient(lanes(rao_blackwell()))(0.3)
        np.testing.assert_allclose(exact.gradient, jax.grad(LANES)(0.3), rtol=1e-12)
        outcomes = np.array([[a, b, c] for a in (0, 1) for b in (0, 1) for c in (0, 1)])
        probs = np.where(outcomes, 0.3, 0.7).prod(1)
        k = lambda s: (s + 0.5) ** 2
        by_hand = sum(k(outcomes.sum(1) - outcomes[:, i] + 1) - k(outcomes.sum(1) - outcomes[:, i]) for i in range(3))
        np.testing.assert_allclose(probs @ by_hand, exact.gradient, rtol=1e-12)
        np.testing.assert_allclose(probs @ (by_hand - probs @ by_hand) ** 2, exact.variance, rtol=1e-12)

    def test_the_example_of_the_docstring(self):
        cost = lambda s: lambda p: bernoulli(jnp.full(2, p), grad=s).sample().sum() ** 2.0
        rao, score = (ppl.exact_gradient(cost(s))(0.3) for s in (rao_blackwell(), reinforce()))
        np.testing.assert_allclose([rao.gradient, rao.variance], [3.2, 1.68], rtol=1e-12)
        np.testing.assert_allclose(
            score.variance, 0.09 * (8 / 0.3) ** 2 + 0.42 * (1 / 0.3 - 1 / 0.7) ** 2 - 3.2**2, rtol=1e-10
        )

    @pytest.mark.parametrize("make", [ppl.categorical, ppl.binomial], ids=["categorical", "binomial"])
    def test_other_finite_supports(self, make):
        draw = {
            ppl.categorical: lambda t, s: categorical(logits=t * jnp.arange(4.0), grad=s),
            ppl.binomial: lambda t, s: ppl.binomial(3, t, grad=s),
        }[make]
        rao, summed = (
            ppl.exact_gradient(lambda t, s=s: draw(t, s).sample() ** 2.0)(0.3) for s in (rao_blackwell(), ppl.enum())
        )
        np.testing.assert_allclose(rao.gradient, summed.gradient, rtol=1e-11)
        np.testing.assert_allclose(rao.variance, 0, atol=1e-18)


class TestImportance:
    @pytest.mark.parametrize("other", [0.1, 0.5, 0.9])
    def test_all_values_of_a_finite_support(self, other):
        x = jnp.array([0, 1])
        proposal = jnp.array([1 - other, other])
        strategy = importance(lambda probs: dist.Bernoulli(other))
        estimate = lambda x, p: strategy.given(x, distribution("bernoulli", probs=p), costs(K), jnp.log(proposal)[x])
        mean, _ = moments(estimate, 0.3, x, proposal)
        np.testing.assert_allclose(mean, K(1.0) - K(0.0), rtol=1e-12)

    def test_a_value_outside_of_the_support_weighs_nothing(self):
        strategy = importance(lambda rate: dist.Normal(0.0, 1.0))
        d = lambda rate: distribution("exponential", rate=rate)
        inside, outside = (
            jax.value_and_grad(lambda r, x=x: strategy.given(x, d(r), costs(lambda x: x), 0.0))(2.0)
            for x in (jnp.asarray(1.0), jnp.asarray(-1.0))
        )
        assert inside[1] != 0
        assert outside == (0, 0)

    def test_quadrature_over_a_wider_normal(self):
        nodes, weights = np.polynomial.hermite_e.hermegauss(80)
        x, weights = jnp.asarray(0.2 + 1.4 * nodes), jnp.asarray(weights / weights.sum())
        log_q = dist.Normal(0.2, 1.4).log_prob
        strategy = importance(lambda loc, scale: dist.Normal(0.2, 1.4))
        estimate = lambda x, m: strategy.given(
            x, distribution("normal", loc=m, scale=1.0), costs(lambda x: x**3), log_q(x)
        )
        np.testing.assert_allclose(moments(estimate, 0.5, x, weights)[0], 3 * 0.25 + 3, rtol=1e-9)

    @pytest.mark.parametrize("lane", [False, True])
    def test_lanes_and_batches_draw_values_of_their_own(self, lane):
        strategy = importance(lambda loc, scale: dist.Normal(loc, 1.3 * scale))
        one = lambda m: ppl.normal(m, 1.0, grad=strategy).sample()
        both = lambda m: (jax.vmap(one)(jnp.full(2, m)) if lane else one(jnp.full(2, m))).prod() + m
        truth = jax.value_and_grad(lambda m: m**2 + m)(0.5)
        assert_unbiased(lambda key: ppl.value_and_grad(both)(key, 0.5), truth, KEY)

    @pytest.mark.parametrize(
        ("proposal", "got"),
        [(lambda probs: dist.Normal(0.0, 1.0), "float"), (lambda probs: dist.Bernoulli(jnp.ones(3) / 2), "(3,)")],
        ids=["continuous", "shape"],
    )
    def test_a_proposal_of_other_values_is_refused(self, proposal, got):
        with pytest.raises(ppl.StrategyError, match="does not draw values of") as caught:
            ppl.grad(lambda p: bernoulli(p, grad=importance(proposal)).sample() * 1.0)(KEY, 0.3)
        assert {"where", "expected", "got", "remedy"} <= set(caught.value.details)
        assert got in caught.value.details["got"]

    def test_a_moving_support_is_refused(self):
        with pytest.raises(ppl.StrategyError, match="moves with its parameters"):
            ppl.seed(lambda: ppl.uniform(0.0, 1.0, grad=importance(lambda low, high: dist.Uniform())).sample())(KEY)


@pytest.mark.parametrize("strategy", [arm(), disarm()], ids=str)
def test_other_families_are_refused(strategy):
    with pytest.raises(ppl.StrategyError, match="it is for bernoulli"):
        ppl.seed(lambda: ppl.poisson(1.0, grad=strategy).sample())(KEY)
    with pytest.raises(ppl.StrategyError, match="not finite"):
        ppl.seed(lambda: ppl.poisson(1.0, grad=rao_blackwell()).sample())(KEY)


OWN_NOISE = [
    arm(),
    disarm(),
    importance(lambda probs: dist.Bernoulli(probs=probs)),
    leave_one_out(2),
    rebar(),
    relax(lambda level, z: level * z, jnp.array(1.0)),
    stochastic_perturbation(),
    unordered(2),
]


@pytest.mark.parametrize("strategy", OWN_NOISE, ids=str)
def test_noise_of_a_strategy_is_not_enumerated(strategy):
    """`exact_gradient` says so, and where; strategies that draw nothing are enumerated."""
    with pytest.raises(ppl.StrategyError, match="noise of its own") as caught:
        ppl.exact_gradient(lambda p: (bernoulli(p, grad=strategy).sample() - 0.45) ** 2)(0.3)
    assert "test_coins.py" in caught.value.details["where"]
    assert "ppl.grad" in caught.value.details["remedy"]


def test_steps_of_a_chain_under_joint_evaluation():
    """Each coin's probability depends on the one before: steps are looked at one by one, lanes at once."""

    def program(strategy):
        def chain(p):
            step = lambda b, _: (lambda new: (new * 1.0, new))(bernoulli(p * (0.5 + 0.5 * b), grad=strategy).sample())
            return jax.lax.scan(step, 1.0, None, length=3)[1].sum() ** 2.0

        return lambda p: jax.vmap(chain)(jnp.full(2, p)).prod()

    exact = ppl.exact_gradient(program(ppl.enum()))(0.4)
    check = lambda key: ppl.value_and_grad(program(disarm()))(key, 0.4)
    assert_unbiased(check, (exact.value, exact.gradient), KEY)
    assert ppl.exact_gradient(program(mvd())) is not None
