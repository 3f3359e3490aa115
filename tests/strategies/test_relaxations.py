"""Biased strategies: their bias is what it is said to be, reports name it, and what is not defined is refused."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax import lax

import ppl
from estimators import elbo, gumbel_softmax, mvd, straight_through
from ppl import bernoulli, categorical, gen
from ppl.reports.choices import strategy_name
from ppl.strategies.relaxation import Logits
from tests.statistics import assert_unbiased

pytestmark = pytest.mark.x64

KEY = jr.key(2)
K = lambda b: (b - 0.45) ** 2 + 2.0 * b
PRIOR = jnp.array([0.05, 0.15, 0.8])
BIASED = [straight_through(), gumbel_softmax(0.7), gumbel_softmax(0.7, hard=True)]


def by_value(program, parameter, keys=64):
    """Return the distinct pairs of value and gradient over some keys: few, where the estimate depends on the value."""
    pairs = jax.vmap(lambda key: jnp.stack(ppl.value_and_grad(program)(key, parameter)))(jr.split(KEY, keys))
    return np.unique(np.round(np.asarray(pairs), 10), axis=0)


def test_straight_through_has_the_wrong_sign():
    """Reference, section 6: L(p) = E (b - .45)**2 has L'(.3) = .1, and the estimate the mean 2 (p - .45) = -.3."""
    cost = lambda p: (bernoulli(p, grad=straight_through()).sample() - 0.45) ** 2
    pairs = by_value(cost, 0.3)
    np.testing.assert_allclose(pairs, [[0.2025, -0.9], [0.3025, 1.1]], rtol=1e-9)
    mean = 0.7 * pairs[0, 1] + 0.3 * pairs[1, 1]
    np.testing.assert_allclose(mean, -0.3, rtol=1e-9)
    np.testing.assert_allclose(ppl.exact_gradient(ppl.with_grad(cost, {"*": mvd()}))(0.3).gradient, 0.1, rtol=1e-9)


def test_straight_through_is_right_for_costs_linear_in_each_coin():
    program = lambda p: (lambda a, b: 2.0 * a - a * b * p)(
        bernoulli(p, grad=straight_through()).sample(), bernoulli(p**2, grad=straight_through()).sample()
    )
    truth = jax.value_and_grad(lambda p: 2 * p - p**4)(0.4)
    assert_unbiased(lambda key: ppl.value_and_grad(program)(key, 0.4), truth, KEY)


def test_a_categorical_choice_is_a_vector_of_weights():
    """With costs linear in the one-hot code the straight-through gradient is right: each draw has the same one."""
    table = jnp.array([1.0, -2.0, 0.5])
    cost = lambda t: (
        jax.nn.one_hot(categorical(logits=t * jnp.arange(3.0), grad=straight_through()).sample(), 3) @ table
    )
    pairs = by_value(cost, 0.3)
    assert len(pairs) == 3
    truth = jax.grad(lambda t: jax.nn.softmax(t * jnp.arange(3.0)) @ table)(0.3)
    np.testing.assert_allclose(pairs[:, 1], truth, rtol=1e-8)


def test_the_index_itself_is_the_mean_of_the_indices():
    """Reference, section 6: softmax(theta (0, 1, 2)), theta = .3: d E[K] = Var K = .6377, from rounded digits."""
    cost = lambda t: categorical(logits=t * jnp.arange(3.0), grad=straight_through()).sample() * 1.0
    pairs = by_value(cost, 0.3)
    np.testing.assert_allclose(pairs[:, 0], [0, 1, 2], atol=1e-9)
    probs = np.exp(0.3 * np.arange(3)) / np.exp(0.3 * np.arange(3)).sum()
    np.testing.assert_allclose(pairs[:, 1], probs @ np.arange(3) ** 2 - (probs @ np.arange(3)) ** 2, rtol=1e-8)
    np.testing.assert_allclose(pairs[:, 1], 0.6377, atol=1e-4)


def test_a_relaxed_categorical_guide_has_a_density():
    """Log densities are continued linearly in the weights, where straight-through gradients are right."""

    @gen
    def model(t):
        categorical(PRIOR) @ "k"

    @gen
    def guide(t, observed):
        categorical(logits=t * jnp.arange(3.0), grad=straight_through()) @ "k"

    def bound(t):
        log_q = jax.nn.log_softmax(t * jnp.arange(3.0))
        return jnp.exp(log_q) @ (jnp.log(PRIOR) - log_q)

    objective = lambda t: elbo(model, guide)(t, {})
    assert_unbiased(lambda key: ppl.value_and_grad(objective)(key, -0.6), jax.value_and_grad(bound)(-0.6), KEY)


@pytest.mark.parametrize("is_vector", [True, False])
def test_hard_values_have_the_type_of_the_logits(is_vector):
    logits = Logits(jnp.zeros((4, 3), jnp.float32), is_vector)
    assert logits.hard(logits.values).dtype == jnp.float32


def quadrature(function, nodes=4000):
    """Integrate over logistic noise by the midpoint rule in its distribution function."""
    u = (np.arange(nodes) + 0.5) / nodes
    return jax.vmap(function)(jnp.asarray(np.log(u) - np.log1p(-u))).mean()


@pytest.mark.parametrize("temperature", [0.3, 1.0])
def test_the_smooth_coin_is_unbiased_for_its_own_model(temperature):
    model = lambda x: quadrature(lambda e: K(jax.nn.sigmoid((x + e) / temperature)))
    truth = jax.value_and_grad(model)(-0.8)
    cost = lambda x: K(bernoulli(logits=x, grad=gumbel_softmax(temperature)).sample())
    assert_unbiased(lambda key: ppl.value_and_grad(cost)(key, -0.8), truth, KEY)


def test_hard_values_have_the_soft_derivative():
    """Value k(b), gradient k'(b) d soft: by quadrature over the noise."""
    slope = lambda b: 2 * (b - 0.45) + 2
    soft = lambda x, e: jax.nn.sigmoid((x + e) / 0.7)
    value = quadrature(lambda e: K((-0.8 + e > 0) * 1.0))
    gradient = quadrature(lambda e: slope((-0.8 + e > 0) * 1.0) * jax.grad(soft)(-0.8, e))
    cost = lambda x: K(bernoulli(logits=x, grad=gumbel_softmax(0.7, hard=True)).sample())
    assert_unbiased(lambda key: ppl.value_and_grad(cost)(key, -0.8), (value, gradient), KEY)


def branches(strategy):
    def program(p):
        b = bernoulli(p, grad=strategy).sample()
        return lax.cond(p > 0.2, lambda b: b * 2, lambda b: b + 1, b) * 1.5

    return program


def agrees(estimate, truth, num=2**15):
    """Compare means; a gradient that does not vary has to be exact."""
    draws = np.asarray(jnp.stack(jax.jit(jax.vmap(estimate))(jr.split(KEY, num))))
    error = draws.std(1) / np.sqrt(num)
    assert error[0] > 0
    assert (np.abs(draws.mean(1) - np.array(truth)) <= 4.5 * error + 1e-9).all(), (draws.mean(1), truth, error)


inner = lambda strategy: gen(lambda p: bernoulli(p, grad=strategy) @ "b")
LINEAR = {  # Costs linear in each coin, through every construct: the straight-through gradient of the mean is right.
    "scan, in the carry": (
        lambda s: (
            lambda p: lax.scan(lambda c, _: (c + bernoulli(p, grad=s).sample(), None), 0, None, length=3)[0] * 1.0
        ),
        lambda p: 3 * p,
    ),
    "scan, a chain": (
        lambda s: (
            lambda p: (
                lax.scan(lambda b, _: (bernoulli(p * (0.5 + 0.5 * b), grad=s).sample(), b), 1, None, length=3)[0] * 1.0
            )
        ),
        lambda p: (lambda f: f(f(f(1.0))))(lambda b: p * (0.5 + 0.5 * b)),
    ),
    "lanes": (
        lambda s: lambda p: jax.vmap(lambda q: bernoulli(q, grad=s).sample())(jnp.full(3, p)).sum() * 1.0,
        lambda p: 3 * p,
    ),
    "batch": (lambda s: lambda p: bernoulli(jnp.full((2, 2), p), grad=s).sample().mean(), lambda p: p),
    "matrix product": (
        lambda s: lambda p: jnp.array([[1, 2], [3, 4]]) @ bernoulli(jnp.full(2, p), grad=s).sample() @ jnp.ones(2),
        lambda p: 10 * p,
    ),
    "cond": (branches, lambda p: 3 * p),
    "nested": (lambda s: lambda p: (inner(s)(p) @ "x") * (1.0 + (inner(s)(p) @ "y")), lambda p: p + p**2),
    "checkpoint": (lambda s: lambda p: jax.checkpoint(inner(s).inline)(p) * p, lambda p: p**2),
    "jit": (lambda s: lambda p: jax.jit(lambda q: 3 * bernoulli(q, grad=s).sample())(p) * 0.5, lambda p: 1.5 * p),
    "with_grad": (
        lambda s: ppl.with_grad(lambda p: bernoulli(p).sample() * 2.0, {"bernoulli": s}),
        lambda p: 2 * p,
    ),
    "below an enumerated choice": (
        lambda s: lambda p: bernoulli(0.2 + 0.5 * bernoulli(p, grad=ppl.enum()).sample(), grad=s).sample() * 1.0,
        lambda p: 0.2 + 0.5 * p,
    ),
}


@pytest.mark.parametrize("name", LINEAR)
def test_constructs(name):
    make, mean = LINEAR[name]
    truth = jax.value_and_grad(mean)(0.4)
    agrees(lambda key: ppl.value_and_grad(make(straight_through()))(key, 0.4), truth)
    smooth = jax.jit(ppl.value_and_grad(make(gumbel_softmax(0.5))))(KEY, 0.4)
    again = jax.vmap(ppl.value_and_grad(make(gumbel_softmax(0.5))), (0, None))(KEY[None], 0.4)
    np.testing.assert_allclose(smooth, [part[0] for part in again], rtol=1e-9)
    assert smooth[1] != 0


def programs(strategy):
    model = gen(lambda p: ppl.normal(2.0 * (bernoulli(0.3) @ "b"), 1.0) @ "y")
    return model, gen(lambda p, observed: bernoulli(p, grad=strategy) @ "b")


@pytest.mark.parametrize("strategy", BIASED, ids=str)
def test_an_elbo_has_relaxed_densities(strategy):
    """log p(x) + log p(y | x) - log q(x) with log p continued linearly: by hand at the value that was drawn."""
    value, gradient = ppl.value_and_grad(elbo(*programs(strategy)))(KEY, 0.4, {"y": 1.0})
    relaxed = ppl.expect(lambda p: bernoulli(p, grad=strategy).sample("b") * 1.0)(KEY, 0.4)
    assert jnp.isfinite(value)
    assert jnp.isfinite(gradient)
    assert 0 <= relaxed <= 1


def test_an_elbo_by_hand():
    objective = elbo(*programs(straight_through()))
    pairs = by_value(lambda p: objective(p, {"y": 1.0}), 0.4)
    log_joint = lambda x: x * np.log(0.3 / 0.4) + (1 - x) * np.log(0.7 / 0.6) - (1 - 2 * x) ** 2 / 2
    values = log_joint(np.array([0.0, 1.0])) - np.log(2 * np.pi) / 2
    slopes = [
        jax.grad(lambda x: x * np.log(0.75) + (1 - x) * np.log(7 / 6) - (1 - 2 * x) ** 2 / 2)(x) for x in (0.0, 1.0)
    ]
    own = [1 / 0.6, -1 / 0.4]  # -d log q(x) at fixed x
    wanted = np.stack([values, np.array(slopes) + own], 1)
    np.testing.assert_allclose(pairs, wanted[np.argsort(values)], rtol=1e-8)


@pytest.mark.parametrize("strategy", BIASED, ids=str)
def test_reports_name_the_bias(strategy):
    cost = lambda p: (bernoulli(p, grad=strategy).sample("coin") - 0.45) ** 2
    report = ppl.explain(cost)(0.3)
    assert report.biased == ("coin",)
    assert "biased by coin" in str(report)
    assert "(biased)" in report._repr_html_()
    other = ppl.gradient_variance(
        lambda p: (bernoulli(p, grad=ppl.enum()).sample("coin") - 0.45) ** 2, alternatives={"coin": [strategy]}
    )
    found = other(KEY, 0.3, samples=200).shares[0].alternatives[-1]
    assert found.strategy == strategy_name(strategy)
    assert "biased" in found.doubt


TABLE = jnp.array([1.0, 2.0])
WRONG = {
    "index": (lambda b: TABLE[b], "an index"),
    "comparison": (lambda b: jnp.where(b == 1, 2.0, 3.0), "compared"),
    "branch": (lambda b: lax.cond(b, lambda: 1.0, lambda: 2.0), "bool|compared|predicate"),
    "remainder": (lambda b: (b % 2) * 1.0, "`rem`|index|operand"),
    "a count": (lambda b: ppl.binomial(3 + b, 0.5, grad=ppl.reinforce()).sample() * 1.0, "an integer"),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("strategy", BIASED[:2], ids=str)
def test_what_is_defined_for_whole_numbers_is_refused(name, strategy):
    use, text = WRONG[name]
    with pytest.raises(ppl.StrategyError, match=text) as caught:
        ppl.grad(lambda p: use(bernoulli(p, grad=strategy).sample("coin")))(KEY, 0.3)
    assert {"where", "expected", "got", "remedy"} <= set(caught.value.details)
    assert "'coin' at" in caught.value.details["where"]
    assert "test_relaxations.py" in caught.value.details["got"]


def test_an_index_of_a_categorical_choice_is_refused():
    with pytest.raises(ppl.StrategyError, match="where|index"):
        ppl.grad(lambda t: TABLE[categorical(logits=t * TABLE, grad=straight_through()).sample()])(KEY, 0.3)


def test_other_families_and_temperatures_are_refused():
    with pytest.raises(ppl.StrategyError, match="it is for bernoulli and categorical"):
        ppl.seed(lambda: ppl.poisson(1.0, grad=straight_through()).sample())(KEY)
    with pytest.raises(ppl.StrategyError, match="positive temperature"):
        gumbel_softmax(0.0)


def test_seeded_programs_draw_whole_numbers():
    program = lambda p: bernoulli(p, grad=gumbel_softmax(0.5)).sample()
    assert ppl.seed(program)(KEY, 0.5).dtype == jnp.int32
    with pytest.raises(ppl.StrategyError, match="expect"):
        jax.grad(lambda p: ppl.seed(lambda p: program(p) * 1.0)(KEY, p))(0.5)
