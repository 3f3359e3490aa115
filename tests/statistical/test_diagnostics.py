"""Diagnostics: against scipy, closed forms, and fits whose faults are known."""

import math

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.stats

import estimators as es
import ppl
from estimators.diagnostics import generalized_pareto_shape, statistics
from tests.statistical.objective_cases import OBSERVED, gaussian, two_point

pytestmark = pytest.mark.x64
POSTERIOR = (1.0, math.sqrt(0.5))  # of the Gaussian model at x = 2


# --- The tail of weights -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [-0.3, 0.0, 0.3, 0.7, 1.2])
def test_shape_of_known_tails(shape):
    """The mean over 50 samples of 1,000: within 4.5 standard errors and the estimator's own small bias of .01."""
    draws = [scipy.stats.genpareto(shape, scale=2.0).rvs(1000, random_state=seed) for seed in range(50)]
    found = np.array([float(generalized_pareto_shape(jnp.asarray(x))) for x in draws])
    assert abs(found.mean() - shape) < 4.5 * found.std(ddof=1) / math.sqrt(50) + 0.01
    assert 0 < found.std() < 0.15


@pytest.mark.parametrize("scale", [0.2, 0.6, 0.8, 1.2])
def test_k_of_gaussian_weights(scale):
    """Weights N(0, 1) / N(0, s): w ~ exp(-z^2 (1 - 1 / s^2) / 2) has the tail 1 - s^2 (s < 1), and none for s > 1."""
    z = scale * jr.normal(jr.key(0), (40_000,))
    k = float(es.pareto_k(-(z**2) / 2 + (z / scale) ** 2 / 2))
    if scale < 1:
        assert abs(k - (1 - scale**2)) < 0.2  # the limit is approached slowly: the tail is not exactly Pareto's
    else:
        assert k < 0


def test_k_at_the_edges():
    assert float(es.pareto_k(jnp.zeros(100))) == -math.inf
    assert float(es.pareto_k(jnp.zeros(100).at[3].set(jnp.nan))) == math.inf
    assert float(es.pareto_k(jnp.zeros(100).at[3].set(jnp.inf))) == math.inf
    assert math.isfinite(float(es.pareto_k(jr.normal(jr.key(1), (100,)).at[:60].set(-jnp.inf))))
    lone = jnp.full(100, -jnp.inf).at[7].set(0.0)
    assert float(es.pareto_k(lone)) > 0.7
    with pytest.raises(ppl.PPLError, match="more weights"):
        es.pareto_k(jnp.zeros(24))
    with pytest.raises(ppl.PPLError, match="more exceedances"):
        generalized_pareto_shape(jnp.ones(4))


# --- Tests of uniformity -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_p_values_are_those_of_scipy(seed):
    random = np.random.default_rng(seed)
    values = random.beta(1.0, 1.2, size=200)
    np.testing.assert_allclose(statistics.uniform_p(values), scipy.stats.kstest(values, "uniform").pvalue, atol=0.02)
    counts = random.integers(5, 20, size=12)
    np.testing.assert_allclose(statistics.chi_square_p(counts), scipy.stats.chisquare(counts).pvalue, rtol=1e-6)


def test_p_values_of_symmetric_numbers_are_uniform():
    random = np.random.default_rng(0)
    found = [statistics.symmetric_p(random.beta(2, 2, size=400)) for _ in range(1000)]
    assert scipy.stats.kstest(found, "uniform").pvalue > 0.001
    assert statistics.symmetric_p(random.beta(2, 3, size=400)) < 1e-6


# --- Bounds from both sides --------------------------------------------------------------------------------------


def symmetric_divergence(distance, q_var, p_var=0.5):
    """Return KL(p, q) + KL(q, p) of normals whose means differ by `distance` in the mean square."""
    return (p_var + distance) / (2 * q_var) + (q_var + distance) / (2 * p_var) - 1


def test_sandwich_with_draws_of_the_posterior():
    """The sheet: KL(p, q) + KL(q, p) = .2093675 + .2665700."""
    draws = {"z": 1 + math.sqrt(0.5) * jr.normal(jr.key(1), (40_000,))}
    params = jnp.array([0.5, 0.8])
    found = es.sandwich(*gaussian(ppl.pathwise), params, {"x": 2.0}, key=jr.key(2), samples=40_000, draws=draws)
    np.testing.assert_allclose(symmetric_divergence(0.25, 0.64), 0.2093675 + 0.2665700, atol=1e-7)
    assert abs(found.gap - 0.4759375) < 4.5 * found.gap_error < 0.05
    assert abs(found.elbo + 2.5320821) < 4.5 * found.elbo_error
    assert found.elbo < -2.2655121 < found.eubo
    assert "log evidence" in str(found)


def test_sandwich_with_dreams():
    """x ~ N(0, 2), the posterior's mean x / 2: E (x / 2 - .5)^2 = .75."""
    found = es.sandwich(*gaussian(ppl.pathwise), jnp.array([0.5, 0.8]), {"x": 2.0}, key=jr.key(3), samples=40_000)
    assert abs(found.gap - symmetric_divergence(0.75, 0.64)) < 4.5 * found.gap_error < 0.1


def test_sandwich_of_a_discrete_posterior():
    """One draw of each value, with the posterior's frequencies 24 : 7, gives the exact EUBO."""
    draws = {"z": jnp.array([1] * 24 + [0] * 7)}
    found = es.sandwich(*two_point(ppl.reinforce), 0.5, OBSERVED, key=jr.key(4), samples=40_000, draws=draws)
    np.testing.assert_allclose(found.eubo, math.log(0.31) + 0.1589878, atol=1e-6)
    assert abs(found.elbo + 1.3500410) < 4.5 * found.elbo_error


# --- Calibration -------------------------------------------------------------------------------------------------


@ppl.gen
def amortised(params, observed):
    shift, scale = params
    ppl.normal(observed["x"] / 2 + shift, scale) @ "z"


MODEL = gaussian(ppl.pathwise)[0]


@pytest.mark.parametrize(
    ("shift", "scale", "calibrated", "centred", "words"),
    [
        (0.0, POSTERIOR[1], True, True, "nothing wrong"),
        (0.0, 0.5, False, True, "too narrow"),
        (0.0, 1.0, False, True, "too wide"),
        (0.3, POSTERIOR[1], False, False, "too high"),
        (-0.3, 0.5, False, False, "too low and too narrow"),
    ],
)
def test_calibration(shift, scale, calibrated, centred, words):
    run = lambda test: test(MODEL, amortised, (shift, scale), {"x": 0.0}, key=jr.key(5))
    found = run(es.sbc)
    assert found.ok is calibrated
    assert words in str(found)
    assert run(es.vsbc).ok is centred


def test_calibration_of_coins_and_arrays():
    """Ties are broken at random: a discrete posterior is calibrated, too; every element has its own row."""

    @ppl.gen
    def model(params):
        z = ppl.bernoulli(jnp.array([0.3, 0.6])) @ "z"
        ppl.bernoulli(jnp.where(z, 0.8, 0.1)) @ "x"

    @ppl.gen
    def guide(params, observed):
        joint = jnp.array([0.3, 0.6]) * jnp.where(observed["x"], 0.8, 0.2)
        other = jnp.array([0.7, 0.4]) * jnp.where(observed["x"], 0.1, 0.9)
        ppl.bernoulli(joint / (joint + other) * params) @ "z"

    found = es.sbc(model, guide, 1.0, {"x": jnp.zeros(2, int)}, key=jr.key(6))
    assert [one.name for one in found.coordinates] == ["z[0]", "z[1]"]
    assert found.ok
    assert not es.sbc(model, guide, 0.6, {"x": jnp.zeros(2, int)}, key=jr.key(6)).ok


def test_calibration_of_a_guide_that_is_fitted_each_time():
    fit = lambda key, observed: jnp.array([observed["x"] / 2, POSTERIOR[1]])
    guide = gaussian(ppl.pathwise)[1]
    found = es.sbc(MODEL, guide, None, {"x": 0.0}, key=jr.key(7), simulations=200, fit=fit)
    assert found.ok
    assert not es.sbc(MODEL, guide, jnp.array([0.0, 0.7]), {"x": 0.0}, key=jr.key(7), simulations=200).ok


def test_calibration_refuses():
    with pytest.raises(ppl.PPLError, match="`simulations`"):
        es.sbc(MODEL, amortised, (0.0, 1.0), {"x": 0.0}, key=jr.key(8), simulations=10)
    sometimes = ppl.gen(lambda params: jax.lax.cond(params > 0, lambda: ppl.normal(0.0, 1.0) @ "z", lambda: 0.0))
    with pytest.raises(ppl.PPLError, match="only sometimes"):
        es.sbc(sometimes, ppl.gen(lambda p, o: ppl.normal(0.0, 1.0) @ "z"), 1.0, {}, key=jr.key(8))


# --- Gradients ---------------------------------------------------------------------------------------------------


def test_signal_to_noise():
    """d/da (a + e)^2 + 10 (b + f) = (2 (a + e), 10): ratio |a| for the first, no noise in the second."""

    def cost(theta):
        z = ppl.normal(theta[0], 1.0).sample("z")
        w = ppl.normal(theta[1], 1.0).sample("w")
        return z**2 + 10 * w

    found = es.signal_to_noise(cost)(jr.key(9), jnp.array([3.0, 0.0]), samples=20_000)
    np.testing.assert_allclose(found.elementwise[0], 3.0, rtol=0.05)
    assert found.elementwise[1] == math.inf
    np.testing.assert_allclose(found.overall, math.hypot(6, 10) / 2, rtol=0.05)
    np.testing.assert_allclose(found.by_choice["z"], found.overall, rtol=0.05)
    assert found.by_choice["w"] > 100
    assert str(found).splitlines()[1].strip().startswith("z")


def test_bias_is_exact():
    cost = lambda strategy: lambda p: (ppl.bernoulli(p, grad=strategy).sample("b") - 0.45) ** 2 * p
    assert es.bias(cost(ppl.reinforce()))(0.3).largest < 1e-12
    assert es.bias(cost(es.mvd()))(0.3).largest < 1e-12
    found = es.bias(cost(es.dropped()))(0.3)
    np.testing.assert_allclose(found.bias, -0.3 * (1 - 0.9), atol=1e-12)  # p d/dp E (b - .45)^2 is left out
    with pytest.raises(ppl.StrategyError):
        es.bias(lambda loc: ppl.normal(loc, 1.0).sample("z") ** 2)(0.3)


# --- The verdict -------------------------------------------------------------------------------------------------


@ppl.gen
def two_modes(params):
    z = ppl.normal(0.0, 3.0) @ "z"
    ppl.normal(jnp.abs(z), 0.3) @ "x"


GUIDE = ppl.gen(lambda params, observed: ppl.normal(params[0], params[1]) @ "z")


def judge(model, guide, params, **options):
    return es.verdict(model, guide, params, {"x": 2.0}, key=jr.key(10), **options)


def test_a_good_fit():
    found = judge(MODEL, GUIDE, POSTERIOR)
    assert found.ok
    assert found.grade == "good"
    assert {finding.name for finding in found.findings} == {"outside", "k_hat", "ess", "missed"}
    assert abs(found.elbo + 2.2655121) < 1e-6
    assert abs(found.log_evidence + 2.2655121) < 0.05
    assert not found.notes
    assert "Verdict: good" in str(found)


@pytest.mark.parametrize(("scale", "grade"), [(0.6, "good"), (0.5, "usable"), (0.3, "bad")])
def test_a_fit_that_is_too_narrow(scale, grade):
    """k = 1 - 2 scale^2: .28, .5, .82."""
    found = judge(MODEL, GUIDE, (1.0, scale))
    assert found.grade == grade
    assert found["k_hat"].grade == grade
    if grade == "bad":
        assert "a richer guide" in str(found)
        assert "Vehtari" in found["k_hat"].rule


def test_a_fit_that_is_too_wide_is_usable_at_worst():
    assert judge(MODEL, GUIDE, (1.0, 2.0)).ok


def test_a_missed_mode():
    """Weights of the guide's own draws show nothing; half of the mass is elsewhere."""
    found = judge(two_modes, GUIDE, (2.0, 0.3))
    assert found["k_hat"].grade == found["ess"].grade == "good"
    assert found["missed"].grade == "bad"
    assert abs(found["missed"].value - 0.5) < 0.05
    assert abs(found.log_evidence - found.elbo - math.log(2)) < 0.1
    assert not found.ok

    @ppl.gen
    def both(params, observed):
        side = ppl.bernoulli(0.5) @ "side"
        ppl.normal(2.0 * (2 * side - 1), 0.3) @ "z"

    covering = ppl.marginal(both, "z", method=ppl.methods.exact())
    assert judge(two_modes, covering, None).grade == "good"


def test_wrong_supports():
    narrow = ppl.gen(lambda params, observed: ppl.uniform(0.0, 2.0) @ "z")
    assert judge(MODEL, narrow, None)["missed"].grade == "bad"
    positive = ppl.gen(lambda params: ppl.normal(ppl.exponential(1.0) @ "z", 1.0) @ "x")
    found = judge(positive, GUIDE, POSTERIOR)
    assert not found.ok
    assert "not inside" in found.problems[0]
    beyond = ppl.gen(lambda params: ppl.normal(ppl.uniform(0.0, 1.0) @ "z", 1.0) @ "x")
    wider = ppl.gen(lambda params, observed: ppl.uniform(0.0, 2.0) @ "z")
    outside = judge(beyond, wider, None)["outside"]
    assert outside.grade == "bad"
    assert abs(outside.value - 0.5) < 0.05


def test_addresses_that_do_not_fit():
    found = judge(MODEL, ppl.gen(lambda params, observed: ppl.normal(0.0, 1.0) @ "y"), None)
    assert found.grade == "bad"
    assert '"y"' in str(found)


def test_a_guide_without_strategies_is_judged():
    """Nothing is differentiated: a guide that was trained by `wake_q` needs none."""
    guide = ppl.gen(lambda q, observed: ppl.bernoulli(q) @ "z")
    model = two_point(ppl.enum)[0]
    assert es.verdict(model, guide, 24 / 31, OBSERVED, key=jr.key(11)).grade == "good"
    assert not es.verdict(model, guide, 1e-3, OBSERVED, key=jr.key(11)).ok


def test_what_could_not_be_judged_is_said():
    vague = ppl.gen(lambda params: ppl.normal(ppl.normal(0.0, 1e6) @ "z", 1.0) @ "x")
    found = judge(vague, GUIDE, (2.0, 1.0))
    assert any("few draws of the prior" in note for note in found.notes)

    @ppl.gen
    def weighted(params):
        z = ppl.normal(0.0, 1.0) @ "z"
        ppl.factor(-(z**2)) @ "f"
        ppl.normal(z, 1.0) @ "x"

    assert any("was not looked at" in note for note in judge(weighted, GUIDE, (0.5, 0.5)).notes)


def test_pictures(tmp_path):
    for name, found in {
        "good": judge(MODEL, GUIDE, POSTERIOR, samples=500),
        "missed": judge(two_modes, GUIDE, (2.0, 0.3), samples=500),
        "unfit": judge(MODEL, ppl.gen(lambda params, observed: ppl.normal(0.0, 1.0) @ "y"), None),
        "ranks": es.sbc(MODEL, amortised, (0.0, 0.5), {"x": 0.0}, key=jr.key(12), simulations=100),
    }.items():
        found.picture(tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size > 5000


def test_too_few_samples():
    with pytest.raises(ppl.PPLError, match="at least 100"):
        judge(MODEL, GUIDE, POSTERIOR, samples=10)
