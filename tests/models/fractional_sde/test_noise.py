"""The Markov approximation: closed forms beside quadrature, tables, invariances; what is refused."""

import math
import warnings

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from scipy import integrate, special

from models.fractional_sde import exact
from models.fractional_sde.incomplete_gamma import scaled_upper, sinh_excess
from models.fractional_sde.noise import Noise, brownian, fractional, hurst_of
from models.fractional_sde.process import steps_between
from models.fractional_sde.settings import SettingError
from models.fractional_sde.weights import energy, geometric_rates, inner, optimal_weights, products, residual

RATES = geometric_rates(5, 20.0)
PAPER = {"number": 5, "fastest": 20.0, "horizon": 6.0}
pytestmark = pytest.mark.filterwarnings("ignore:slowest rate")


def distance(rates, hurst, horizon, kind):
    return float(residual(optimal_weights(rates, hurst, horizon, kind), rates, hurst, horizon, kind))


# --- Closed forms ------------------------------------------------------------------------------------------------


def covariance_with(kind, hurst, rate, t):
    """Integrate the product of the kernels of B_H(t) and Y(t) - Y(0) over the Brownian motion's time, by quadrature."""
    a = hurst + 0.5
    kernel = lambda s: (max(t - s, 0.0) ** (a - 1) - (max(-s, 0.0) ** (a - 1) if kind == "I" else 0.0)) / math.gamma(a)
    decay = lambda s: math.exp(-rate * (t - s)) - (math.exp(rate * s) if s < 0 else 0.0)
    inside = integrate.quad(lambda s: math.exp(-rate * s), 0, t, weight="alg", wvar=(a - 1, 0.0))[0] / math.gamma(a)
    if kind == "II":
        return inside
    past = integrate.quad(lambda s: kernel(-s) * decay(-s), 0, 1e-3, epsabs=1e-13)[0]
    return inside + past + integrate.quad(lambda s: kernel(-s) * decay(-s), 1e-3, np.inf, epsabs=1e-13)[0]


@pytest.mark.x64
@pytest.mark.parametrize(("kind", "value"), [("I", 0.896913103), ("II", 0.697175354)])
def test_the_inner_products_are_integrals(kind, value):
    found = float(inner(jnp.array([2.3]), jnp.array(0.3), 1.7, kind)[0])
    assert abs(found - value) < 1e-8
    by_quadrature, _ = integrate.quad(lambda t: covariance_with(kind, 0.3, 2.3, t), 0, 1.7, epsabs=1e-10)
    assert abs(found - by_quadrature) < 2e-7


@pytest.mark.x64
def test_the_energy():
    assert abs(float(energy(0.3, 1.7, "I")) - 2.020871175) < 1e-8
    for kind in ("I", "II"):
        variance = lambda t, kind=kind: exact.fbm_covariance(np.array([t]), 0.3, kind)[0, 0]
        assert abs(integrate.quad(variance, 0, 1.7)[0] - float(energy(0.3, 1.7, kind))) < 1e-7


@pytest.mark.x64
@pytest.mark.parametrize("kind", ["I", "II"])
def test_the_products_are_integrals(kind):
    noise = Noise((0.4, 3.0), jnp.ones(2), kind == "I")
    for weights in ((1.0, 0.0), (0.0, 1.0), (1.0, 1.0)):
        noise = Noise(noise.rates, jnp.array(weights), kind == "I")
        variance = lambda t, noise=noise: exact.approximate_covariance(noise, np.array([t]))[0, 0]
        wanted = np.array(weights) @ products(np.array(noise.rates), 1.3, kind) @ np.array(weights)
        assert abs(integrate.quad(variance, 0, 1.3)[0] - wanted) < 1e-10


@pytest.mark.x64
def test_the_weights_and_the_distance():
    one, two = (optimal_weights(RATES, 0.3, 6.0, kind) for kind in ("I", "II"))
    np.testing.assert_allclose(one, [0.78370837, -0.09288333, 0.47869105, 0.06907719, 1.20410025], atol=1e-6)
    np.testing.assert_allclose(two, [0.87594446, -0.1777847, 0.47421568, 0.09594322, 1.18568937], atol=1e-6)
    for kind, value in (("I", 0.0447323), ("II", 0.0067158)):
        assert abs(distance(RATES, 0.3, 6.0, kind) * energy(0.3, 6.0, kind) / 6.0 - value) < 1e-6


@pytest.mark.x64
@pytest.mark.parametrize("kind", ["I", "II"])
def test_no_other_weights_are_nearer(kind):
    weights = optimal_weights(RATES, 0.7, 6.0, kind)
    slope = jax.grad(lambda weights: residual(weights, RATES, 0.7, 6.0, kind))(weights)
    np.testing.assert_allclose(slope, 0.0, atol=1e-9)
    for direction in np.eye(5):
        assert residual(weights + 0.05 * direction, RATES, 0.7, 6.0, kind) > residual(weights, RATES, 0.7, 6.0, kind)


@pytest.mark.x64
@pytest.mark.parametrize("kind", ["I", "II"])
def test_self_similarity(kind):
    """A clock that runs three times slower changes the weights by 3**(H - 1/2)."""
    slower = optimal_weights(RATES / 3, 0.3, 18.0, kind)
    ratio = 3.0 ** (0.3 - 0.5)
    assert abs(ratio - 0.802741562) < 1e-9
    np.testing.assert_allclose(slower, ratio * optimal_weights(RATES, 0.3, 6.0, kind), rtol=1e-9)


@pytest.mark.x64
def test_how_near_type_two_comes():
    for hurst, value in ((0.2, 2.5e-2), (0.5, 1.0e-5), (0.8, 7.9e-5)):
        assert distance(RATES, hurst, 6.0, "II") == pytest.approx(value, rel=0.02)
    by_number = [distance(geometric_rates(number, 20.0), 0.5, 6.0, "II") for number in (2, 3, 5, 7)]
    np.testing.assert_allclose(by_number, [4.5e-3, 1.2e-3, 1.0e-5, 2.6e-8], rtol=0.02)
    assert by_number == sorted(by_number, reverse=True)


@pytest.mark.x64
def test_how_near_type_one_comes():
    for hurst, value in ((0.2, 4.3e-2), (0.5, 7.3e-2), (0.8, 4.6e-1)):
        assert distance(RATES, hurst, 6.0, "I") == pytest.approx(value, rel=0.02)
    for hurst, value in ((0.3, 5.8e-4), (0.7, 2.8e-2), (0.9, 3.4e-1)):
        assert distance(geometric_rates(10, 1000.0), hurst, 6.0, "I") == pytest.approx(value, rel=0.02)


@pytest.mark.x64
@pytest.mark.parametrize("kind", ["I", "II"])
@pytest.mark.parametrize("hurst", [0.05, 0.4, 0.6, 0.95])
def test_the_distance_is_a_share(kind, hurst):
    assert 0 <= distance(RATES, hurst, 6.0, kind) <= 1


@pytest.mark.x64
def test_the_covariance_of_type_two_is_that_of_its_kernel():
    """Beside min(s, t) at H = 1/2 and a hypergeometric function at H = 0.3."""
    times = np.array([0.3, 1.0, 1.7])
    np.testing.assert_allclose(exact.fbm_covariance(times, 0.5, "II"), np.minimum.outer(times, times), atol=1e-9)
    s, t = np.minimum.outer(times, times), np.maximum.outer(times, times)
    by_hypergeometric = [
        [
            s**a * t ** (a - 1) / (special.gamma(a) ** 2 * a) * special.hyp2f1(1 - a, 1, a + 1, s / t)
            for s, t in zip(*row, strict=True)
        ]
        for a in (0.8,)
        for row in zip(s, t, strict=True)
    ]
    np.testing.assert_allclose(exact.fbm_covariance(times, 0.3, "II"), by_hypergeometric, rtol=1e-8)


@pytest.mark.x64
@pytest.mark.parametrize("hurst", [0.3, 0.5, 0.8])
def test_the_approximation_has_the_covariance_of_fractional_brownian_motion(hurst):
    times = np.linspace(0.4, 6.0, 8)
    noise = fractional(hurst, number=9, fastest=200.0, horizon=6.0, kind="II")
    ours, wanted = exact.approximate_covariance(noise, times), exact.fbm_covariance(times, hurst, "II")
    np.testing.assert_allclose(ours, wanted, atol=5e-3 * wanted.max())


# --- Numerical traps ---------------------------------------------------------------------------------------------


@pytest.mark.x64
@pytest.mark.parametrize("a", [0.6, 1.0, 1.4])
@pytest.mark.parametrize("z", [0.5, 9.999, 10.0, 30.0, 100.0])
def test_the_scaled_incomplete_gamma_function(a, z):
    wanted = mpmath.exp(z) * mpmath.gammainc(a, z, regularized=True)
    assert float(scaled_upper(jnp.array(a), jnp.array(z))) == pytest.approx(float(wanted), rel=1e-10)


@pytest.mark.x64
def test_the_derivative_in_the_first_argument():
    slope = jax.grad(lambda a: scaled_upper(a, jnp.array(3.0)))(0.8) * math.exp(-3.0)
    assert abs(slope - 0.0755321) < 1e-6


def test_nothing_overflows_in_float32():
    """The rate 20 over a horizon of 6: exp(120) is infinite in float32."""
    a = jnp.float32(0.8)
    value, slope = jax.value_and_grad(lambda a: scaled_upper(a, jnp.float32(120.0)))(a)
    assert value.dtype == jnp.float32
    assert math.isfinite(value)
    assert math.isfinite(slope)
    plain = lambda a: jnp.where(False, jnp.exp(jnp.float32(120.0)) * jax.scipy.special.gammaincc(a, 120.0), a)
    assert not math.isfinite(jax.grad(plain)(a))  # the trap is there
    for kind in ("I", "II"):
        slope = jax.grad(lambda hurst, kind=kind: jnp.sum(optimal_weights(RATES, hurst, 6.0, kind)))(jnp.float32(0.3))
        assert math.isfinite(slope)


def test_small_reaches_lose_no_digits_in_float32():
    """Rates down to 0.01 over a horizon of 1: the sheet's form of type I subtracts 800 from 800 to get 1."""
    rates = geometric_rates(5, 100.0)
    with jax.enable_x64(True):
        wanted = np.asarray(inner(jnp.asarray(rates), jnp.asarray(0.8), 1.0, "I"))
    found = inner(jnp.asarray(rates, jnp.float32), jnp.float32(0.8), 1.0, "I")
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, wanted, rtol=3e-5)


@pytest.mark.x64
def test_the_two_forms_of_type_one_meet():
    rates = jnp.array([2.0 - 1e-9, 2.0 + 1e-9])
    low, high = inner(rates, jnp.array(0.7), 1.0, "I")
    assert abs(low - high) < 1e-8
    z = np.array([1e-4, 0.3, 2.0])
    np.testing.assert_allclose(sinh_excess(jnp.asarray(z)), [float(mpmath.sinh(x) - x) for x in z], rtol=1e-7)


@pytest.mark.x64
def test_how_the_condition_grows():
    wanted = {3: 8e1, 5: 5e2, 7: 7e3, 10: 5e5, 15: 9e8}
    for number, condition in wanted.items():
        found = np.linalg.cond(products(geometric_rates(number, 20.0), 6.0, "I"))
        assert 0.5 < found / condition < 2, (number, found)


@pytest.mark.x64
@pytest.mark.parametrize("number", [5, 9, 15])
def test_the_past_has_the_stationary_covariance(number):
    noise = Noise(tuple(geometric_rates(number, 20.0).tolist()), jnp.ones(number), True)
    rates = np.asarray(noise.rates)
    factor = noise.past_factor()
    np.testing.assert_allclose(factor @ factor.T, 1 / (rates[:, None] + rates), atol=1e-8)


def test_a_hurst_index_stays_off_the_edges():
    assert hurst_of(jnp.array(0.0)) == 0.5
    np.testing.assert_allclose(hurst_of(jnp.array([-1e3, 1e3])), [0.02, 0.98], atol=1e-6)


@pytest.mark.x64
def test_a_hurst_index_may_change_in_time():
    changing = fractional(jnp.array([0.3, 0.5, 0.5]), **PAPER, kind="II")
    assert changing.weights.shape == (3, 5)
    np.testing.assert_allclose(changing.weights[0], fractional(0.3, **PAPER, kind="II").weights)
    np.testing.assert_allclose(changing.per_step(3)[2], fractional(0.5, **PAPER, kind="II").weights)


# --- Bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: fractional(0.0, **PAPER, kind="I"), "Hurst index lies strictly"),
        (lambda: fractional(1.2, **PAPER, kind="II"), "Hurst index lies strictly"),
        (lambda: fractional(jnp.array([0.3, 1.0]), **PAPER, kind="II"), "Hurst index lies strictly"),
        (lambda: fractional(math.nan, **PAPER, kind="II"), "Hurst index lies strictly"),
        (lambda: fractional(0.3, **PAPER | {"number": 1}, kind="I"), "at least two rates"),
        (lambda: fractional(0.3, **PAPER | {"fastest": 1.0}, kind="I"), "fastest rate is not above 1"),
        (lambda: fractional(0.3, **PAPER | {"horizon": 0.0}, kind="I"), "horizon is not positive"),
        (lambda: fractional(0.3, **PAPER | {"horizon": -1.0}, kind="I"), "horizon is not positive"),
        (lambda: steps_between([0.0, 0.2, 0.1], 1.0), "do not increase"),
        (lambda: steps_between([0.0, 0.1, 0.1], 1.0), "do not increase"),
        (lambda: steps_between([0.0], 1.0), "do not increase"),
        (lambda: steps_between([0.0, 0.025], 20.0), "too long for the rate"),
    ],
)
def test_what_is_refused(make, words):
    with pytest.raises(SettingError, match=words) as caught:
        make()
    assert isinstance(caught.value, ValueError)
    assert {"where", "expected", "got", "remedy"} <= set(caught.value.details)
    assert __file__ in caught.value.details["where"]


def test_many_rates_are_refused_in_float32():
    with jax.enable_x64(False), pytest.raises(SettingError, match="float32"):
        optimal_weights(geometric_rates(11, 20.0), 0.3, 6.0, "II")
    with jax.enable_x64(False), pytest.raises(SettingError, match="condition"):
        optimal_weights(geometric_rates(7, 200.0), 0.3, 1.0, "II")  # four of them are slower than the horizon
    with jax.enable_x64(True):
        assert optimal_weights(geometric_rates(11, 20.0), 0.3, 6.0, "II").shape == (11,)


def test_a_memory_that_is_too_short_is_warned_of():
    with pytest.warns(UserWarning, match="slowest rate times horizon"):
        fractional(0.8, **PAPER, kind="I")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fractional(0.8, **PAPER, kind="II")
        fractional(0.4, **PAPER, kind="I")
        fractional(0.8, number=7, fastest=100.0, horizon=6.0, kind="I")


def test_brownian_motion_has_one_rate_of_zero():
    noise = brownian()
    assert noise.rates == (0.0,)
    np.testing.assert_array_equal(exact.approximate_covariance(noise, np.array([1.0, 2.0])), [[1, 1], [1, 2]])
