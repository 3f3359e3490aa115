"""Distributions: densities and samples against SciPy, sample derivatives, shapes, dtypes, signatures.

A case is a constructor with the SciPy distribution of the same parameters and a grid of both: one line each.
"""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro.distributions as numpyro_distributions
import pytest
import scipy.stats as st
from jax import lax

import ppl
from ppl import gen

KEY = jr.key(0)
FAR = [-1e8, -40.0, -3.0, -0.5, 0.0, 1e-300, 0.25, 1.0, 2.0, 5.0, 38.0, 300.0, 1e8]
POSITIVE = [1e-300, 1e-9, 0.1, 0.5, 1.0, 3.0, 50.0, 700.0]
UNIT = [0.0, 1e-300, 1e-9, 0.1, 0.5, 0.9, 1 - 1e-12, 1.0]
COUNTS = [0, 1, 2, 3, 7, 30, 100, 2000]
EYE = np.eye(3)
TRIL = np.array([[1.2, 0, 0], [0.4, 0.7, 0], [-0.9, 0.2, 2.0]])
SPD = TRIL @ TRIL.T
VECTORS = np.array([[0.0, 0, 0], [1, -2, 0.3], [30, 40, -50]])
SIMPLEX = np.array([[0.2, 0.3, 0.5], [1e-9, 0.5, 0.5 - 1e-9], [1 / 3, 1 / 3, 1 / 3]])


@dataclasses.dataclass(frozen=True)
class Case:
    """One constructor: parameter sets, values inside and outside the support, and SciPy's distribution."""

    name: str
    params: list[dict[str, Any]]
    inside: Any
    outside: Any
    scipy: Callable

    def __str__(self) -> str:
        return f"{self.name}-{'-'.join(self.params[0])}"

    @property
    def build(self) -> Callable:
        return getattr(ppl, self.name)

    @property
    def family(self) -> Any:
        return self.build.family


def categorical(probs):
    return st.rv_discrete(values=(np.arange(len(probs)), np.asarray(probs) / np.sum(probs)))


def expit(x):
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def softmax(x):
    return np.exp(x) / np.exp(x).sum()


CASES = [
    Case(
        "normal",
        [dict(loc=0.0, scale=1.0), dict(loc=-1.3, scale=0.07), dict(loc=1e3, scale=50.0)],
        FAR,
        [],
        lambda loc, scale: st.norm(loc, scale),
    ),
    Case(
        "laplace",
        [dict(loc=0.5, scale=1.0), dict(loc=-1.3, scale=0.07)],
        [-40.0, -3.0, -0.5, 0.0, 1e-300, 1.0, 38.0],
        [],
        lambda loc, scale: st.laplace(loc, scale),
    ),
    Case(
        "student_t",
        [dict(df=0.5, loc=0.0, scale=1.0), dict(df=3.0, loc=-1.3, scale=0.07), dict(df=40.0, loc=1.0, scale=2.0)],
        FAR,
        [],
        lambda df, loc, scale: st.t(df, loc, scale),
    ),
    Case(
        "exponential",
        [dict(rate=1.0), dict(rate=0.03), dict(rate=40.0)],
        [0.0, *POSITIVE],
        [-1e-9, -3.0, -np.inf],
        lambda rate: st.expon(scale=1 / rate),
    ),
    Case(
        "gamma",
        [dict(concentration=0.1, rate=1.0), dict(concentration=1.0, rate=3.0), dict(concentration=50.0, rate=0.2)],
        POSITIVE,
        [-1e-9, -3.0, -np.inf],
        lambda concentration, rate: st.gamma(concentration, scale=1 / rate),
    ),
    Case(
        "beta",
        [dict(concentration1=a, concentration0=b) for a, b in [(0.5, 0.5), (1.0, 3.0), (2.0, 1.0), (7.0, 30.0)]],
        UNIT,
        [-1e-9, 1.1, -np.inf, np.inf],
        lambda concentration1, concentration0: st.beta(concentration1, concentration0),
    ),
    Case(
        "uniform",
        [dict(low=0.0, high=1.0), dict(low=-2.0, high=5.0)],
        [0.0, 0.3, 1.0],
        [-2.1, 5.1, np.inf],
        lambda low, high: st.uniform(low, high - low),
    ),
    Case(
        "dirichlet",
        [dict(concentration=np.array(c)) for c in ([0.5, 1.0, 2.0], [5.0, 0.1, 30.0])],
        SIMPLEX,
        np.array([[0.5, 0.5, 0.5], [1.2, -0.2, 0.0], [-1.0, 1.0, 1.0]]),
        lambda concentration: st.dirichlet(concentration),
    ),
    Case(
        "multivariate_normal",
        [dict(loc=np.zeros(3), covariance_matrix=EYE), dict(loc=np.array([1.0, -2, 0]), covariance_matrix=SPD)],
        VECTORS,
        VECTORS[:0],
        lambda loc, covariance_matrix: st.multivariate_normal(loc, covariance_matrix),
    ),
    Case(
        "multivariate_normal",
        [dict(loc=np.array([1.0, -2, 0]), precision_matrix=np.linalg.inv(SPD))],
        VECTORS,
        VECTORS[:0],
        lambda loc, precision_matrix: st.multivariate_normal(loc, np.linalg.inv(precision_matrix)),
    ),
    Case(
        "multivariate_normal",
        [dict(loc=np.array([1.0, -2, 0]), scale_tril=TRIL)],
        VECTORS,
        VECTORS[:0],
        lambda loc, scale_tril: st.multivariate_normal(loc, scale_tril @ scale_tril.T),
    ),
    Case(
        "bernoulli",
        [dict(probs=0.3), dict(probs=0.999), dict(probs=1e-6)],
        [0, 1],
        [-1, 2, 9],
        lambda probs: st.bernoulli(probs),
    ),
    Case(
        "bernoulli",
        [dict(logits=-0.3), dict(logits=12.0), dict(logits=-30.0)],
        [0, 1],
        [-1, 2],
        lambda logits: st.bernoulli(expit(logits)),
    ),
    Case(
        "categorical",
        [dict(probs=np.array(p)) for p in ([0.2, 0.3, 0.5], [1e-6, 0.1, 0.9 - 1e-6], [0.0, 0.5, 0.5])],
        [0, 1, 2],
        [-1, 3, 10],
        categorical,
    ),
    Case(
        "categorical",
        [dict(logits=np.array(v)) for v in ([0.2, 0.3, -0.5], [100.0, 90.0, 110.0])],
        [0, 1, 2],
        [-1, 3],
        lambda logits: categorical(softmax(logits)),
    ),
    Case(
        "poisson", [dict(rate=0.1), dict(rate=3.0), dict(rate=900.0)], COUNTS, [-1, -50], lambda rate: st.poisson(rate)
    ),
]
EACH = pytest.mark.parametrize("case", CASES, ids=str)
FIRST = pytest.mark.parametrize("case", {case.name: case for case in CASES}.values(), ids=str)


def truth(case: Case, params: dict, values: Any) -> np.ndarray:
    """Return SciPy's log density of each value."""
    frozen = case.scipy(**params)
    log = frozen.logpmf if case.family.discrete else frozen.logpdf
    with np.errstate(divide="ignore"):
        return np.array([np.squeeze(log(value)) for value in np.asarray(values)])


def stacked(case: Case, dtype: Any) -> dict:
    """Stack all parameter sets of a case along a leading axis, with one more axis for values."""
    sets = {name: np.stack([params[name] for params in case.params]) for name in case.params[0]}
    return {name: jnp.asarray(p, dtype).reshape(p.shape[:1] + (1,) + p.shape[1:]) for name, p in sets.items()}


def as_values(case: Case, values: Any, dtype: Any) -> jax.Array:
    return jnp.asarray(values, np.int32 if case.family.discrete else dtype)


# --- Densities ---------------------------------------------------------------------------------------------------


@pytest.mark.x64
@EACH
def test_log_density_is_scipys_in_float64(case):
    values = as_values(case, case.inside, np.float64)
    got = jax.jit(lambda params: case.build(**params).log_prob(values))(stacked(case, np.float64))
    assert got.dtype == np.float64
    expected = [truth(case, params, case.inside) for params in case.params]
    np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-10)


@EACH
def test_log_density_is_scipys_in_float32(case):
    values = as_values(case, case.inside, np.float32)
    if values.ndim == 1:  # 1e-300 is 0 here, where densities jump
        values = values[~((values == 0) & (np.asarray(case.inside) != 0))]
    rounded = [{name: np.float64(np.float32(p)) for name, p in params.items()} for params in case.params]
    exact = np.asarray(values, int if case.family.discrete else np.float64)
    if case.name == "dirichlet":
        exact = exact / exact.sum(-1, keepdims=True)
    got = jax.jit(lambda params: case.build(**params).log_prob(values))(stacked(case, np.float32))
    assert got.dtype == np.float32
    expected = [truth(case, params, exact) for params in rounded]
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("case", [case for case in CASES if len(case.outside)], ids=str)
def test_outside_the_support_the_density_is_zero_and_the_derivative_no_nan(case):
    values = as_values(case, case.outside, float)

    def total(params, values):
        log_prob = case.build(**params).log_prob(values)
        return log_prob.sum(), log_prob

    argnums = (0,) if case.family.discrete else (0, 1)
    gradients, log_prob = jax.jit(jax.grad(total, argnums, has_aux=True))(stacked(case, float), values)
    assert (log_prob == -jnp.inf).all()
    assert log_prob.shape == (len(case.params), len(values))
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradients))


FRACTIONS = [0.5, 1.5, -0.5, np.nan, 1e10]


@pytest.mark.parametrize("case", [case for case in CASES if case.family.discrete], ids=str)
def test_discrete_densities_are_zero_off_the_integers(case):
    params = {name: jnp.asarray(p, float) for name, p in case.params[0].items()}
    fractions = jnp.array(FRACTIONS[:-1] if case.name == "poisson" else FRACTIONS)
    density, gradient = jax.jit(jax.vmap(jax.value_and_grad(lambda v: case.build(**params).log_prob(v))))(fractions)
    assert (density == -jnp.inf).all()
    assert (gradient == 0).all()


def test_infinite_counts_have_density_zero():
    assert ppl.poisson(3.0).log_prob(np.inf) == -jnp.inf


CLIPPED = pytest.mark.xfail(reason="NumPyro clips the probabilities of bernoulli: 0 has a log density", strict=True)


@pytest.mark.x64
@pytest.mark.parametrize("probs", [pytest.param(0.0, marks=CLIPPED), 1e-300, 1e-20, pytest.param(1.0, marks=CLIPPED)])
def test_extreme_probabilities_of_bernoulli(probs):
    got = ppl.bernoulli(probs).log_prob(jnp.array([0, 1]))
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(got, np.log([1 - probs, probs]), rtol=1e-10, atol=1e-12)


def loop(function):
    return lambda values: jnp.stack([function(value) for value in values])


def scanned(function):
    return lambda values: lax.scan(lambda _, value: (None, function(value)), None, values)[1]


@FIRST
def test_density_is_the_same_through_transformations(case):
    params = {name: jnp.asarray(p, float) for name, p in case.params[0].items()}
    one = lambda value: case.build(**params).log_prob(value)
    values = as_values(case, case.inside, float)[1:3]
    eager = loop(one)(values)
    for through in (jax.jit(loop(one)), jax.vmap(one), scanned(one), one):
        np.testing.assert_allclose(through(values), eager, rtol=1e-5, atol=1e-5)


@FIRST
def test_batch_axes_broadcast(case):
    params = {name: jnp.asarray(p, float) for name, p in case.params[-1].items()}
    lead = [(2, 1), (3,), ()] if len(params) > 1 else [(2, 3)]
    wide = {name: jnp.broadcast_to(p, n + p.shape) for (name, p), n in zip(params.items(), lead, strict=False)}

    draw = jax.eval_shape(ppl.seed(lambda: case.build(**wide).sample()), KEY)
    assert draw.shape == (2, 3, *np.shape(case.inside)[1:])
    values = as_values(case, case.inside, float)[np.array([[1, 0, 1], [1, 1, 0]])]
    got, expected = jax.jit(lambda v: (case.build(**wide).log_prob(v), case.build(**params).log_prob(v)))(values)
    assert got.shape == (2, 3)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


# --- Samples -----------------------------------------------------------------------------------------------------

NUM = 4000


def chi_square(values, frozen) -> float:
    """Return the p-value of Pearson's test, with rare values taken together."""
    common = np.array([k for k in range(30) if frozen.pmf(k) * NUM > 5])
    expected, observed = frozen.pmf(common) * NUM, (values[:, None] == common).sum(0)
    rest = NUM - expected.sum(), NUM - observed.sum()
    statistic = ((observed - expected) ** 2 / expected).sum() + (rest[1] - rest[0]) ** 2 / max(rest[0], 1e-3)
    return st.chi2(max(len(common) - 1, 1)).sf(statistic)


@EACH
def test_samples_have_the_distribution(case):
    params = case.params[min(1, len(case.params) - 1)]
    wide = {name: jnp.broadcast_to(jnp.asarray(p, float), (NUM, *np.shape(p))) for name, p in params.items()}
    values, frozen = np.asarray(jax.jit(ppl.seed(lambda: case.build(**wide).sample()))(KEY)), case.scipy(**params)
    if case.family.discrete:
        assert chi_square(values, frozen) > 1e-6
    elif not case.family.event_ndim:
        assert st.kstest(values, frozen.cdf).pvalue > 1e-6
    else:
        mean, cov = (moment() if callable(moment) else moment for moment in (frozen.mean, frozen.cov))
        spread = np.sqrt(np.diag(cov))
        assert (np.abs(values.mean(0) - mean) < 4.5 * spread / np.sqrt(NUM)).all()
        assert (np.abs(np.cov(values.T) - cov) < 0.15 * np.outer(spread, spread)).all()


def cdf_derivative(frozen: Callable, params: dict, name: str, x: np.ndarray) -> np.ndarray:
    """Return dx/dp at fixed quantile, -(dF/dp) / f, by a central difference."""
    step = 1e-5 * max(1.0, abs(params[name]))
    up, down = ({**params, name: params[name] + sign * step} for sign in (1, -1))
    return -(frozen(**up).cdf(x) - frozen(**down).cdf(x)) / (2 * step) / frozen(**params).pdf(x)


@pytest.mark.x64
@pytest.mark.parametrize("name", ["normal", "laplace", "exponential", "uniform", "gamma"])
def test_sample_derivative_is_that_of_the_quantile(name):
    case = next(case for case in CASES if case.name == name)
    params = {key: float(p) for key, p in case.params[1].items()} | ({"concentration": 2.3} if name == "gamma" else {})
    one = lambda p, key: ppl.seed(lambda: case.build(**p).sample())(key)
    keys = jr.split(KEY, 100)
    x, tangents = jax.jit(jax.vmap(jax.value_and_grad(one), (None, 0)))(params, keys)
    x = np.asarray(x)
    for parameter, got in tangents.items():
        np.testing.assert_allclose(got, cdf_derivative(case.scipy, params, parameter, x), rtol=2e-5, atol=1e-6)


MOMENTS = {  # a function of a sample, and the derivative of its mean
    "beta": (
        ppl.beta,
        (2.0, 3.0),
        lambda x: x**2,
        lambda a, b: (
            (a + 1) * a / ((a + b + 1) * (a + b)) * (1 / a + 1 / (a + 1) - 1 / (a + b) - 1 / (a + b + 1)),
            (a + 1) * a / ((a + b + 1) * (a + b)) * (-1 / (a + b) - 1 / (a + b + 1)),
        ),
    ),
    "dirichlet": (
        lambda a, b, c: ppl.dirichlet(jnp.stack([a, b, c])),
        (0.7, 1.5, 2.0),
        lambda x: x[..., 0] ** 2,
        lambda a, b, c: (
            (a + 1)
            * a
            / ((a + b + c + 1) * (a + b + c))
            * (1 / a + 1 / (a + 1) - 1 / (a + b + c) - 1 / (a + b + c + 1)),
            *[(a + 1) * a / ((a + b + c + 1) * (a + b + c)) * (-1 / (a + b + c) - 1 / (a + b + c + 1))] * 2,
        ),
    ),
    "student_t": (
        ppl.student_t,
        (9.0, 0.5, 1.5),
        lambda x: x**2,
        lambda df, m, s: (-2 * s**2 / (df - 2) ** 2, 2 * m, 2 * s * df / (df - 2)),
    ),
}


@pytest.mark.parametrize("name", MOMENTS)
def test_sample_derivative_gives_that_of_a_moment(name):
    build, params, moment, derivative = MOMENTS[name]
    one = lambda key, *p: moment(ppl.seed(lambda: build(*p).sample())(key))
    estimate = jax.jit(jax.vmap(jax.grad(one, argnums=tuple(range(1, 1 + len(params)))), (0, *[None] * len(params))))
    for got, expected in zip(estimate(jr.split(KEY, 8000), *params), derivative(*params), strict=True):
        error = np.asarray(got, np.float64).std(ddof=1) / np.sqrt(len(got))
        assert error > 0
        assert abs(np.mean(got) - expected) < 4.5 * error


# --- Types and signatures ----------------------------------------------------------------------------------------


@FIRST
def test_dtype_of_a_sample(case):
    for dtype in (np.float32, float):
        params = {name: jnp.asarray(p, dtype) for name, p in case.params[0].items()}
        sampled = jax.eval_shape(ppl.seed(lambda p: case.build(**p).sample()), KEY, params)
        assert sampled.dtype == (np.int32 if case.family.discrete else jnp.asarray(0.0, dtype).dtype)


def test_integer_parameters_become_floats():
    assert jax.eval_shape(ppl.seed(lambda: ppl.normal(0, 1).sample()), KEY).dtype == jnp.result_type(float)
    assert ppl.poisson(3).log_prob(2) == ppl.poisson(3.0).log_prob(2)
    assert ppl.normal(0, 1).log_prob(1) == ppl.normal(0.0, 1.0).log_prob(1.0)


@pytest.mark.parametrize("value", [1, True, np.int64(1), np.uint8(1), np.float32(1)])
@pytest.mark.parametrize("name", ["bernoulli", "poisson", "exponential"])
def test_observed_integers_and_booleans_are_cast(name, value):
    program = gen(lambda: getattr(ppl, name)(0.3) @ "x")
    np.testing.assert_allclose(program.log_density({"x": value}), getattr(ppl, name)(0.3).log_prob(1.0), rtol=1e-6)


@FIRST
def test_signature_is_numpyros(case):
    theirs = inspect.signature(getattr(numpyro_distributions, case.family.numpyro_name))
    ours = dict(inspect.signature(case.build).parameters)
    assert ours.pop("grad").kind is inspect.Parameter.KEYWORD_ONLY
    names = [p.name for p in theirs.parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert list(ours) == [name for name in names if name != "validate_args"]
    for name, parameter in ours.items():
        if parameter.default is not inspect.Parameter.empty:
            assert parameter.default == theirs.parameters[name].default


def test_every_constructor_has_a_case():
    constructors = {name for name in dir(ppl) if hasattr(getattr(ppl, name), "family")}
    assert constructors == {case.name for case in CASES}
