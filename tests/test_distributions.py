"""Distributions: densities and samples against SciPy, sample derivatives, strategies, shapes, dtypes, signatures.

The cases are in `distribution_cases.py`, one entry each.
"""

import inspect
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro.distributions as numpyro_distributions
import pytest
import scipy.stats as st
from jax import lax
from scipy import special

import ppl
from ppl import PPLError, StrategyError, UnsoundGradientError, gen
from ppl.distributions.constructor import default_strategy
from tests.distribution_cases import CASES, Case, categorical, expit, ordered, softmax, truncated

KEY = jr.key(0)
EACH = pytest.mark.parametrize("case", CASES, ids=str)
FIRST = pytest.mark.parametrize("case", {case.name: case for case in reversed(CASES)}.values(), ids=str)


def truth(case: Case, params: dict, values: Any) -> np.ndarray:
    """Return SciPy's log density of each value."""
    frozen = case.scipy(**params)
    log = frozen.logpmf if case.family.discrete else frozen.logpdf
    with np.errstate(divide="ignore"):
        return np.array([np.squeeze(log(value)) for value in np.asarray(values)])


def as_params(params: dict, dtype: Any) -> dict:
    return {name: jnp.asarray(p, np.int32 if np.asarray(p).dtype.kind == "i" else dtype) for name, p in params.items()}


def stacked(case: Case, dtype: Any) -> dict:
    """Stack all parameter sets of a case along a leading axis, with one more axis for values."""
    sets = {name: np.stack([params[name] for params in case.params]) for name in case.params[0]}
    return as_params({name: p.reshape(p.shape[:1] + (1,) + p.shape[1:]) for name, p in sets.items()}, dtype)


def split(params: dict) -> tuple[dict, dict]:
    """Split parameters into floats, which have derivatives, and integers."""
    floats = {name: p for name, p in params.items() if jnp.issubdtype(p.dtype, jnp.inexact)}
    return floats, {name: p for name, p in params.items() if name not in floats}


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
    if values.ndim == 1 and not case.family.discrete:  # what rounds to an edge has another density there
        kept = np.asarray(values, np.float64)
        rounded = np.asarray(case.inside)
        values = values[~(((kept == 0) & (rounded != 0)) | ((kept == 1) & (rounded != 1)))]
    rounded = [{name: as_given(p) for name, p in params.items()} for params in case.params]
    exact = np.asarray(values, int if case.family.discrete else np.float64)
    if case.name == "dirichlet":
        exact = exact / exact.sum(-1, keepdims=True)
    got = jax.jit(lambda params: case.build(**params).log_prob(values))(stacked(case, np.float32))
    if case.static or rounded and any(np.asarray(p).dtype.kind == "f" for p in rounded[0].values()):
        assert got.dtype == (np.float32 if split(stacked(case, np.float32))[0] else float)
    expected = [truth(case, params, exact) for params in rounded]
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=2e-4)


def as_given(p):
    return p if np.asarray(p).dtype.kind == "i" else np.float64(np.float32(p))


@pytest.mark.parametrize("case", [case for case in CASES if len(case.outside)], ids=str)
def test_outside_the_support_the_density_is_zero_and_the_derivative_no_nan(case):
    values = as_values(case, case.outside, float)

    def total(floats, values, ints):
        log_prob = case.build(**floats, **ints).log_prob(values)
        return log_prob.sum(), log_prob

    argnums = (0,) if case.family.discrete else (0, 1)
    floats, ints = split(stacked(case, float))
    gradients, log_prob = jax.jit(jax.grad(total, argnums, has_aux=True))(floats, values, ints)
    assert (log_prob == -jnp.inf).all()
    assert log_prob.shape == (len(case.params), len(values))
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradients))


FRACTIONS = [0.5, 1.5, -0.5, np.nan, 1e10, np.inf]


@pytest.mark.parametrize("case", [case for case in CASES if case.family.discrete], ids=str)
def test_discrete_densities_are_zero_off_the_integers(case):
    params = as_params(case.params[0], float)
    fractions = jnp.array(FRACTIONS).reshape((-1,) + (1,) * case.family.event_ndim)
    fractions = fractions + jnp.zeros(np.shape(case.inside)[1:])
    density, gradient = jax.jit(jax.vmap(jax.value_and_grad(lambda v: case.build(**params).log_prob(v))))(fractions)
    assert (density == -jnp.inf).all()
    assert (gradient == 0).all()


@pytest.mark.x64
@pytest.mark.parametrize("probs", [0.0, 1e-20, 1.0])
def test_tiny_probabilities_of_bernoulli_keep_their_density(probs):
    got = ppl.bernoulli(probs).log_prob(jnp.array([0, 1]))
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(got, [np.log1p(-probs), np.log(probs)], rtol=1e-10)


EDGES = [  # Densities at the edge of their parameters, where 0 * log(0) would have no derivative.
    (lambda p: ppl.bernoulli(p).log_prob(0), 0.0, -1.0),
    (lambda p: ppl.bernoulli(p).log_prob(1), 1.0, 1.0),
    (lambda p: ppl.binomial(3, p).log_prob(0), 0.0, -3.0),
    (lambda p: ppl.binomial(3, p).log_prob(3), 1.0, 3.0),
    (lambda p: ppl.geometric(p).log_prob(0), 1.0, 1.0),
    (lambda p: ppl.negative_binomial(2.0, p).log_prob(0), 0.0, -2.0),
    (lambda m: ppl.negative_binomial2(m, 2.0).log_prob(0), 0.0, -1.0),
    (lambda p: ppl.zero_inflated_poisson(p, 0.5).log_prob(0), 1.0, 1 - np.exp(-0.5)),
    (lambda p: ppl.zero_inflated_poisson(p, 0.5).log_prob(0), 0.0, np.exp(0.5) - 1),
    (lambda p: ppl.multinomial(2, jnp.stack([p, 1 - p])).log_prob(jnp.array([0, 2])), 0.0, -2.0),
]


@pytest.mark.parametrize("edge", range(len(EDGES)))
def test_derivatives_at_the_edge_of_the_parameters(edge):
    density, at, expected = EDGES[edge]
    np.testing.assert_allclose(jax.jit(jax.grad(density))(at), expected, rtol=1e-5)


OPEN = ["real", "real_vector", "real_matrix", "positive", "nonnegative", "unit_interval", "interval", "circular"]


@pytest.mark.x64
@FIRST
def test_derivatives_of_the_density(case):
    """Along one random direction in all float parameters, and in the value where its support is open."""
    if case.name == "delta":
        pytest.skip("its density has no derivative where the point moves")
    floats, ints = split(as_params(case.params[0], np.float64))
    values = as_values(case, np.asarray(case.inside)[1:3], np.float64)
    moved = (floats, values) if case.family.support.name in OPEN else (floats,)
    if not jax.tree.leaves(moved):
        return
    random = np.random.default_rng(zlib.crc32(case.name.encode()))
    direction = jax.tree.map(lambda leaf: leaf * random.uniform(0.3, 1, leaf.shape), moved)

    def density(*moved):
        return case.build(**moved[0], **ints).log_prob(moved[1] if len(moved) > 1 else values).sum()

    step = 1e-5
    at = lambda h: jax.tree.map(lambda leaf, d: leaf + h * d, moved, direction)

    @jax.jit
    def both():
        ends = jax.vmap(lambda h: density(*at(h)))(jnp.array([step, -step]))
        gradient = jax.grad(density, tuple(range(len(moved))))(*moved)
        products = jax.tree.map(lambda g, d: (g * d).sum(), gradient, direction)
        return (ends[0] - ends[1]) / (2 * step), sum(jax.tree.leaves(products)), ends[0]

    expected, got, size = both()
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6 + 1e-9 * abs(float(size)))


def loop(function):
    return lambda values: jnp.stack([function(value) for value in values])


def scanned(function):
    return lambda values: lax.scan(lambda _, value: (None, function(value)), None, values)[1]


@FIRST
def test_density_is_the_same_through_transformations(case):
    params = as_params(case.params[0], float)
    one = lambda value: case.build(**params).log_prob(value)
    values = as_values(case, case.inside, float)[1:3]
    ways = (loop(one), jax.vmap(one), scanned(one), one)
    for got in jax.jit(lambda values: [way(values) for way in ways])(values):
        np.testing.assert_allclose(got, [truth(case, case.params[0], case.inside[1:3])][0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["normal", "truncated_normal", "binomial", "dirichlet", "wishart"])
def test_density_is_the_same_when_it_is_not_compiled(name):
    case = next(case for case in CASES if case.name == name)
    params, values = as_params(case.params[0], float), as_values(case, case.inside, float)[1]
    one = lambda value: case.build(**params).log_prob(value)
    np.testing.assert_allclose(one(values), jax.jit(one)(values), rtol=1e-6)


@FIRST
def test_batch_axes_broadcast(case):
    params = as_params(case.params[-1], float)
    lead = [(2, 1), (3,), (), ()] if len(params) > 1 else [(2, 3)]
    wide = {name: jnp.broadcast_to(p, n + p.shape) for (name, p), n in zip(params.items(), lead, strict=False)}

    draw = jax.eval_shape(ppl.seed(lambda: case.build(**wide).sample()), KEY)
    assert draw.shape == (2, 3, *np.shape(case.inside)[1:])
    values = as_values(case, case.inside, float)[np.array([[1, 0, 1], [1, 1, 0]])]
    got, expected = jax.jit(lambda v: (case.build(**wide).log_prob(v), case.build(**params).log_prob(v)))(values)
    assert got.shape == (2, 3)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


# --- Samples -----------------------------------------------------------------------------------------------------

NUM = 2000


def chi_square(values, frozen) -> float:
    """Return the p-value of Pearson's test; values that are expected less than five times are taken together.

    Where even those are expected less than five times, they go to the rarest of the others.
    """
    common = np.array([k for k in range(-5, 30) if frozen.pmf(k) * NUM > 5])
    expected, observed = frozen.pmf(common) * NUM, (values[:, None] == common).sum(0)
    expected, observed = (np.append(e, NUM - e.sum()) for e in (expected, observed))
    if expected[-1] < 5:
        rarest = expected[:-1].argmin()
        expected[rarest], observed[rarest] = expected[rarest] + expected[-1], observed[rarest] + observed[-1]
        expected, observed = expected[:-1], observed[:-1]
    return st.chi2(max(len(expected) - 1, 1)).sf(((observed - expected) ** 2 / expected).sum())


@EACH
def test_samples_have_the_distribution(case):
    params = case.params[min(1, len(case.params) - 1)]
    if case.name == "truncated_normal" and params["loc"] == 30 and not jax.config.jax_enable_x64:
        pytest.xfail(
            "NumPyro's sampler underflows beyond 13 standard deviations in float32: all samples lie at a bound"
        )
    wide = {name: jnp.broadcast_to(p, (NUM, *p.shape)) for name, p in as_params(params, float).items()}
    draw = ppl.seed(lambda: case.build(**wide).sample())
    inside = lambda values: case.build(**wide).log_prob(values)
    values, density = jax.jit(lambda key: (lambda x: (x, inside(x)))(draw(key)))(KEY)
    assert (density > -jnp.inf).all()
    values, frozen = np.asarray(values), case.scipy(**params)
    if case.name == "delta":
        assert (values == params["v"]).all()
    elif case.family.event_ndim:
        values = getattr(frozen, "statistic", lambda x: x)(values).reshape(NUM, -1)
        mean, cov = (np.asarray(m() if callable(m) else m) for m in (frozen.mean, frozen.cov))
        spread = np.sqrt(np.diag(cov))
        assert (np.abs(values.mean(0) - mean) < 4.5 * spread / np.sqrt(NUM)).all()
        assert (np.abs(np.cov(values.T) - cov) < 0.2 * np.outer(spread, spread)).all()
    elif case.family.discrete:
        assert chi_square(values, frozen) > 1e-6
    else:
        assert st.kstest(values, frozen.cdf).pvalue > 1e-6


def cdf_derivative(frozen: Callable, params: dict, name: str, x: np.ndarray) -> np.ndarray:
    """Return dx/dp at fixed quantile, -(dF/dp) / f, by a central difference."""
    step = 1e-5 * max(1.0, abs(params[name]))
    up, down = ({**params, name: params[name] + sign * step} for sign in (1, -1))
    return -(frozen(**up).cdf(x) - frozen(**down).cdf(x)) / (2 * step) / frozen(**params).pdf(x)


MONOTONE = """
normal laplace soft_laplace logistic gumbel cauchy exponential gamma chi2 inverse_gamma half_normal half_cauchy
log_normal weibull gompertz dagum levy pareto uniform log_uniform kumaraswamy relaxed_bernoulli truncated_normal
""".split()


@pytest.mark.x64
@pytest.mark.parametrize("name", MONOTONE)
def test_sample_derivative_is_that_of_the_quantile(name):
    """Where a sample is a monotone function of one noise, its derivative is -(dF/dp) / f."""
    case = next(case for case in CASES if case.name == name)
    params = {key: float(p) for key, p in case.params[1].items()}
    one = lambda p, key: ppl.seed(lambda: case.build(**p).sample())(key)
    keys = jr.split(KEY, 100)
    x, tangents = jax.jit(jax.vmap(jax.value_and_grad(one), (None, 0)))(params, keys)
    x = np.asarray(x)
    clear = np.abs(np.asarray(case.scipy(**params).cdf(x)) - 0.5) < 0.49  # SciPy's differences lose digits in the tails
    assert clear.sum() > 90
    for parameter, got in tangents.items():
        expected = cdf_derivative(case.scipy, params, parameter, x)[clear]
        np.testing.assert_allclose(np.asarray(got)[clear], expected, rtol=5e-5, atol=1e-6)


def betas(a, b):
    return a * (a + 1) / ((a + b) * (a + b + 1))


def cross(loc, scale, left, right):  # of an asymmetric Laplace: loc - left * e1 + right * e2, e exponential
    return loc**2 + 2 * loc * (right - left) + 2 * (left**2 - left * right + right**2)


MOMENTS = {  # a choice, parameters, a function of a sample, and its mean
    "beta": (ppl.beta, (2.0, 3.0), lambda x: x**2, betas),
    "beta_proportion": (ppl.beta_proportion, (0.3, 6.0), lambda x: x**2, lambda m, c: betas(m * c, (1 - m) * c)),
    "dirichlet": (
        lambda a, b, c: ppl.dirichlet(jnp.stack([a, b, c])),
        (0.7, 1.5, 2.0),
        lambda x: x[0] ** 2,
        lambda a, b, c: betas(a, b + c),
    ),
    "student_t": (
        ppl.student_t,
        (9.0, 0.5, 1.5),
        lambda x: x**2,
        lambda df, m, s: m**2 + s**2 * df / (df - 2),
    ),
    "asymmetric_laplace": (
        ppl.asymmetric_laplace,
        (0.5, 1.5, 2.0),
        lambda x: x**2,
        lambda m, s, k: cross(m, s, s * k, s / k),
    ),
    "asymmetric_laplace_quantile": (
        ppl.asymmetric_laplace_quantile,
        (0.5, 1.5, 0.3),
        lambda x: x**2,
        lambda m, s, q: cross(m, s, s / (1 - q), s / q),
    ),
    "multivariate_student_t": (
        lambda df, m, s: ppl.multivariate_student_t(df, jnp.stack([m, 0 * m]), s * jnp.eye(2)),
        (9.0, 0.5, 1.5),
        lambda x: x[0] ** 2,
        lambda df, m, s: m**2 + s**2 * df / (df - 2),
    ),
    "low_rank_multivariate_normal": (
        lambda m, w, d: ppl.low_rank_multivariate_normal(m * jnp.ones(2), w * jnp.ones((2, 1)), d * jnp.ones(2)),
        (0.5, 1.2, 0.7),
        lambda x: x[0] ** 2 + x[0] * x[1],
        lambda m, w, d: 2 * m**2 + 2 * w**2 + d,
    ),
    "gaussian_random_walk": (
        lambda s: ppl.gaussian_random_walk(s, 3),
        (1.5,),
        lambda x: x[2] ** 2,
        lambda s: 3 * s**2,
    ),
    "matrix_normal": (
        lambda m, r, c: ppl.matrix_normal(m * jnp.ones((2, 2)), r * jnp.eye(2), c * jnp.eye(2)),
        (0.5, 1.2, 0.7),
        lambda x: x[0, 1] ** 2,
        lambda m, r, c: m**2 + r**2 * c**2,
    ),
    "projected_normal": (
        lambda r: ppl.projected_normal(r * jnp.array([1.0, 0.0])),
        (1.2,),
        lambda x: x[0],
        lambda r: np.sqrt(np.pi / 8) * r * (special.ive(0, r**2 / 4) + special.ive(1, r**2 / 4)),
    ),
    "lkj_cholesky": (
        lambda c: ppl.lkj_cholesky(3, c),
        (1.5,),
        lambda x: (x @ x.T)[2, 1] ** 2,
        lambda c: 1 / (2 * (c + 0.5) + 1),
    ),
    "lkj_cholesky_cvine": (
        lambda c: ppl.lkj_cholesky(3, c, "cvine"),
        (1.5,),
        lambda x: (x @ x.T)[2, 1] ** 2,
        lambda c: 1 / (2 * (c + 0.5) + 1),
    ),
    "wishart": (
        lambda c, s: ppl.wishart(c, s * jnp.eye(2)),
        (4.0, 0.7),
        lambda x: x[1, 1] ** 2,
        lambda c, s: c * (c + 2) * s**2,
    ),
    "wishart_cholesky": (
        lambda c, s: ppl.wishart_cholesky(c, scale_tril=s * jnp.eye(2)),
        (4.0, 0.7),
        lambda x: (x @ x.T)[1, 1] ** 2,
        lambda c, s: c * (c + 2) * s**4,
    ),
    "multivariate_normal": (
        lambda m, s: ppl.multivariate_normal(m * jnp.ones(2), s * jnp.eye(2)),
        (0.5, 1.5),
        lambda x: x[0] ** 2,
        lambda m, s: m**2 + s,
    ),
}


@pytest.mark.parametrize("name", MOMENTS)
def test_sample_derivative_gives_that_of_a_moment(name):
    build, params, moment, mean = MOMENTS[name]
    one = lambda key, *p: moment(ppl.seed(lambda: build(*p).sample())(key))
    estimate = jax.jit(jax.vmap(jax.grad(one, argnums=tuple(range(1, 1 + len(params)))), (0, *[None] * len(params))))
    for i, got in enumerate(estimate(jr.split(KEY, 3000), *params)):
        up, down = (mean(*params[:i], params[i] + h, *params[i + 1 :]) for h in (1e-5, -1e-5))
        error = np.asarray(got, np.float64).std(ddof=1) / np.sqrt(len(got))
        assert abs(np.mean(got) - (up - down) / 2e-5) < 4.5 * error + 1e-4 * abs(np.mean(got))


def test_every_default_pathwise_derivative_is_tested():
    pathwise = {case.name for case in CASES if default_strategy(case.family) is not None}
    assert pathwise == {*MONOTONE, *MOMENTS, "delta"} - {"lkj_cholesky_cvine"}


# --- Strategies --------------------------------------------------------------------------------------------------

NOT_PATHWISE = {case.name: case for case in reversed(CASES) if default_strategy(case.family) is None}


@pytest.mark.parametrize("case", NOT_PATHWISE.values(), ids=str)
def test_pathwise_is_refused_where_the_sampler_has_no_derivative(case):
    with pytest.raises(StrategyError, match="pathwise"):
        case.build(**case.params[0], grad=ppl.pathwise())
    floats, ints = split(as_params(case.params[0], float))
    if floats:
        with pytest.raises(StrategyError):
            jax.grad(lambda p: ppl.seed(lambda: case.build(**p, **ints).sample() * 1.0)(KEY).sum())(floats)


MOVING = {
    "uniform": lambda p, **grad: ppl.uniform(0.0, p, **grad),
    "log_uniform": lambda p, **grad: ppl.log_uniform(p, 3.0, **grad),
    "levy": lambda p, **grad: ppl.levy(p, 1.0, **grad),
    "pareto": lambda p, **grad: ppl.pareto(p, 2.0, **grad),
    "truncated_normal": lambda p, **grad: ppl.truncated_normal(0.0, 1.0, low=p, **grad),
    "truncated_normal_high": lambda p, **grad: ppl.truncated_normal(0.0, 1.0, high=p, **grad),
    "delta": lambda p, **grad: ppl.delta(p, **grad),
}


@pytest.mark.parametrize("name", MOVING)
def test_reinforce_is_refused_for_parameters_that_move_the_support(name):
    cost = lambda p, grad: MOVING[name](p, grad=grad).sample() ** 2
    assert ppl.grad(lambda p: cost(p, ppl.pathwise()))(KEY, 1.0) != 0
    with pytest.raises(UnsoundGradientError, match="support"):
        ppl.grad(lambda p: cost(p, ppl.reinforce()))(KEY, 1.0)


def test_reinforce_of_the_other_parameters_is_sound():
    cost = lambda s: ppl.truncated_normal(0.0, s, low=-1.0, high=1.0, grad=ppl.reinforce()).sample() ** 2
    draws = jax.jit(jax.vmap(ppl.grad(cost), (0, None)))(jr.split(KEY, 20_000), 0.8)
    second = lambda s: truncated(0.0, s, -1.0, 1.0).moment(2)
    expected = (second(0.8 + 1e-5) - second(0.8 - 1e-5)) / 2e-5
    assert abs(draws.mean() - expected) < 4.5 * draws.std() / np.sqrt(len(draws))


FINITE = {
    "bernoulli": (lambda p, **grad: ppl.bernoulli(p, **grad), lambda p: st.bernoulli(p)),
    "bernoulli_logits": (lambda p, **grad: ppl.bernoulli(logits=p, **grad), lambda p: st.bernoulli(expit(p))),
    "categorical": (
        lambda p, **grad: ppl.categorical(logits=jnp.stack([p, 0 * p, -p]), **grad),
        lambda p: categorical(softmax(np.array([p, 0, -p]))),
    ),
    "ordered_logistic": (
        lambda p, **grad: ppl.ordered_logistic(p, jnp.array([-1.0, 0.5]), **grad),
        lambda p: ordered(p, [-1.0, 0.5]),
    ),
    "binomial": (lambda p, **grad: ppl.binomial(4, p, **grad), lambda p: st.binom(4, p)),
    "binomial_logits": (lambda p, **grad: ppl.binomial(4, logits=p, **grad), lambda p: st.binom(4, expit(p))),
    "binomial_many": (lambda p, **grad: ppl.binomial(100, p, **grad), lambda p: st.binom(100, p)),
    "beta_binomial": (lambda p, **grad: ppl.beta_binomial(p, 2.0, 4, **grad), lambda p: st.betabinom(4, p, 2.0)),
}


@pytest.mark.x64
@pytest.mark.parametrize("name", FINITE)
def test_enumeration_is_the_sum_over_the_support(name):
    build, frozen = FINITE[name]
    choice, at = build(0.3), 0.3
    shapes = [p.shape for p in choice.params]
    num, first = choice.spec.num_values(shapes), choice.spec.first_value()
    values = np.arange(first, first + num)
    probs, log_probs = jax.jit(lambda v: (choice.spec.probabilities(choice.params), choice.log_prob(v)))(values)
    np.testing.assert_allclose(probs.sum(), 1, rtol=1e-12)
    np.testing.assert_allclose(probs, np.exp(log_probs), rtol=1e-10)
    cost = lambda strategy: lambda p: jnp.sin(1.0 + build(p, grad=strategy).sample())
    value, got = jax.jit(ppl.value_and_grad(cost(ppl.enum())))(KEY, at)
    mean = lambda p: (frozen(p).pmf(values) * np.sin(1.0 + values)).sum()
    np.testing.assert_allclose(value, mean(at), rtol=1e-10)
    np.testing.assert_allclose(got, (mean(at + 1e-5) - mean(at - 1e-5)) / 2e-5, rtol=1e-6)
    exact = ppl.exact_gradient(cost(ppl.reinforce()))(at)
    np.testing.assert_allclose(exact.gradient, got, rtol=1e-10, atol=1e-12)


@pytest.mark.x64
def test_enumeration_of_integers_that_do_not_start_at_zero():
    def cost(scale, strategy):
        values = jax.vmap(lambda _: ppl.discrete_uniform(-2, 3, grad=strategy).sample())(jnp.arange(2))
        return (scale * values[0] + values[1]) ** 2

    expected = np.mean([2 * (1.5 * a + b) * a for a in range(-2, 4) for b in range(-2, 4)])
    for strategy in (ppl.enum(), ppl.reinforce()):
        exact = ppl.exact_gradient(lambda scale, s=strategy: cost(scale, s))(1.5)
        np.testing.assert_allclose(exact.gradient, expected, rtol=1e-12)


@pytest.mark.x64
def test_enumeration_at_the_edge_of_the_parameters():
    cost = lambda p: ppl.binomial(3, p, grad=ppl.enum()).sample() ** 2.0
    for p in (0.0, 1.0):
        np.testing.assert_allclose(ppl.grad(cost)(KEY, p), 3 * (1 - 2 * p) + 18 * p, rtol=1e-12)


def test_enumeration_needs_integers_that_are_known():
    for build in (
        lambda n, **grad: ppl.binomial(n, 0.3, **grad),
        lambda n, **grad: ppl.beta_binomial(1.0, 2.0, n, **grad),
        lambda n, **grad: ppl.discrete_uniform(0, n, **grad),
    ):
        assert build(3, grad=ppl.enum()).spec.family.enumerable
        assert build(3.0, grad=ppl.enum()).spec.family.enumerable
        with pytest.raises(StrategyError, match="not finite"):
            build(jnp.array([2, 3]), grad=ppl.enum())
        with pytest.raises(StrategyError, match="not finite"):
            jax.jit(lambda n, build=build: build(n, grad=ppl.enum()).log_prob(1))(3)
        np.testing.assert_allclose(jax.jit(lambda n, build=build: build(n).log_prob(1))(3), build(3).log_prob(1))


BAD = [
    (lambda: ppl.binomial(2.5, 0.3), "not an integer"),
    (lambda: jax.jit(lambda n: ppl.binomial(n, 0.3).log_prob(1))(2.0), "not an integer"),
    (lambda: ppl.multinomial(np.array([2, 3]), jnp.ones((2, 3)) / 3), "must be known"),
    (lambda: jax.jit(lambda n: ppl.multinomial(n, jnp.ones(3) / 3).log_prob(jnp.array([1, 1, 0])))(2), "must be known"),
    (lambda: ppl.gaussian_random_walk(1.0, 2.5), "must be known"),
    (lambda: ppl.lkj_cholesky(3, 1.0, 7), "must be known"),
    (lambda: ppl.lkj_cholesky(1), "at least 2"),
    (lambda: ppl.projected_normal(jnp.ones(4)), "2 or 3"),
    (lambda: ppl.low_rank_multivariate_normal(jnp.ones(3), jnp.ones((2, 1)), jnp.ones(3)), "do not fit"),
    (lambda: ppl.relaxed_bernoulli(1.0, 0.3, 0.2), "exactly one"),
    (lambda: ppl.normal(None), "is None"),
]


@pytest.mark.parametrize("number", range(len(BAD)))
def test_wrong_parameters(number):
    build, message = BAD[number]
    with pytest.raises(PPLError, match=message):
        build()


# --- Types and signatures ----------------------------------------------------------------------------------------


@FIRST
def test_dtype_of_a_sample(case):
    for dtype in (np.float32, float):
        params = as_params(case.params[0], dtype)
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


def test_delta_of_vectors():
    program = gen(lambda v: ppl.delta(v, event_dim=1) @ "x")
    trace = program.simulate(KEY, jnp.array([1.0, 2.0]))
    assert trace["x"].tolist() == [1, 2]
    assert trace.log_density == 0
    assert program.log_density({"x": jnp.array([1.0, 3.0])}, jnp.array([1.0, 2.0])) == -jnp.inf


def test_counts_of_a_total_in_a_program():
    program = gen(lambda p: jax.vmap(lambda q: ppl.multinomial(4, q) @ "x")(p))
    probs = jnp.array([[0.2, 0.8], [0.5, 0.5]])
    trace = jax.jit(program.simulate)(KEY, probs)
    assert trace["x"].sum(-1).tolist() == [4, 4]
    expected = sum(
        st.multinomial(4, p).logpmf(x) for x, p in zip(np.asarray(trace["x"]), [[0.2, 0.8], [0.5, 0.5]], strict=True)
    )
    np.testing.assert_allclose(trace.log_density, expected, rtol=1e-5)


@FIRST
def test_signature_is_numpyros(case):
    theirs = inspect.signature(getattr(numpyro_distributions, case.family.numpyro_name)).parameters
    ours = dict(inspect.signature(getattr(ppl, case.name)).parameters)
    assert ours.pop("grad").kind is inspect.Parameter.KEYWORD_ONLY
    positional = [p.name for p in theirs.values() if p.kind is p.POSITIONAL_OR_KEYWORD and p.name != "validate_args"]
    assert list(ours)[: len(positional)] == positional
    assert {*ours} <= {*theirs}
    for name, parameter in ours.items():
        if parameter.default is not inspect.Parameter.empty:
            assert parameter.default == theirs[name].default


def test_every_constructor_has_a_case():
    constructors = {name for name in dir(ppl) if hasattr(getattr(ppl, name), "family")}
    assert constructors == {case.name for case in CASES}
    assert len(constructors) >= 45


def test_the_table_of_distributions_is_up_to_date():
    written = Path(__file__).parent.parent.joinpath("DISTRIBUTIONS.md").read_text()
    assert ppl.distributions.table() in written, (
        'write it anew: python -c "import ppl; print(ppl.distributions.table())"'
    )


OWN_SAMPLERS = [case for case in {case.name: case for case in CASES}.values() if case.family.sampler is not None]


@pytest.mark.parametrize("case", OWN_SAMPLERS, ids=str)
@pytest.mark.parametrize("shape", [(), (7,), (4, 3), (2, 1, 5)], ids=str)
def test_samplers_of_our_own_give_numpyros_numbers(case, shape):
    params = as_params(case.params[0], jnp.result_type(float))
    spec = case.build(**params).spec
    ours = spec.sample(KEY, [jnp.asarray(params[name]) for name in spec.names], shape)
    theirs = spec.numpyro([params[name] for name in spec.names]).expand(shape).sample(KEY)
    np.testing.assert_array_equal(ours, theirs)
    assert ours.shape == shape


def test_families_with_samplers_of_their_own():
    assert len(OWN_SAMPLERS) >= 8


@pytest.mark.parametrize("value", [-3, 2, 2**31 - 1])
@pytest.mark.parametrize("logits", [0.3, 300.0, -300.0, np.inf, -np.inf])
def test_coins_outside_the_support_have_no_mass_and_no_gradient(value, logits):
    log_prob = lambda logits: ppl.bernoulli(logits=logits).log_prob(jnp.asarray(value))
    assert log_prob(logits) == -jnp.inf
    assert jax.grad(log_prob)(logits) == 0


@pytest.mark.x64
@pytest.mark.parametrize("value", [0, 1])
def test_coins_have_their_first_and_second_derivative(value):
    logits = np.linspace(-40.0, 40.0, 17)
    log_prob = lambda logits: ppl.bernoulli(logits=logits).log_prob(jnp.asarray(value))
    sign = 2 * value - 1
    first = sign * special.expit(-sign * logits)
    np.testing.assert_allclose(jax.vmap(jax.grad(log_prob))(logits), first, rtol=1e-12)
    second = -special.expit(logits) * special.expit(-logits)
    np.testing.assert_allclose(jax.vmap(jax.grad(jax.grad(log_prob)))(logits), second, rtol=1e-12, atol=1e-15)
