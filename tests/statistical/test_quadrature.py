"""Quadrature over auxiliary choices: every rule and its derivative in closed form; products, constructs, refusals."""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import i0e, i1e
from jax.scipy.stats import norm

import ppl
from estimators import elbo
from ppl import bernoulli, enum, gen, normal, reinforce, uniform
from ppl.methods import quadrature

pytestmark = pytest.mark.x64


def integrated(program, points, keep="x", proposal=None):
    return ppl.marginal(program, keep, proposal=proposal, method=quadrature(points))


# --- Rules: the probability of a coin whose bias is a function of the auxiliary choice ---------------------------


@dataclasses.dataclass(frozen=True)
class Case:
    """A family with one free parameter, the bias given its value, and the mean bias; all at `at`."""

    family: str
    choose: Callable
    bias: Callable
    mean: Callable
    at: float
    points: int = 60

    def __str__(self) -> str:
        return f"{self.family} {self.at:g}"


bump = lambda u, _: norm.pdf(0.2, u, 1.0)
decay = lambda u, _: jnp.exp(-0.7 * u)
bell = lambda u, _: jnp.exp(-(u**2) / 2)
lorentz = lambda u, _: 1 / (1 + u**2)
gamma_mean = lambda a: (1 + 0.7 / 1.5) ** -a  # Laplace's transform at 0.7, of rate 1.5
lorentz_mean = lambda scale: 1 / (1 + scale)


def cut_bell_mean(low):
    """Return E exp(-u**2 / 2) for a standard normal cut off at `low` and 2."""
    return (norm.cdf(2 * 2**0.5) - norm.cdf(low * 2**0.5)) / 2**0.5 / (norm.cdf(2.0) - norm.cdf(low))


def resultant(k):
    """Return E cos(u) for a von Mises distribution around 0.5."""
    return i1e(k) / i0e(k) * math.cos(0.5)


CASES = [
    Case("normal", lambda m: ppl.normal(m, 0.8), bump, lambda m: norm.pdf(0.2, m, 1.64**0.5), 0.5),
    Case("normal", lambda s: ppl.normal(0.5, s), bump, lambda s: norm.pdf(0.2, 0.5, (1 + s**2) ** 0.5), 0.8),
    Case(
        "log_normal",
        lambda m: ppl.log_normal(m, 0.8),
        lambda u, m: bump(jnp.log(u), m),
        lambda m: norm.pdf(0.2, m, 1.64**0.5),
        0.5,
    ),
    Case("uniform", lambda b: ppl.uniform(-1.0, b), bump, lambda b: (norm.cdf(1.2) - norm.cdf(0.2 - b)) / (b + 1), 2.0),
    Case("uniform", lambda a: ppl.uniform(a, 2.0), bump, lambda a: (norm.cdf(0.2 - a) - norm.cdf(-1.8)) / (2 - a), 0.5),
    Case(
        "log_uniform",
        lambda b: ppl.log_uniform(0.5, b),
        lambda u, _: u / 3,
        lambda b: (b - 0.5) / jnp.log(b / 0.5) / 3,
        2.0,
    ),
    Case("exponential", lambda r: ppl.exponential(r), decay, lambda r: r / (r + 0.7), 1.5),
    Case("gamma", lambda a: ppl.gamma(a, 1.5), decay, gamma_mean, 0.4, 120),
    Case("gamma", lambda a: ppl.gamma(a, 1.5), decay, gamma_mean, 2.5),
    Case("gamma", lambda a: ppl.gamma(a, 1.5), decay, gamma_mean, 200.0, 120),
    Case("inverse_gamma", lambda a: ppl.inverse_gamma(a, 1.5), lambda u, a: decay(1 / u, a), gamma_mean, 2.5),
    Case("chi2", lambda d: ppl.chi2(d), decay, lambda d: 2.4 ** (-d / 2), 3.0),
    Case("half_normal", lambda s: ppl.half_normal(s), bell, lambda s: (1 + s**2) ** -0.5, 1.5, 120),
    Case(
        "weibull",
        lambda k: ppl.weibull(1.3, k),
        lambda u, k: jnp.exp(-0.7 * (u / 1.3) ** k),
        lambda k: 1 / 1.7 + 0 * k,
        2.5,
    ),
    Case(
        "gumbel",
        lambda m: ppl.gumbel(m, 1.4),
        lambda u, _: jnp.exp(-jnp.exp(-u / 1.4)),
        lambda m: 1 / (1 + jnp.exp(-m / 1.4)),
        0.5,
    ),
    Case("half_cauchy", lambda s: ppl.half_cauchy(s), lorentz, lorentz_mean, 1.5, 120),
    Case("cauchy", lambda s: ppl.cauchy(0.0, s), lorentz, lorentz_mean, 1.5, 120),
    Case(
        "student_t",
        lambda d: ppl.student_t(d, 0.5, 1.4),
        lambda u, d: lorentz((u - 0.5) / 1.4 / d**0.5, d),
        lambda d: d / (d + 1),
        3.0,
        120,
    ),
    Case(
        "logistic",
        lambda m: ppl.logistic(m, 1.4),
        lambda u, m: jax.nn.sigmoid((u - m) / 1.4) ** 2,
        lambda m: 1 / 3 + 0 * m,
        0.5,
        120,
    ),
    Case(
        "beta", lambda a: ppl.beta(a, 0.7), lambda u, _: u**2, lambda a: a * (a + 1) / (a + 0.7) / (a + 1.7), 0.5, 120
    ),
    Case(
        "beta", lambda a: ppl.beta(a, 30.0), lambda u, _: u**2, lambda a: a * (a + 1) / (a + 30) / (a + 31), 50.0, 120
    ),
    Case("truncated_normal", lambda a: ppl.truncated_normal(0.0, 1.0, low=a, high=2.0), bell, cut_bell_mean, -0.5),
    Case(
        "von_mises",
        lambda k: ppl.von_mises(0.5, k),
        lambda u, _: (1 + jnp.cos(u)) / 2,
        lambda k: (1 + resultant(k)) / 2,
        1.5,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_rules_against_closed_forms(case):
    @gen
    def coin(theta):
        u = case.choose(theta) @ "u"
        bernoulli(case.bias(u, theta)) @ "x"

    log_density = lambda theta: integrated(coin, case.points).log_density({"x": 1}, theta)
    value, slope = jax.jit(jax.value_and_grad(log_density))(case.at)
    wanted, wanted_slope = jax.value_and_grad(lambda theta: jnp.log(case.mean(theta)))(case.at)
    assert abs(value - wanted) < 1e-9
    assert abs(slope - wanted_slope) < 1e-8


# --- Programs ----------------------------------------------------------------------------------------------------


@gen
def noisy(mean):
    u = normal(mean, 1.0) @ "u"
    normal(u, 1.5) @ "x"


def noisy_log_density(x, mean):
    return norm.logpdf(x, mean, math.sqrt(3.25))


def test_a_sum_of_normals_to_all_digits():
    found = lambda mean: integrated(noisy, 20).log_density({"x": 1.3}, mean)
    wanted = lambda mean: noisy_log_density(1.3, mean)
    for derivative in (lambda f: f, jax.grad, lambda f: jax.grad(jax.grad(f))):
        assert abs(derivative(found)(0.3) - derivative(wanted)(0.3)) < 1e-10


@gen
def precise(mean):
    u = normal(mean, 1.0) @ "u"
    normal(u, 0.05) @ "x"


def test_a_proposal_puts_few_points_where_they_count():
    """A likelihood 20 times narrower than the prior: the prior's nodes miss it, a proposal's do not, exact or not."""
    wanted = lambda mean: norm.logpdf(1.3, mean, math.sqrt(1.0025))
    assert abs(integrated(precise, 20).log_density({"x": 1.3}, 0.3) - wanted(0.3)) > 0.1
    for shift, scale in ((0.0, 0.05), (0.02, 0.06)):
        proposal = gen(lambda kept, mean, shift=shift, scale=scale: normal(kept["x"] + shift, scale) @ "u")
        found = lambda mean, proposal=proposal: integrated(precise, 20, proposal=proposal).log_density({"x": 1.3}, mean)
        assert abs(found(0.3) - wanted(0.3)) < 1e-8
        assert abs(jax.grad(found)(0.3) - jax.grad(wanted)(0.3)) < 1e-7


def test_the_density_is_the_same_number_drawn_and_given():
    program = integrated(noisy, 20)
    traces = jax.vmap(lambda key: program.simulate(key, 0.3))(jax.random.split(jax.random.key(0), 20))
    given = jax.vmap(lambda x: program.log_density({"x": x}, 0.3))(traces["x"])
    np.testing.assert_allclose(traces.log_density, given, rtol=1e-14)
    assert len(set(traces["x"].tolist())) == 20


def test_the_elbo_of_a_guide_that_is_the_model_has_no_noise():
    model = gen(lambda params: normal(0.3, math.sqrt(3.25)) @ "x")
    objective = elbo(model, integrated(gen(lambda params, observed: noisy.inline(params)), 20))
    for seed in range(3):
        assert abs(ppl.expect(objective)(jax.random.key(seed), 0.3, {})) < 1e-9


def test_gradients_through_what_was_drawn():
    """d/dm of -log q(x; m) + x**3 where x moves with m: by hand, the first part has none."""
    program = integrated(noisy, 20)

    def objective(mean):
        trace = ppl.simulate(program)(mean)
        return trace["x"] ** 3 - trace.log_density, trace["x"]

    gradient, x = ppl.grad(objective, has_aux=True)(jax.random.key(1), 0.3)
    assert abs(gradient - 3 * x**2) < 1e-8


@gen
def three(mean):
    """x = mean + two innovations of one choice + one of another, of standard deviation 0.5, + noise."""
    pair = normal(jnp.zeros(2), jnp.array([1.0, 2.0])) @ "pair"
    v = normal(pair.sum(), 0.5) @ "v"
    normal(mean + v, 2.0) @ "x"


def test_a_product_of_rules_over_three_numbers():
    wanted = norm.logpdf(1.3, 0.3, math.sqrt(1 + 4 + 0.25 + 4))
    assert abs(integrated(three, 24).log_density({"x": 1.3}, 0.3) - wanted) < 1e-6


XS = jnp.array([1.3, -0.4, 2.0])
MEANS = jnp.array([0.3, 0.1, -1.0])


def test_in_lanes_steps_and_under_itself():
    part = integrated(noisy, 20)
    lanes = gen(lambda means: jax.vmap(lambda mean: part(mean) @ "part")(means))
    steps = gen(lambda means: jax.lax.scan(lambda _, mean: (None, part(mean) @ "part"), None, means)[1])
    wanted = noisy_log_density(XS, MEANS).sum()
    slopes = jax.grad(lambda means: noisy_log_density(XS, means).sum())(MEANS)
    for program in (lanes, steps):
        log_density = lambda means, program=program: program.log_density({"part": {"x": XS}}, means)
        value, gradient = jax.value_and_grad(log_density)(MEANS)
        assert abs(value - wanted) < 1e-9
        np.testing.assert_allclose(gradient, slopes, atol=1e-8)
        shape = program.simulate(jax.random.key(0), MEANS)["part/x"].shape
        assert shape == (3,)


@pytest.mark.parametrize("strategy", [enum(), reinforce()], ids=str)
def test_under_a_discrete_choice(strategy):
    part = integrated(noisy, 20)

    @gen
    def mixture(p):
        k = bernoulli(p) @ "k"
        part(2.0 * k) @ "part"

    guide = gen(lambda p, observed: bernoulli(p, grad=strategy) @ "k")
    exact = ppl.exact_gradient(elbo(mixture, guide))(0.3, {"part": {"x": 1.3}})
    wanted = lambda p: p * noisy_log_density(1.3, 2.0) + (1 - p) * noisy_log_density(1.3, 0.0)
    assert abs(exact.value - wanted(0.3)) < 1e-10
    assert abs(exact.gradient - jax.grad(wanted)(0.3)) < 1e-10


def test_the_edges_of_an_auxiliary_may_move():
    """Each node moves with the interval, and none over its edge: the pathwise gradient is sound."""
    around = gen(lambda z: normal(uniform(z - 1, z + 1) @ "u", 0.5) @ "x")
    part = integrated(around, 30)

    def objective(mean):
        z = normal(mean, 1.0).sample("z")
        return ppl.assess(part)({"x": 1.3}, z)[0], z

    gradient, z = ppl.grad(objective, has_aux=True)(jax.random.key(0), 0.3)
    closed_form = lambda z: jnp.log((norm.cdf(2 * (2.3 - z)) - norm.cdf(2 * (0.3 - z))) / 2)
    assert abs(gradient - jax.grad(closed_form)(z)) < 1e-8


def test_auxiliaries_made_in_a_loop():
    @gen
    def walk(mean):
        last, _ = jax.lax.scan(lambda u, _: (normal(u, 1.0) @ "u", None), mean, None, length=2)
        normal(last, 2.0) @ "x"

    wanted = norm.logpdf(1.3, 0.3, math.sqrt(1 + 1 + 4))
    assert abs(integrated(walk, 20).log_density({"x": 1.3}, 0.3) - wanted) < 1e-9


def test_a_marginal_of_a_marginal():
    @gen
    def chain(mean):
        u = normal(mean, 1.0) @ "u"
        v = normal(u, 1.0) @ "v"
        normal(v, 2.0) @ "x"

    inner = integrated(chain, 30, keep=("v", "x"))
    proposal = gen(lambda kept, mean: normal(mean, math.sqrt(2)) @ "v")
    outer = integrated(inner, 30, proposal=proposal)
    assert abs(outer.log_density({"x": 1.3}, 0.3) - norm.logpdf(1.3, 0.3, math.sqrt(6))) < 1e-8


def test_nothing_to_integrate():
    everything = integrated(noisy, 20, keep=("u", "x"))
    wanted = noisy.log_density({"u": 0.5, "x": 1.3}, 0.3)
    assert abs(everything.log_density({"u": 0.5, "x": 1.3}, 0.3) - wanted) < 1e-12


# --- Refusals ----------------------------------------------------------------------------------------------------


def coin_first(_):
    u = bernoulli(0.3) @ "u"
    normal(u, 1.0) @ "x"


def sometimes(on):
    u = jax.lax.cond(on > 0, lambda: normal(0.0, 1.0) @ "u", lambda: 0.0)
    normal(u, 1.0) @ "x"


def no_rule(_):
    u = ppl.pareto(1.0, 2.0) @ "u"
    normal(u, 1.0) @ "x"


def half_bounded(_):
    u = ppl.truncated_normal(0.0, 1.0, low=0.0) @ "u"
    normal(u, 1.0) @ "x"


def too_many(_):
    u = normal(jnp.zeros(4), 1.0) @ "u"
    normal(u.sum(), 1.0) @ "x"


def in_need_of_a_key(_):
    u = normal(0.0, 1.0) @ "u"
    normal(u + jax.random.normal(ppl.fresh_key()), 1.0) @ "x"


def noise_inside(mean):
    u = normal(0.0, 1.0) @ "u"
    ppl.marginal(noisy, "x").inline(mean + u)


@pytest.mark.parametrize(
    ("program", "error", "message"),
    [
        (coin_first, ppl.StrategyError, r"(?s)at \"u\" is discrete.*exact\(\)"),
        (sometimes, ppl.ControlFlowError, "made only sometimes"),
        (no_rule, ppl.StrategyError, "no quadrature rule"),
        (half_bounded, ppl.StrategyError, "no quadrature rule"),
        (too_many, ppl.StrategyError, "over 4 auxiliary numbers"),
        (in_need_of_a_key, ppl.StrategyError, "fresh key"),
        (noise_inside, ppl.StrategyError, "is an estimate"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_cannot_be_integrated(program, error, message):
    with pytest.raises(error, match=message):
        integrated(gen(program), 5).simulate(jax.random.key(0), 0.3)


def test_too_many_points():
    with pytest.raises(ppl.StrategyError, match=r"takes 200\*\*3 points"):
        integrated(three, 200).simulate(jax.random.key(0), 0.3)


@pytest.mark.parametrize("points", [0, -1, 2.0, True])
def test_numbers_of_points(points):
    with pytest.raises(ppl.PPLError, match="positive number of points"):
        quadrature(points)


def test_a_proposal_of_other_choices():
    wrong = integrated(noisy, 5, proposal=gen(lambda kept, mean: normal(mean, 1.0) @ "v"))
    with pytest.raises(ppl.AddressError, match='"v"'):
        wrong.simulate(jax.random.key(0), 0.3)


def test_a_jump_that_moves_is_refused():
    @gen
    def threshold(t):
        z = normal(0.0, 1.0) @ "z"
        bernoulli(jnp.where(z > t, 0.2, 0.7)) @ "b"

    program = ppl.marginal(threshold, keep="b", method=ppl.methods.quadrature(8))
    assert jnp.isfinite(program.log_density({"b": 1}, 0.3))
    with pytest.raises(ppl.UnsoundGradientError, match="moves a jump"):
        jax.grad(lambda t: program.log_density({"b": 1}, t))(0.3)
