"""Section 10 of the sheet: objectives at the two-point model exactly, at the Gaussian one by quadrature or z-tests."""

import itertools
import math

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import estimators as es
import ppl
from estimators import mvd
from ppl import enum, pathwise, reinforce
from tests.statistical.objective_cases import (
    GC,
    OBSERVED,
    derivative,
    gaussian,
    law_of_counts,
    law_of_particles,
    two_point,
)
from tests.statistics import assert_unbiased

pytestmark = pytest.mark.x64
DISCRETE = [enum, reinforce, mvd]
every = pytest.mark.parametrize("strategy", DISCRETE)
LOG_EVIDENCE = math.log(0.31)


def exact(objective, theta=0.5, observed=OBSERVED):
    return ppl.exact_gradient(objective)(theta, observed)


def close(actual, expected, digits=7):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=0.51 * 10.0**-digits)


def check(objective, value, gradient, digits=7):
    found = exact(objective)
    close(found.value, value, digits)
    close(found.gradient, gradient, digits)
    return found


# --- Bounds whose gradient must come out exactly, whatever the strategy -------------------------------------------

IWELBO = {2: (-1.2606120, 0.6837566), 3: (-1.2286420, 0.4449587), 5: (-1.2040471, 0.2514002)}


@every
@pytest.mark.parametrize("particles", [2, 3])
@pytest.mark.parametrize("objective", [es.vimco, es.dreg])
def test_importance_weighted_bounds(objective, strategy, particles):
    check(objective(*two_point(strategy), particles), *IWELBO[particles])


def test_vimco_of_five_particles():
    check(es.vimco(*two_point(reinforce), 5), *IWELBO[5])


def test_variance_of_vimco():
    """The sheet: 30.5515 without the baselines, 2.4675 with them."""
    close(exact(es.vimco(*two_point(reinforce), 2)).variance, 2.4675, 4)

    def plain(theta, observed):
        log_weights = jax.vmap(lambda _: es.elbo(*two_point(reinforce))(theta, observed))(jnp.arange(2))
        return jax.nn.logsumexp(log_weights - jnp.log(2))

    close(exact(plain).variance, 30.5515, 4)


def test_vimco_with_a_pathwise_choice_beside():
    """The baseline is for choices by score alone; a pathwise one keeps its path."""

    @ppl.gen
    def model(params):
        b = ppl.bernoulli(0.4) @ "b"
        ppl.normal(ppl.normal(1.0 * b, 1.0) @ "z", 1.0) @ "x"

    @ppl.gen
    def guide(params, observed):
        b = ppl.bernoulli(params[0], grad=reinforce()) @ "b"
        ppl.normal(params[1] + 0.5 * b, 0.8) @ "z"

    theta, observed = jnp.array([0.45, 0.7]), {"x": 1.5}
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    weights = weights / weights.sum()

    def law(theta):
        """A sum over both coins and both noises: 4 * 40**2 terms."""
        log_weight = jax.vmap(lambda b, e: log_weight_of(model, guide, theta, observed, b, e), (None, 0))
        table = [log_weight(b, jnp.asarray(nodes)) for b in (0, 1)]
        probs = [1 - theta[0], theta[0]]
        pair = lambda b, c: jnp.logaddexp(table[b][:, None], table[c][None, :]) - jnp.log(2)
        both = jnp.asarray(weights)[:, None] * jnp.asarray(weights)[None, :]
        return sum(probs[b] * probs[c] * jnp.sum(both * pair(b, c)) for b in (0, 1) for c in (0, 1))

    truth = jax.value_and_grad(law)(theta)
    for objective, power in ((es.vimco, 0.04), (es.dreg, 0.2)):  # `dreg` has no baseline for the coin
        run = ppl.value_and_grad(objective(model, guide, 2))
        assert_unbiased(lambda key, run=run: run(key, theta, observed), truth, jr.key(1), power=power)


def log_weight_of(model, guide, theta, observed, b, noise):
    choices = {"b": b, "z": theta[1] + 0.5 * b + 0.8 * noise}
    log_joint = model.log_density(ppl.merge(choices, observed), theta)
    return log_joint - guide.log_density(choices, theta, observed)


@every
def test_sticking_the_landing_of_two_points(strategy):
    found = check(es.sticking_the_landing(*two_point(strategy)), -1.3500410, 1.2321437)
    close(found.variance, {enum: 0.0, reinforce: 7.2904430, mvd: 0.0}[strategy], 7)


def gradients(objective, num, seed=11):
    """Return gradients at GC, one row a run."""
    grad = jax.jit(jax.vmap(lambda key: ppl.grad(objective)(key, GC, {"x": 2.0})))
    return np.asarray(grad(jr.split(jr.key(seed), num)))


def test_sticking_the_landing_of_gaussians():
    """The sheet: variances .1225 and 1.245 in place of 2.56 and 6.12."""
    objective = es.sticking_the_landing(*gaussian(pathwise))
    truth = (-2.5320821, jnp.array([1.0, -0.35]))
    assert_unbiased(lambda key: ppl.value_and_grad(objective)(key, GC, {"x": 2.0}), truth, jr.key(2))
    np.testing.assert_allclose(gradients(objective, 400_000).var(0), [0.1225, 1.245], rtol=0.05)
    np.testing.assert_allclose(gradients(es.elbo(*gaussian(pathwise)), 400_000).var(0), [2.56, 6.12], rtol=0.05)


def test_the_landing_is_stuck_at_the_posterior():
    at_posterior = jnp.array([1.0, math.sqrt(0.5)])
    for objective in (es.sticking_the_landing, lambda *programs: es.dreg(*programs, 4)):
        run = ppl.grad(objective(*gaussian(pathwise)))
        draws = jax.vmap(lambda key, run=run: run(key, at_posterior, {"x": 2.0}))(jr.split(jr.key(3), 100))
        np.testing.assert_allclose(draws, 0, atol=1e-10)
    plain = jax.vmap(lambda key: ppl.grad(es.elbo(*gaussian(pathwise)))(key, at_posterior, {"x": 2.0}))
    assert float(plain(jr.split(jr.key(3), 100)).std()) > 0.5


def test_doubly_reparameterised_gradient_of_gaussians():
    truth = (-2.3857187, jnp.array([0.5017988, 0.0794045]))
    objective = es.dreg(*gaussian(pathwise), 2)
    assert_unbiased(lambda key: ppl.value_and_grad(objective)(key, GC, {"x": 2.0}), truth, jr.key(4), chunk=2**17)


def test_doubly_reparameterised_signal_grows_with_particles():
    """Tucker et al. (2019): signal to noise ~ sqrt(K), while that of the plain bound falls as 1 / sqrt(K)."""
    ratio = lambda objective: np.abs(gradients(objective, 40_000).mean(0)) / gradients(objective, 40_000).std(0)
    dreg = [ratio(es.dreg(*gaussian(pathwise), num))[0] for num in (2, 32)]
    plain = [ratio(es.iwelbo(*gaussian(pathwise), num))[0] for num in (2, 32)]
    assert dreg[1] > 1.5 * dreg[0]
    assert plain[1] < plain[0] / 1.5


def test_gradient_for_the_model_is_that_of_the_bound():
    """Parameters of the model get sum_i v_i d log p under `dreg`, the very numbers of `iwelbo`; others differ."""

    @ppl.gen
    def model(params):
        ppl.normal(ppl.normal(params[2], 1.0) @ "z", 1.0) @ "x"

    guide = gaussian(pathwise)[1]
    params = jnp.array([0.5, 0.8, 0.3])
    run = lambda objective: ppl.grad(objective)(jr.key(5), params, {"x": 2.0})
    one, other = run(es.dreg(model, guide, 5)), run(es.iwelbo(model, guide, 5))
    close(one[2], other[2], 12)
    assert abs(float(one[0] - other[0])) > 1e-3


# --- Renyi, chi, and their limits --------------------------------------------------------------------------------


@every
def test_renyi_of_two_particles(strategy):
    check(es.renyi(*two_point(strategy), 0.5, 2), -1.3033298, 0.9334944)


@every
@pytest.mark.parametrize(
    ("alpha", "value", "gradient"),
    [(0.5, -1.2566185, 0.5972985), (2.0, -1.5288990, 2.1935484), (-1.0, -1.0397208, -0.8432000)],
)
def test_limits_of_renyi(strategy, alpha, value, gradient):
    """log E w^(1 - a) / (1 - a), from the unbiased form."""
    found, order = exact(es.exp_cubo(*two_point(strategy), 1 - alpha)), 1 - alpha
    close(math.log(found.value) / order, value)
    close(found.gradient / found.value / order, gradient)


def test_renyi_tends_to_its_limit():
    """By the law of counts: the finite bounds, equal to the objective's at K = 2 and 5, close in on the limit."""
    statistic = lambda lw, n: 2 * math.log(np.sum(n * np.exp(lw / 2)) / n.sum())
    for particles in (2, 5):
        value = law_of_counts(0.5, particles, statistic)
        close(exact(es.renyi(*two_point(enum), 0.5, particles)).value, value, 10)
    errors = [abs(law_of_counts(0.5, k, statistic) + 1.2566185) for k in (100, 1000)]
    assert errors[1] < errors[0] / 8
    assert errors[1] < 2e-4


@pytest.mark.parametrize(("alpha", "other"), [(1.0, es.elbo), (0.0, lambda *programs: es.iwelbo(*programs, 3))])
def test_renyi_joins_the_other_bounds(alpha, other):
    one, two = exact(es.renyi(*two_point(reinforce), alpha, 3)), exact(other(*two_point(reinforce)))
    close(one.value, two.value, 12)
    close(one.gradient, two.gradient, 12)


def test_the_order_may_be_traced():
    bound = lambda theta, alpha: es.renyi(*two_point(enum), alpha, 2)(theta, OBSERVED)
    close(ppl.grad(bound)(jr.key(0), 0.5, 0.5), 0.9334944)


def test_renyi_of_gaussians():
    """The sheet: D_.5(q, p) = .1172473, the bound -2.3827595, as log E w^.5 / .5 by a z-test of E w^.5."""
    q, p = (0.5, 0.64), (1.0, 0.5)
    mixed = 0.5 * q[1] + 0.5 * p[1]
    divergence = 0.5 * (q[0] - p[0]) ** 2 / (2 * mixed) + math.log(mixed / math.sqrt(q[1] * p[1]))
    close(divergence, 0.1172473)
    close(-2.2655121 - divergence, -2.3827595, 6)

    def closed(params):
        loc, var = params[0], params[1] ** 2
        mixed = 0.5 * var + 0.25
        distance = (loc - 1) ** 2 / (4 * mixed) + jnp.log(mixed / jnp.sqrt(var * 0.5))
        return jnp.exp(0.5 * (-2.2655121235 - distance))

    truth = jax.value_and_grad(closed)(GC)
    objective = es.exp_cubo(*gaussian(pathwise), 0.5)
    assert_unbiased(lambda key: ppl.value_and_grad(objective)(key, GC, {"x": 2.0}), truth, jr.key(6), chunk=2**18)


@every
def test_cubo_is_biased_downwards_and_its_exponential_is_not(strategy):
    """The sheet: CUBO_2 -1.0397208, gradient -.8432000; with two particles the mean is below."""
    statistic = lambda lw, _: 0.5 * math.log(np.mean(np.exp(2 * lw)))
    law = lambda theta: law_of_particles(theta, 2, statistic)
    found = check(es.cubo(*two_point(strategy), 2), law(0.5), derivative(law, 0.5), digits=8)
    assert float(found.value) < -1.0397208
    unbiased = exact(es.exp_cubo(*two_point(strategy)))
    close(math.log(unbiased.value) / 2, -1.0397208)
    close(unbiased.gradient / unbiased.value / 2, -0.8432000)


# --- Divergences -------------------------------------------------------------------------------------------------

# The sheet has .1589879 for the first: 24/31 log(48/31) + 7/31 log(14/31) = .158987814 in exact arithmetic.
DIVERGENCES = [
    ("kl_forward", 0.1589878, -1.0967742, 7),
    ("kl_reverse", 0.1788580, -1.2321437, 7),
    ("squared_hellinger", 0.0836365, -0.5723205, 7),
    ("total_variation", 0.2741935, -1.0, 7),
    ("jensen_shannon", 0.0414171, -0.2813927, 7),
    ("chi_square", 0.3007284, -2.1935484, 7),
]


@every
@pytest.mark.parametrize(("name", "value", "gradient", "digits"), DIVERGENCES, ids=lambda row: str(row))
def test_f_divergences(strategy, name, value, gradient, digits):
    f = getattr(es.divergences, name)
    check(es.f_divergence(*two_point(strategy), f, log_evidence=LOG_EVIDENCE), value, gradient, digits)


@every
def test_f_divergence_of_an_estimated_evidence(strategy):
    """Biased by design: the mean with two particles is that of the law of two particles."""
    statistic = lambda lw, _: np.mean(2 * (np.sqrt(np.exp(lw) / np.mean(np.exp(lw))) - 1) ** 2) / 2
    law = lambda theta: law_of_particles(theta, 2, statistic)
    objective = es.f_divergence(*two_point(strategy), es.divergences.squared_hellinger, particles=2)
    check(objective, law(0.5), derivative(law, 0.5), digits=8)
    assert abs(law(0.5) - 0.0836365) > 0.01


@pytest.mark.parametrize("name", [row[0] for row in DIVERGENCES])
def test_generators(name):
    """Convex with f(1) = 0, finite or +inf at 0, without NaN in value and derivative."""
    f = getattr(es.divergences, name)
    t = np.linspace(0.01, 5, 400)
    values = np.asarray(f(jnp.log(t)))
    assert (np.diff(values, 2) > -1e-9).all()
    close(f(jnp.array(0.0)), 0, 12)
    assert not np.isnan(f(jnp.array(-jnp.inf)))
    assert np.isfinite(jax.grad(f)(jnp.array(-700.0)))


def test_forward_divergence_of_gaussians():
    """The sheet: KL(p, q) = .2093675, KL(q, p) = .2665700."""
    assert_unbiased_value("kl_forward", 0.2093675)
    assert_unbiased_value("kl_reverse", 0.2665700)


def assert_unbiased_value(name, value):
    log_evidence = -2.2655121235
    objective = es.f_divergence(*gaussian(pathwise), getattr(es.divergences, name), log_evidence=log_evidence)
    q, p = (GC[0], GC[1]), (1.0, math.sqrt(0.5))
    kl = lambda a, b: jnp.log(b[1] / a[1]) + (a[1] ** 2 + (a[0] - b[0]) ** 2) / (2 * b[1] ** 2) - 0.5
    closed = lambda params: kl(p, params) if name == "kl_forward" else kl(params, p)
    truth = jax.value_and_grad(closed)(jnp.array(q))
    close(truth[0], value)
    assert_unbiased(lambda key: ppl.value_and_grad(objective)(key, GC, {"x": 2.0}), truth, jr.key(7), chunk=2**19)


# --- Reweighted wake-sleep ---------------------------------------------------------------------------------------


@every
@pytest.mark.parametrize(("particles", "gradient"), [(1, 0.0), (2, 0.5483871), (5, 0.9120627)])
def test_wake_q(strategy, particles, gradient):
    """The bias of few particles, to the digit, whatever the strategy; the exact gradient is 1.0967742."""
    close(exact(es.wake_q(*two_point(strategy), particles)).gradient, gradient)
    if particles > 1:
        close(exact(es.forward_kl(*two_point(strategy), particles)).gradient, gradient)


@every
@pytest.mark.parametrize("particles", [1, 3])
def test_reweighted_wake_sleep_is_both_phases(strategy, particles):
    """Exactly, in parameters of the model, of the guide and of both: its mean gradient is the sum of theirs."""

    @ppl.gen
    def model(params):
        z = ppl.bernoulli(params["both"]) @ "z"
        ppl.bernoulli(jnp.where(z == 1, params["model"], 0.1)) @ "x"

    @ppl.gen
    def guide(params, observed):
        ppl.bernoulli(params["both"] * params["guide"], grad=strategy()) @ "z"

    params = {"both": 0.6, "model": 0.8, "guide": 0.7}
    gradient = lambda make: ppl.exact_gradient(make(model, guide, particles))(params, {"x": 1}).gradient
    together, of_model, of_guide = map(gradient, (es.reweighted_wake_sleep, es.wake_p, es.wake_q))
    for name in params:
        close(together[name], of_model[name] + of_guide[name])


def test_wake_q_of_twenty_particles():
    """2**20 outcomes: by the law of counts, which gives the objective's own mean at K = 5."""

    def statistic(lw, n):
        shares = n * np.exp(lw)
        shares = shares / shares.sum()
        return shares[1] / 0.5 - shares[0] / 0.5

    close(law_of_counts(0.5, 5, statistic), exact(es.wake_q(*two_point(reinforce), 5)).gradient, 10)
    close(law_of_counts(0.5, 20, statistic), 1.0566248)
    close(law_of_counts(0.5, 20_000, statistic), 1.0967742, 4)


def test_forward_kl_is_minus_a_divergence():
    def statistic(lw, _):
        shares = np.exp(lw) / np.exp(lw).sum()
        return math.log(np.mean(np.exp(lw))) - shares @ lw

    close(exact(es.forward_kl(*two_point(reinforce), 5)).value, law_of_particles(0.5, 5, statistic), 10)
    limit = lambda lw, n: _divergence_of_counts(lw, n)
    close(law_of_counts(0.5, 20_000, limit), -0.1589879, 4)


def _divergence_of_counts(lw, n):
    weights = n * np.exp(lw)
    return math.log(weights.sum() / n.sum()) - weights @ lw / weights.sum()


@pytest.mark.parametrize("strategy", [enum, reinforce])
def test_wake_p(strategy):
    """The model's parameter pi: 2.2580645 in the limit, and sum_i v_i (z_i / pi - (1 - z_i) / (1 - pi)) before."""

    @ppl.gen
    def model(pi):
        z = ppl.bernoulli(pi) @ "z"
        ppl.bernoulli(jnp.where(z, 0.8, 0.1)) @ "x"

    guide = ppl.gen(lambda pi, observed: ppl.bernoulli(0.5 + 0.1 * (pi - 0.3), grad=strategy()) @ "z")

    def statistic(lw, n):
        shares = n * np.exp(lw)
        shares = shares / shares.sum()
        return shares[1] / 0.3 - shares[0] / 0.7

    for particles in (1, 2, 5):
        found = exact(es.wake_p(model, guide, particles), 0.3)
        close(found.gradient, law_of_counts(0.5, particles, statistic), 10)
    close(law_of_counts(0.5, 100_000, statistic), 2.2580645, 4)


def test_wake_and_sleep_detach_the_other_program():
    """One parameter for each program: of every pair one gradient is 0."""

    @ppl.gen
    def model(params):
        z = ppl.bernoulli(params["p"], grad=reinforce()) @ "z"
        ppl.bernoulli(jnp.where(z, 0.8, 0.1), grad=reinforce()) @ "x"

    @ppl.gen
    def guide(params, observed):
        ppl.bernoulli(params["q"], grad=reinforce()) @ "z"

    params = {"p": 0.3, "q": 0.5}
    found = {
        "wake_p": exact(es.wake_p(model, guide, 2), params).gradient,
        "wake_q": exact(es.wake_q(model, guide, 2), params).gradient,
        "forward_kl": exact(es.forward_kl(model, guide, 2), params).gradient,
        "sleep_q": exact(es.sleep_q(model, guide), params).gradient,
    }
    assert float(found["wake_p"]["q"]) == 0
    assert float(found["wake_p"]["p"]) != 0
    for name in ("wake_q", "forward_kl", "sleep_q"):
        assert float(found[name]["p"]) == 0
        assert float(found[name]["q"]) != 0


@pytest.mark.parametrize("strategy", [enum, reinforce])
def test_sleep_q(strategy):
    """E_{p(z, x)} log q(z; x) = sum p(z, x) log q(z; x): unbiased."""

    @ppl.gen
    def model(params):
        z = ppl.bernoulli(0.3, grad=strategy()) @ "z"
        ppl.bernoulli(jnp.where(z, 0.8, 0.1), grad=strategy()) @ "x"

    @ppl.gen
    def guide(params, observed):
        ppl.bernoulli(params[observed["x"]], grad=strategy()) @ "z"

    joint = {(1, 1): 0.24, (1, 0): 0.06, (0, 1): 0.07, (0, 0): 0.63}
    law = lambda q: sum(p * jnp.log(q[x] if z else 1 - q[x]) for (z, x), p in joint.items())
    q = jnp.array([0.2, 0.5])
    found = exact(es.sleep_q(model, guide), q)
    value, gradient = jax.value_and_grad(law)(q)
    close(found.value, value, 10)
    close(found.gradient, gradient, 10)


def test_forward_gradient_of_gaussians():
    """The sheet: d/dm E_p log q = .78125, d/ds .2148438; wake_q comes near with many particles, biased by O(1/K)."""
    grad = jax.jit(jax.vmap(lambda key: ppl.grad(es.wake_q(*gaussian(pathwise), 2000))(key, GC, {"x": 2.0})))
    draws = np.asarray(grad(jr.split(jr.key(8), 2000)))
    error = draws.std(0) / math.sqrt(len(draws))
    assert (np.abs(draws.mean(0) - [0.78125, 0.2148438]) < 4.5 * error + 3e-3).all()


# --- Tempered and thermodynamic ----------------------------------------------------------------------------------

TEMPERED = [
    (0.0, -1.2628643, 2.0794415),
    (0.5, -1.3064527, 1.6557926),
    (1.0, -1.3500410, 1.2321437),
    (2.0, -1.4372177, 0.3848458),
]


@every
@pytest.mark.parametrize(("beta", "value", "gradient"), TEMPERED)
def test_tempered_elbo(strategy, beta, value, gradient):
    check(es.tempered_elbo(*two_point(strategy), beta), value, gradient)


def test_tempering_tells_addresses_of_one_name_apart():
    """A latent "z" and an observed "data/z": only the first is tempered."""

    @ppl.gen
    def model(params):
        z = ppl.bernoulli(0.3) @ "z"
        ppl.bernoulli(jnp.where(z, 0.8, 0.1)) @ ("data", "z")

    guide = two_point(enum)[1]
    found = exact(es.tempered_elbo(model, guide, 0.5), observed={"data": {"z": 1}})
    close(found.value, -1.3064527)
    close(found.gradient, 1.6557926)


@every
@pytest.mark.parametrize("side", ["left", "right"])
def test_thermodynamic(strategy, side):
    """The law of K particles to the digit; in the limit the sheet's -1.2580463 and -1.0891234."""
    objective = es.thermodynamic(*two_point(strategy), 2, side=side)
    law = lambda theta: law_of_counts(theta, 2, lambda lw, n: _bins(lw, n, side))
    check(objective, law(0.5), derivative(law, 0.5), digits=8)
    limit = law_of_counts(0.5, 20_000, lambda lw, n: _bins(lw, n, side))
    close(limit, {"left": -1.2580463, "right": -1.0891234}[side], 4)


def _bins(lw, n, side):
    total = 0.0
    for beta in (0.0, 0.5) if side == "left" else (0.5, 1.0):
        weights = n * np.exp(beta * lw)
        total += 0.5 * (weights @ lw) / weights.sum()
    return total


def test_one_thermodynamic_bin_is_the_elbo():
    check(es.thermodynamic(*two_point(reinforce), 3, betas=(0.0, 1.0)), -1.3500410, 1.2321437)


# --- Divergences from the prior in closed form -------------------------------------------------------------------


@every
def test_closed_divergences_of_two_points(strategy):
    found = check(es.analytic_kl_elbo(*two_point(strategy)), -1.3500410, 1.2321437)
    close(found.variance, {enum: 0.0, reinforce: 6.3793052, mvd: 0.0}[strategy], 7)  # of the likelihood's term alone


@pytest.mark.parametrize("size", [2, 3])
def test_closed_divergences_of_coins_in_lanes(size):
    """Lanes that share their prior's parameters, also where there are as many lanes as values."""

    @ppl.gen
    def model(params):
        jax.vmap(lambda _: ppl.bernoulli(jnp.array([0.3, 0.6])) @ "b")(jnp.arange(size))

    @ppl.gen
    def guide(params, observed):
        jax.vmap(lambda p: ppl.bernoulli(p, grad=ppl.enum()) @ "b")(params)

    q, p = np.linspace(0.1, 0.9, 2 * size).reshape(size, 2), np.array([0.3, 0.6])
    exact = -np.sum(q * np.log(q / p) + (1 - q) * np.log((1 - q) / (1 - p)))
    value = ppl.expect(es.analytic_kl_elbo(model, guide))(jr.key(0), jnp.asarray(q), {})
    np.testing.assert_allclose(value, exact, rtol=1e-12)


def test_no_closed_divergence_of_subsamples_and_foreign_distributions():
    """Their terms stay sampled: the same draws, the same value as the ELBO's."""
    import numpyro.distributions as dist

    datum = ppl.gen(lambda i: ppl.choice(dist.Normal(0.0, 1.0), grad=ppl.pathwise()) @ "z")
    own = ppl.gen(lambda i: ppl.choice(dist.Normal(0.5, 1.0), grad=ppl.pathwise()) @ "z")
    model = ppl.gen(lambda params: ppl.subsample(10, 4, datum)() @ "data")
    guide = ppl.gen(lambda params, observed: ppl.subsample(10, 4, own)() @ "data")
    one, other = (ppl.expect(f(model, guide))(jr.key(0), None, {}) for f in (es.analytic_kl_elbo, es.elbo))
    np.testing.assert_allclose(one, other, rtol=1e-12)


def test_closed_divergences_of_gaussians():
    """d/dm = 2 - z and d/ds = (2 - z) e - (s - 1 / s), e ~ N(0, 1): variances s^2 and (2 - m)^2 + 2 s^2."""
    objective = es.analytic_kl_elbo(*gaussian(pathwise))
    truth = (-2.5320821, jnp.array([1.0, -0.35]))
    assert_unbiased(lambda key: ppl.value_and_grad(objective)(key, GC, {"x": 2.0}), truth, jr.key(9))
    np.testing.assert_allclose(gradients(objective, 400_000).var(0), [0.64, 2.25 + 2 * 0.64], rtol=0.05)


def chained():
    """The guide makes z1, then z2; the model z2, then z1: the prior of z1 depends on what is made after it."""

    @ppl.gen
    def model(theta):
        z2 = ppl.bernoulli(0.3) @ "z2"
        z1 = ppl.bernoulli(0.2 + 0.5 * z2) @ "z1"
        ppl.bernoulli(0.1 + 0.3 * z1 + 0.4 * z2) @ "x"

    @ppl.gen
    def guide(theta, observed):
        z1 = ppl.bernoulli(theta, grad=reinforce()) @ "z1"
        ppl.bernoulli(0.3 + 0.4 * z1, grad=reinforce()) @ "z2"

    return model, guide


def test_a_prior_that_depends_on_the_choice_itself_is_sampled():
    one, other = (exact(objective(*chained()), 0.4) for objective in (es.analytic_kl_elbo, es.elbo))
    close(one.value, other.value, 12)
    close(one.gradient, other.gradient, 12)
    assert abs(float(one.variance - other.variance)) > 0.1, "no divergence in closed form was used"


def test_families_without_a_closed_form_and_lanes_and_scans():
    @ppl.gen
    def model(params):
        scale = ppl.gamma(2.0, 1.0) @ "scale"
        z = jax.vmap(lambda loc: ppl.normal(loc, scale) @ "z")(jnp.arange(3.0))
        jax.lax.scan(lambda s, _: (ppl.normal(s, 1.0) @ "walk", None), 0.0, None, 2)
        ppl.normal(z.sum(), 1.0) @ "x"

    @ppl.gen
    def guide(params, observed):
        ppl.log_normal(params[0], 0.5) @ "scale"
        ppl.normal(params[1] * jnp.ones(3), 0.7) @ "z"
        ppl.normal(jnp.zeros(2), params[2]) @ "walk"

    params, observed = jnp.array([0.1, 0.8, 0.6]), {"x": 2.0}
    mean = lambda f: jax.jit(jax.vmap(lambda key: ppl.value_and_grad(f(model, guide))(key, params, observed)))
    keys = jr.split(jr.key(10), 200_000)
    flat = lambda pair: np.concatenate([np.asarray(pair[0])[:, None], np.asarray(pair[1])], 1)
    one, other = flat(mean(es.analytic_kl_elbo)(keys)), flat(mean(es.elbo)(jr.split(jr.key(12), 200_000)))
    error = np.sqrt((one.var(0) + other.var(0)) / len(keys))
    assert (np.abs(one.mean(0) - other.mean(0)) < 4.5 * error).all()
    assert one[:, 2].var() < other[:, 2].var()


# --- Minibatches -------------------------------------------------------------------------------------------------


def test_minibatches_have_the_mean_of_the_full_bound():
    """Every subset of 2 of 4 observations, enumerated: the mean of the bounds is the bound of all."""
    data = jnp.array([0.3, -1.0, 2.0, 0.7])

    def programs(size):
        @ppl.gen
        def point(i, z):
            ppl.normal(1.0 * z, 1.0) @ "x"

        @ppl.gen
        def model(theta):
            z = ppl.bernoulli(0.3) @ "z"
            ppl.subsample(4, size, point)(z) @ "data"

        return model

    @ppl.gen
    def full(theta):
        z = ppl.bernoulli(0.3) @ "z"
        ppl.normal(1.0 * z * jnp.ones(4), 1.0) @ "x"

    guide = two_point(enum)[1]
    truth = exact(es.elbo(full, guide), observed={"x": data})
    model, subsets = programs(2), list(itertools.permutations(range(4), 2))
    values = [
        exact(es.elbo(model, guide), observed={"data": {"indices": jnp.array(subset), "x": data}}) for subset in subsets
    ]
    # Indices that are given are a part of log p, which is no part of the full bound: log of 1 / 12.
    offset = math.log(len(subsets))
    close(np.mean([float(found.value) for found in values]) + offset, truth.value, 10)
    close(np.mean([float(found.gradient) for found in values]), truth.gradient, 10)
    assert np.std([float(found.value) for found in values]) > 0.1


# --- What is refused ---------------------------------------------------------------------------------------------

MODEL, GUIDE = two_point(reinforce)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: es.vimco(MODEL, GUIDE, 1), "at least 2"),
        (lambda: es.vimco(MODEL, lambda: 0, 2), "generative functions"),
        (lambda: es.dreg(MODEL, GUIDE, 0), "positive number of particles"),
        (lambda: es.renyi(MODEL, GUIDE, float("nan"), 2), "`alpha`"),
        (lambda: es.renyi(MODEL, GUIDE, "1", 2), "`alpha`"),
        (lambda: es.renyi(MODEL, GUIDE, jnp.ones(2), 2), "`alpha`"),
        (lambda: es.cubo(MODEL, GUIDE, 2, order=0.5), "`order`"),
        (lambda: es.exp_cubo(MODEL, GUIDE, offset=float("inf")), "`offset`"),
        (lambda: es.f_divergence(MODEL, GUIDE, es.divergences.kl_forward), "at least 2"),
        (lambda: es.f_divergence(MODEL, GUIDE, "kl", 2), "function of the log ratio"),
        (lambda: es.forward_kl(MODEL, GUIDE, 1), "at least 2"),
        (lambda: es.wake_p(MODEL, GUIDE, True), "positive number"),
        (lambda: es.wake_q(None, GUIDE, 2), "generative functions"),
        (lambda: es.sleep_q(MODEL, 3), "generative functions"),
        (lambda: es.tempered_elbo(MODEL, GUIDE, -1.0), "`beta`"),
        (lambda: es.thermodynamic(MODEL, GUIDE, 2, betas=(0.0, 0.7, 0.5, 1.0)), "bins"),
        (lambda: es.thermodynamic(MODEL, GUIDE, 2, betas=(0.1, 1.0)), "bins"),
        (lambda: es.thermodynamic(MODEL, GUIDE, 2, side="middle"), "side"),
    ],
)
def test_bad_inputs(make, match):
    with pytest.raises(ppl.PPLError, match=match) as caught:
        make()
    assert "test_objectives.py" in str(caught.value)


def test_sleep_names_an_observation_that_is_not_made():
    with pytest.raises(ppl.AddressError, match='makes no choice at "y"'):
        exact(es.sleep_q(MODEL, GUIDE), observed={"y": 1})


@ppl.gen
def hierarchical(theta, observed):
    u = ppl.bernoulli(theta, grad=reinforce()) @ "u"
    ppl.bernoulli(jnp.where(u, 0.9, 0.2), grad=reinforce()) @ "z"


@pytest.mark.parametrize("make", [es.sticking_the_landing, lambda m, g: es.dreg(m, g, 2)])
def test_a_guide_whose_density_is_an_estimate_is_refused(make):
    with pytest.raises(ppl.StrategyError, match="density is an estimate"):
        exact(make(MODEL, ppl.marginal(hierarchical, "z")))


def test_a_model_whose_density_is_an_estimate_is_refused_by_dreg():
    @ppl.gen
    def model(theta):
        u = ppl.bernoulli(0.4, grad=reinforce()) @ "u"
        ppl.bernoulli(jnp.where(u, 0.9, 0.2), grad=reinforce()) @ "z"

    guide = two_point(reinforce)[1]
    with pytest.raises(ppl.StrategyError, match="density is an estimate"):
        exact(es.dreg(ppl.marginal(model, "z"), guide, 2), observed={})
    one, other = (
        exact(make(ppl.marginal(model, "z"), guide), observed={}) for make in (es.sticking_the_landing, es.elbo)
    )
    close(one.gradient, other.gradient, 12)


@pytest.mark.parametrize(
    "make", [es.analytic_kl_elbo, lambda m, g: es.tempered_elbo(m, g, 1.0), lambda m, g: es.renyi(m, g, 1.0, 2)]
)
def test_guides_whose_density_is_an_estimate(make):
    guide = ppl.marginal(hierarchical, "z")
    one, other = exact(make(MODEL, guide)), exact(es.elbo(MODEL, guide))
    close(one.value, other.value, 12)
    close(one.gradient, other.gradient, 12)


def test_forward_divergence_of_a_guide_whose_density_is_an_estimate():
    """Its gradient is that of `wake_q`, the scores of the estimate's own choices included."""
    guide = ppl.marginal(hierarchical, "z")
    one, other = (exact(make(MODEL, guide, 2)) for make in (es.forward_kl, es.wake_q))
    close(one.gradient, other.gradient, 12)
    assert abs(float(one.gradient)) > 0.01


# --- Choices in nested calls, scans and conds --------------------------------------------------------------------


def structured(first, second):
    """A coin, a chain of two coins that starts from it, and a coin that is there only if it shows heads."""

    @ppl.gen
    def chain(prob, start):
        flip = lambda state, _: (1.0 * (ppl.bernoulli(prob + 0.3 * state, grad=first()) @ "c"), None)
        return jax.lax.scan(flip, start, None, 2)[0]

    @ppl.gen
    def model(theta):
        z = ppl.bernoulli(0.3) @ "z"
        last = chain(0.2, 1.0 * z) @ "chain"
        m = jax.lax.cond(z == 1, lambda: 1.0 * (ppl.bernoulli(0.7) @ "m"), lambda: 0.5)
        ppl.bernoulli(0.05 + 0.1 * z + 0.2 * last + 0.1 * m) @ "x"

    @ppl.gen
    def guide(theta, observed):
        z = ppl.bernoulli(theta[0], grad=first()) @ "z"
        chain(theta[1], 1.0 * z) @ "chain"
        jax.lax.cond(z == 1, lambda: 1.0 * (ppl.bernoulli(theta[0], grad=second()) @ "m"), lambda: 0.5)

    return model, guide


@pytest.mark.parametrize(("first", "second"), [(reinforce, reinforce), (enum, enum), (reinforce, enum)])
def test_structured_programs(first, second):
    """Every objective has the mean of the bound that it rewrites."""
    programs, theta = structured(first, second), jnp.array([0.4, 0.3])
    run = lambda make: exact(make(*programs), theta)
    pairs = [
        (es.elbo, [es.sticking_the_landing, es.analytic_kl_elbo, lambda m, g: es.tempered_elbo(m, g, 1.0)]),
        (lambda m, g: es.iwelbo(m, g, 2), [lambda m, g: es.vimco(m, g, 2), lambda m, g: es.dreg(m, g, 2)]),
    ]
    for bound, others in pairs[: 1 if first is enum else 2]:  # enumerated histories of two particles are too many
        truth = run(bound)
        for other in others:
            found = run(other)
            close(found.value, truth.value, 10)
            close(found.gradient, truth.gradient, 10)
