"""Draws without replacement, rejection samplers, stochastic perturbations: by enumeration and quadrature."""

import itertools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax import lax
from scipy import special

import ppl
from estimators import elbo, leave_one_out, mvd, reinforce, rejection, stochastic_perturbation, unordered
from estimators.strategies.rejection import marsaglia_tsang, noise_of
from ppl import bernoulli, categorical, gen, normal
from tests.statistics import assert_unbiased
from tests.strategies.exactly import costs, distribution, moments

pytestmark = pytest.mark.x64

KEY = jr.key(4)
TABLE = jnp.array([1.0, -2.0, 0.5, 3.0, 7.0])
LOGITS = jnp.array([0.3, -1.0, 0.8, 2.0, -0.4])


def without_replacement(probs, count):
    """List all ordered draws without replacement with their probabilities."""
    for draws in itertools.permutations(range(len(probs)), count):
        left, prob = 1.0, 1.0
        for one in draws:
            prob, left = prob * probs[one] / left, left - probs[one]
        yield draws, prob


class TestUnordered:
    @pytest.mark.parametrize("count", [2, 3, 4, 5])
    def test_all_ordered_draws(self, count):
        mean = lambda t: jax.nn.softmax(t * LOGITS) @ TABLE
        draws, weights = zip(*without_replacement(np.asarray(jax.nn.softmax(0.7 * LOGITS)), count), strict=True)
        np.testing.assert_allclose(sum(weights), 1, rtol=1e-12)
        estimate = lambda indices, t: unordered(count).given(
            indices, distribution("categorical", logits=t * LOGITS), costs(lambda k: TABLE[k])
        )
        found, variance = moments(estimate, 0.7, jnp.array(draws), jnp.array(weights))
        np.testing.assert_allclose(found, jax.grad(mean)(0.7), rtol=1e-10)
        if count == 5:
            np.testing.assert_allclose(variance, 0, atol=1e-18)

    def test_the_order_of_the_draws_does_not_matter(self):
        d, k = lambda x: distribution("categorical", logits=x), costs(lambda k: TABLE[k])
        of = lambda order: jax.grad(lambda x: unordered(3).given(jnp.array(order), d(x), k))(LOGITS)
        gradients = np.stack([of(order) for order in itertools.permutations((0, 3, 4))])
        assert np.abs(gradients).max() > 0.1
        np.testing.assert_allclose(gradients, gradients[:1].repeat(6, 0), rtol=1e-12, atol=1e-14)

    def test_less_noise_than_with_replacement(self):
        cost = lambda s: lambda t: TABLE[categorical(logits=t * LOGITS, grad=s).sample()] + 5.0 * t
        runs = lambda s: jax.vmap(ppl.grad(cost(s)), (0, None))(jr.split(KEY, 2**13), 0.7).var()
        assert runs(unordered(3)) < runs(leave_one_out(3)) / 2

    def test_the_draws_of_the_docstring(self):
        cost = lambda s: lambda t: (categorical(logits=t * jnp.arange(4.0), grad=s).sample() + 10.0) ** 2
        runs = lambda s: jax.vmap(ppl.grad(cost(s)), (0, None))(jr.split(KEY, 2**13), 0.0)
        exact = jax.grad(lambda t: jax.nn.softmax(t * jnp.arange(4.0)) @ (jnp.arange(4.0) + 10) ** 2)(0.0)
        np.testing.assert_allclose(exact, 28.75, rtol=1e-12)
        ours, theirs = runs(unordered(3)), runs(leave_one_out(3))
        print("deviations", ours.std(), theirs.std())
        assert 11 < ours.std() < 12
        assert 20 < theirs.std() < 22

    @pytest.mark.parametrize("logit", [-20.0, 40.0])
    def test_values_that_are_never_drawn(self, logit):
        cost = lambda x: TABLE[categorical(logits=jnp.array([x, 0.0, logit]), grad=unordered(2)).sample()]
        assert np.isfinite(jax.vmap(ppl.grad(cost), (0, None))(jr.split(KEY, 64), 0.3)).all()
        zero = lambda p: TABLE[categorical(jnp.array([p, 1 - p, 0.0]), grad=unordered(2)).sample()]
        np.testing.assert_allclose(jax.vmap(ppl.grad(zero), (0, None))(jr.split(KEY, 64), 0.3), 3.0, rtol=1e-9)

    def test_refusals(self):
        for strategy, text in ((unordered(1), "from 2 to 8"), (unordered(9), "from 2 to 8")):
            with pytest.raises(ppl.StrategyError, match=text):
                ppl.seed(lambda s=strategy: categorical(jnp.ones(3) / 3, grad=s).sample())(KEY)
        with pytest.raises(ppl.StrategyError, match="it is for categorical"):
            ppl.seed(lambda: ppl.poisson(1.0, grad=unordered()).sample())(KEY)
        with pytest.raises(ppl.StrategyError, match="more values than there are"):
            ppl.grad(lambda p: bernoulli(p, grad=unordered(3)).sample() * 1.0)(KEY, 0.3)


CHAIN = {  # family, its parameter, and what it is called
    "bernoulli": (lambda p: distribution("bernoulli", probs=p), 0.3, 2),
    "bernoulli, logits": (lambda x: distribution("bernoulli", logits=x), 0.4, 2),
    "binomial": (lambda p: distribution("binomial", total_count=4, probs=p), 0.3, 5),
    "geometric": (lambda p: distribution("geometric", probs=p), 0.4, 120),
    "poisson": (lambda r: distribution("poisson", rate=r), 1.5, 60),
    "categorical": (lambda t: distribution("categorical", logits=t * LOGITS), 0.7, 5),
    "categorical, probs": (lambda p: distribution("categorical", probs=jnp.array([p, 0.5, 0.5 - p])), 0.2, 3),
}


@pytest.mark.parametrize("name", CHAIN)
def test_perturbations_of_every_value(name):
    """The sum over all values of their probability times the estimate, against the derivative of the mean."""
    make, parameter, size = CHAIN[name]
    cost = lambda x: jnp.sin(1.3 * x) + 0.1 * x**2.0
    values = jnp.arange(size)
    probs = lambda t: jnp.exp(jax.vmap(make(t).log_prob)(values))
    truth = jax.grad(lambda t: probs(t) @ cost(values))(parameter)
    estimate = lambda x, t: stochastic_perturbation().given(x, make(t), costs(cost))
    found, _ = moments(estimate, parameter, values, probs(parameter))
    np.testing.assert_allclose(found, truth, rtol=1e-9)


def walk(strategy):
    """A chain in which each count depends on the one before."""
    step = lambda c, _: (ppl.binomial(3, 0.1 + 0.3 * c, grad=strategy).sample() * 1.0, c)
    return lambda p: lax.scan(step, bernoulli(p, grad=strategy).sample() * 1.0, None, length=3)[0] ** 2


PERTURBED = stochastic_perturbation()
SAMPLED = {
    "poisson": (lambda r: ppl.poisson(r, grad=PERTURBED).sample() ** 2.0, 1.5, lambda r: r + r**2),
    "geometric": (
        lambda p: ppl.geometric(p, grad=PERTURBED).sample() ** 2.0,
        0.4,
        lambda p: (1 - p) / p**2 + ((1 - p) / p) ** 2,
    ),
    "lanes": (
        lambda r: jax.vmap(lambda q: ppl.poisson(q, grad=PERTURBED).sample())(jnp.full(2, r)).prod() * 1.0,
        1.5,
        lambda r: r**2,
    ),
    "cond, nested": (
        lambda p: (
            lax.cond(p > 0.2, lambda: 2.0 * (gen(lambda p: bernoulli(p, grad=PERTURBED) @ "b")(p) @ "a"), lambda: p) + p
        ),
        0.4,
        lambda p: 3 * p,
    ),
    "two choices": (
        lambda p: (lambda n: ppl.binomial(2, 0.3 + 0.4 * n, grad=PERTURBED).sample() * (1.0 + n))(
            bernoulli(p, grad=PERTURBED).sample()
        ),
        0.4,
        lambda p: p * 1.4 * 2 + (1 - p) * 0.6,
    ),
}


@pytest.mark.parametrize("name", SAMPLED)
def test_perturbations_in_programs(name):
    program, parameter, mean = SAMPLED[name]
    truth = jax.value_and_grad(mean)(parameter)
    assert_unbiased(lambda key: ppl.value_and_grad(program)(key, parameter), truth, KEY)


def test_perturbations_of_a_chain_cancel():
    exact = ppl.exact_gradient(walk(ppl.enum()))(0.4)
    assert_unbiased(lambda key: ppl.value_and_grad(walk(PERTURBED))(key, 0.4), (exact.value, exact.gradient), KEY)
    runs = lambda s: jax.vmap(ppl.grad(walk(s)), (0, None))(jr.split(KEY, 2**13), 0.4).var()
    assert runs(PERTURBED) < runs(reinforce())


def test_perturbations_are_for_a_table():
    with pytest.raises(ppl.StrategyError, match="bernoulli, categorical, binomial, geometric, poisson"):
        ppl.seed(lambda: normal(0.0, 1.0, grad=PERTURBED).sample())(KEY)


class TestRejection:
    @pytest.mark.parametrize("concentration", [1.2, 2.5, 6.0])
    def test_marsaglia_and_tsang_by_quadrature(self, concentration):
        """Over the accepted noise, whose density is that of the gamma choice times the slope of h."""
        strategy = rejection(marsaglia_tsang, noise_of)
        nodes, weights = np.polynomial.legendre.leggauss(400)
        logs = -9.0 + 6.5 * (nodes + 1)
        x, on_x = jnp.asarray(np.exp(logs)), 6.5 * weights * np.exp(logs)
        density = np.exp((concentration - 1) * np.log(x) - x - special.gammaln(concentration))

        def estimate(x, a):
            moved, log_accepted = strategy.accepted(distribution("gamma", concentration=a, rate=1.0), x)
            return moved**2 + x**2 * log_accepted

        np.testing.assert_allclose(on_x @ density, 1, rtol=1e-4 if concentration < 2 else 1e-6)
        found, _ = moments(estimate, concentration, x, jnp.asarray(on_x * density))
        np.testing.assert_allclose(found, 2 * concentration + 1, rtol=2e-5)

    @pytest.mark.parametrize("augment", [1, 6])
    @pytest.mark.parametrize(
        ("program", "parameter", "mean"),
        [
            (lambda a, s: ppl.gamma(a, 1.0, grad=s).sample(), 2.5, lambda a: a),
            (lambda a, s: ppl.gamma(a, 1.0, grad=s).sample() ** 2, 2.5, lambda a: a * (a + 1)),
            (lambda a, s: ppl.gamma(a, 1.0, grad=s).sample() ** 2, 0.4, lambda a: a * (a + 1)),
            (lambda r, s: ppl.gamma(2.5, r, grad=s).sample() ** 2, 2.0, lambda r: 8.75 / r**2),
            (
                lambda a, s: jax.vmap(lambda b: ppl.gamma(b, 1.0, grad=s).sample())(jnp.full(2, a)).prod(),
                1.5,
                lambda a: a**2,
            ),
        ],
        ids=["mean", "square", "small", "rate", "lanes"],
    )
    def test_gamma(self, program, parameter, mean, augment):
        """Reference, section 6: gamma(2.5, 1) has d/da E x = 1 and d/da E x**2 = 2 a + 1 = 6."""
        truth = jax.value_and_grad(mean)(parameter)
        estimate = lambda key: ppl.value_and_grad(lambda a: program(a, rejection(augment=augment)))(key, parameter)
        assert_unbiased(estimate, truth, KEY)

    def test_the_correction_fades(self):
        """The variance of the score of the accepted noise, by quadrature, as the concentration is raised."""

        def information(concentration):
            nodes, weights = np.polynomial.legendre.leggauss(400)
            x, on_x = jnp.asarray(20 * (nodes + 1)), 20 * weights
            density = np.exp((concentration - 1) * np.log(x) - x - special.gammaln(concentration))
            of = lambda x, a: rejection(marsaglia_tsang, noise_of).accepted(
                distribution("gamma", concentration=a, rate=1.0), x
            )[1]
            mean, variance = moments(of, concentration, x, jnp.asarray(on_x * density))
            assert abs(mean) < 1e-3 * np.sqrt(variance) + 1e-6
            return float(variance)

        found = [information(1.5 + augment) for augment in (0, 1, 3, 10)]
        assert all(second < first / 2 for first, second in zip(found[:-1], found[1:], strict=True)), found

    def test_a_users_own(self):
        """A normal by its inverse is the reparameterised gradient: the noise's density knows no parameter."""
        own = rejection(lambda e, loc, scale: loc + scale * e, lambda x, loc, scale: (x - loc) / scale)
        program = lambda s: lambda m: normal(m, 1.5, grad=s).sample() ** 2
        pairs = np.stack(jax.vmap(ppl.value_and_grad(program(own)), (0, None))(jr.split(KEY, 64), 0.5))
        assert pairs[1].std() > 0
        truth = jax.value_and_grad(lambda m: m**2 + 2.25)(0.5)
        assert_unbiased(lambda key: ppl.value_and_grad(program(own))(key, 0.5), truth, KEY)
        given = rejection(own.transform, own.inverse, lambda e, loc, scale: -(e**2) / 2)
        both = [ppl.grad(program(s))(KEY, 0.5) for s in (own, given)]
        np.testing.assert_allclose(*both, rtol=1e-9)

    def test_constructs(self):
        s = rejection()
        walk = lambda a: (
            lax.scan(lambda c, _: (c + ppl.gamma(a, 1.0, grad=s).sample(), None), 0.0, None, length=2)[0] ** 2
        )
        truth = jax.value_and_grad(lambda a: 4 * a**2 + 2 * a)(1.5)
        assert_unbiased(lambda key: ppl.value_and_grad(walk)(key, 1.5), truth, KEY)
        later = lambda a: (lambda x: bernoulli(x / (1 + x), grad=reinforce()).sample() * x)(
            ppl.gamma(a, 1.0, grad=s).sample()
        )
        x = np.exp(np.arange(-25, 5, 0.01))
        density = lambda a: jnp.exp(a * jnp.log(x) - x - jax.scipy.special.gammaln(a)) * 0.01
        truth = jax.value_and_grad(lambda a: (density(a) * x**2 / (1 + x)).sum())(1.5)
        assert_unbiased(lambda key: ppl.value_and_grad(later)(key, 1.5), truth, KEY)

    def test_refusals(self):
        jump = lambda a: (ppl.gamma(a, 1.0, grad=rejection()).sample("g") > 1.0) * 1.0
        with pytest.raises(ppl.UnsoundGradientError, match="'g'"):
            ppl.grad(jump)(KEY, 2.0)
        assert ppl.expect(jump)(KEY, 2.0) in (0.0, 1.0)
        later = lambda a: (
            bernoulli(jax.nn.sigmoid(ppl.gamma(a, 1.0, grad=rejection()).sample()), grad=mvd()).sample() * 1.0
        )
        with pytest.raises(ppl.StrategyError, match="differentiates costs"):
            ppl.grad(later)(KEY, 2.0)
        step = lambda c, _: (ppl.gamma(1.0 + c, 1.0, grad=rejection()).sample(), None)  # Later steps are such choices.
        with pytest.raises(ppl.StrategyError, match="differentiates costs"):
            ppl.grad(lambda a: lax.scan(step, a, None, length=2)[0])(KEY, 2.0)
        with pytest.raises(ppl.StrategyError, match="gamma only"):
            ppl.seed(lambda: normal(0.0, 1.0, grad=rejection()).sample())(KEY)
        with pytest.raises(ppl.StrategyError, match="continuous"):
            ppl.seed(lambda: ppl.poisson(1.0, grad=rejection()).sample())(KEY)
        with pytest.raises(ppl.StrategyError, match="with its inverse"):
            rejection(marsaglia_tsang)


@pytest.mark.parametrize("strategy", [unordered(2), PERTURBED], ids=str)
def test_an_elbo(strategy):
    model = gen(lambda p: normal(2.0 * (bernoulli(0.3) @ "b"), 1.0) @ "y")
    guide = lambda s: gen(lambda p, observed: bernoulli(p, grad=s) @ "b")
    exact = ppl.exact_gradient(elbo(model, guide(ppl.enum())))(0.15, {"y": 1.2})
    estimate = lambda key: ppl.value_and_grad(elbo(model, guide(strategy)))(key, 0.15, {"y": 1.2})
    assert_unbiased(estimate, (exact.value, exact.gradient), KEY)
