"""The distributions under test: parameters, values inside and outside the support, and SciPy's distribution.

What SciPy lacks is composed of what it has.
"""

import dataclasses
import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import scipy.stats as st

import ppl

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
    """One constructor: parameter sets, values inside and outside the support, SciPy's distribution, Python values.

    The second and third value inside lie away from edges and kinks for the first parameters.
    """

    name: str
    params: list[dict[str, Any]]
    inside: Any
    outside: Any
    scipy_of: Callable
    static: dict = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.name}-{'-'.join([*self.params[0], *self.static])}"

    @property
    def build(self) -> Callable:
        return functools.partial(getattr(ppl, self.name), **self.static)

    @property
    def scipy(self) -> Callable:
        return functools.partial(self.scipy_of, **self.static)

    @property
    def family(self) -> Any:
        return getattr(ppl, self.name).family


def categorical(probs):
    return st.rv_discrete(values=(np.arange(len(probs)), np.asarray(probs) / np.sum(probs)))


def expit(x):
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def softmax(x):
    return np.exp(x) / np.exp(x).sum()


LINE = [-40.0, -3.0, -0.5, 0.0, 1e-300, 1.0, 38.0]
INNER = [1e-300, 1e-9, 0.1, 0.5, 0.9, 1 - 1e-12]
BEYOND = [-1e-9, 1.1, -np.inf, np.inf]
BELOW = [-1e-9, -3.0, -np.inf]
COLUMN = np.array([[0.5, 0], [0.3, 1.5]])
FACTOR = np.array([[0.5, 0.1], [-1.0, 0.2], [0.3, 0.8]])
TALLIES = np.array([[5, 0, 0], [1, 2, 2], [0, 1, 4]])
NOT_TALLIES = np.array([[1, 2, 3], [-1, 3, 3], [0, 0, 0]])
CORRELATIONS = np.array([EYE, np.linalg.cholesky([[1, 0.5, -0.3], [0.5, 1, 0.2], [-0.3, 0.2, 1]])])
NOT_TRIANGULAR = np.array([TRIL.T, -TRIL, TRIL @ TRIL.T])
MATRICES = np.array([np.arange(6.0).reshape(3, 2), np.ones((3, 2)), -20 * np.eye(3, 2)])
ANGLES = np.array([0.1, -2.0, 3.0])
CIRCLE = np.stack([np.cos(ANGLES), np.sin(ANGLES)], -1)


def made(logpdf, cdf=None, mean=None, cov=None, statistic=lambda x: x):
    """Make what SciPy lacks, from a log density, and a cdf or the moments of a statistic."""
    return SimpleNamespace(
        logpdf=logpdf,
        cdf=cdf,
        pdf=lambda x: np.exp(logpdf(x)),
        logpmf=logpdf,
        pmf=lambda x: np.exp(logpdf(x)),
        mean=mean,
        cov=cov,
        statistic=statistic,
    )


def quantile_laplace(loc, scale, quantile):
    q, z = quantile, lambda x: (np.asarray(x) - loc) / scale
    return made(
        lambda x: np.log(q * (1 - q) / scale) - z(x) * (q - (z(x) < 0)),
        lambda x: np.where(
            z(x) < 0, q * np.exp((1 - q) * np.minimum(z(x), 0)), 1 - (1 - q) * np.exp(-q * np.maximum(z(x), 0))
        ),
    )


def kumaraswamy(concentration1, concentration0):
    a, b = concentration1, concentration0
    return made(
        lambda x: np.log(a * b) + (a - 1) * np.log(x) + (b - 1) * np.log(-np.expm1(a * np.log(x))),
        lambda x: -np.expm1(b * np.log1p(-(np.asarray(x) ** a))),
    )


def relaxed(temperature, logits):
    logit = lambda x: np.log(x) - np.log1p(-np.asarray(x))
    base = st.logistic(logits / temperature, 1 / temperature)
    return made(lambda x: base.logpdf(logit(x)) - np.log(x) - np.log1p(-x), lambda x: base.cdf(logit(x)))


def truncated(loc, scale, low=-np.inf, high=np.inf):
    return st.truncnorm((low - loc) / scale, (high - loc) / scale, loc, scale)


def zero_inflated(gate, rate):
    base = st.poisson(rate)
    return made(
        lambda k: np.where(np.equal(k, 0), np.log(gate + (1 - gate) * base.pmf(0)), np.log(1 - gate) + base.logpmf(k))
    )


def ordered(predictor, cutpoints):
    below = expit(np.asarray(cutpoints, np.float64) - predictor)
    return categorical(np.diff(np.concatenate([[0], below, [1]])))


def student(df, loc, scale_tril):
    cov = scale_tril @ scale_tril.T
    return made(st.multivariate_t(loc, cov, df).logpdf, mean=np.asarray(loc), cov=cov * df / (df - 2))


def matrix_normal(loc, scale_tril_row, scale_tril_column):
    row, column = scale_tril_row @ scale_tril_row.T, scale_tril_column @ scale_tril_column.T
    return made(st.matrix_normal(loc, row, column).logpdf, mean=loc.ravel(), cov=np.kron(row, column))


def wishart(concentration, scale_matrix):
    s, n = scale_matrix, len(scale_matrix)
    cov = concentration * (np.einsum("ik,jl->ijkl", s, s) + np.einsum("il,jk->ijkl", s, s)).reshape(n * n, n * n)
    return made(st.wishart(concentration, s).logpdf, mean=concentration * s.ravel(), cov=cov)


def wishart_cholesky(concentration, scale_tril):
    base, n = wishart(concentration, scale_tril @ scale_tril.T), len(scale_tril)
    jacobian = lambda x: n * np.log(2) + (np.arange(n, 0, -1) * np.log(np.diag(x))).sum()
    square = lambda x: x @ np.swapaxes(x, -1, -2)
    return made(lambda x: base.logpdf(square(x)) + jacobian(x), mean=base.mean, cov=base.cov, statistic=square)


def lkj(concentration, dimension):
    """Multiply the densities of partial correlations, and change variables to the factor's entries.

    Each row of the factor is z_1, z_2 sqrt(1 - z_1**2), ... of independent 2 beta(a) - 1, a = c + (d - 1 - j) / 2 in
    column j, counted from 1.
    """
    marginal = concentration + (dimension - 2) / 2

    def logpdf(x):
        total = 0.0
        for i in range(1, dimension):
            rest = 1.0
            for j in range(i):
                z, a = x[i, j] / np.sqrt(rest), concentration + (dimension - 2 - j) / 2
                total += st.beta(a, a, loc=-1, scale=2).logpdf(z) - np.log(rest) / 2
                rest -= x[i, j] ** 2
        return total

    pairs = np.tril_indices(dimension, -1)
    correlations = lambda x: (x @ np.swapaxes(x, -1, -2))[..., *pairs]
    num = len(pairs[0])
    return made(logpdf, mean=np.zeros(num), cov=np.eye(num) / (2 * marginal + 1), statistic=correlations)


def projected_normal(concentration):
    """Integrate the normal density along the ray: p(x) = int r phi(r x - concentration) dr on the circle."""

    def pdf(x):
        t = x @ concentration
        along = np.exp(-(t**2) / 2) / np.sqrt(2 * np.pi) + t * st.norm.cdf(t)
        return along * np.exp(-(concentration @ concentration - t**2) / 2) / np.sqrt(2 * np.pi)

    turn = np.linspace(0, 2 * np.pi, 2001)[:-1]
    points = np.stack([np.cos(turn), np.sin(turn)], -1)
    weights = np.array([pdf(point) for point in points]) * 2 * np.pi / len(points)
    mean = weights @ points
    return made(lambda x: np.log(pdf(x)), mean=mean, cov=(weights[:, None] * points).T @ points - np.outer(mean, mean))


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
        [0.0, 0.3, 0.7, 1.0],
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
CASES += [
    Case(
        "asymmetric_laplace",
        [dict(loc=0.3, scale=1.0, asymmetry=2.0), dict(loc=-1.3, scale=0.07, asymmetry=0.6)],
        LINE,
        [],
        lambda loc, scale, asymmetry: st.laplace_asymmetric(asymmetry, loc, scale),
    ),
    Case(
        "asymmetric_laplace_quantile",
        [dict(loc=0.3, scale=1.0, quantile=0.2), dict(loc=-1.3, scale=0.07, quantile=0.6)],
        LINE,
        [],
        quantile_laplace,
    ),
    Case(
        "soft_laplace",
        [dict(loc=0.5, scale=1.0), dict(loc=-1.3, scale=0.07)],
        LINE,
        [],
        lambda loc, scale: st.hypsecant(loc, scale),
    ),
    Case(
        "logistic",
        [dict(loc=0.5, scale=1.0), dict(loc=-1.3, scale=0.07)],
        FAR,
        [],
        lambda loc, scale: st.logistic(loc, scale),
    ),
    Case(
        "gumbel",
        [dict(loc=0.5, scale=1.0), dict(loc=-1.3, scale=2.0)],
        LINE,
        [],
        lambda loc, scale: st.gumbel_r(loc, scale),
    ),
    Case(
        "cauchy",
        [dict(loc=0.5, scale=1.0), dict(loc=-1.3, scale=0.07)],
        FAR,
        [],
        lambda loc, scale: st.cauchy(loc, scale),
    ),
    Case("chi2", [dict(df=0.4), dict(df=3.0), dict(df=70.0)], POSITIVE, BELOW, lambda df: st.chi2(df)),
    Case(
        "inverse_gamma",
        [dict(concentration=0.1, rate=1.0), dict(concentration=3.0, rate=2.0), dict(concentration=50.0, rate=0.2)],
        [1e-9, 0.1, 0.5, 1.0, 3.0, 50.0, 1e8],
        BELOW,
        lambda concentration, rate: st.invgamma(concentration, scale=rate),
    ),
    Case(
        "half_normal",
        [dict(scale=1.0), dict(scale=3.0)],
        [0.0, *POSITIVE],
        BELOW,
        lambda scale: st.halfnorm(scale=scale),
    ),
    Case(
        "half_cauchy",
        [dict(scale=1.0), dict(scale=0.07)],
        [0.0, *POSITIVE, 1e8],
        BELOW,
        lambda scale: st.halfcauchy(scale=scale),
    ),
    Case(
        "log_normal",
        [dict(loc=0.5, scale=1.0), dict(loc=-1.3, scale=0.7)],
        [1e-300, 1e-9, 0.1, 1.0, 50.0, 1e8],
        BELOW,
        lambda loc, scale: st.lognorm(scale, scale=np.exp(loc)),
    ),
    Case(
        "weibull",
        [dict(scale=1.0, concentration=0.5), dict(scale=3.0, concentration=2.5)],
        [1e-300, 1e-9, 0.1, 0.5, 3.0, 50.0],
        BELOW,
        lambda scale, concentration: st.weibull_min(concentration, scale=scale),
    ),
    Case(
        "gompertz",
        [dict(concentration=0.1, rate=1.0), dict(concentration=3.0, rate=0.2)],
        [0.0, 1e-9, 0.1, 0.5, 1.0, 3.0, 20.0],
        BELOW,
        lambda concentration, rate: st.gompertz(concentration, scale=1 / rate),
    ),
    Case(
        "dagum",
        [dict(concentration=0.5, sharpness=2.0, scale=1.5), dict(concentration=3.0, sharpness=4.0, scale=0.7)],
        [1e-9, 0.1, 0.5, 1.0, 3.0, 50.0, 1e8],
        BELOW,
        lambda concentration, sharpness, scale: st.burr(sharpness, concentration, scale=scale),
    ),
    Case(
        "levy",
        [dict(loc=0.0, scale=1.0), dict(loc=-1.5, scale=0.3)],
        [1e-2, 0.1, 1.0, 50.0, 1e8],
        [-1.5, -2.0, -np.inf],
        lambda loc, scale: st.levy(loc, scale),
    ),
    Case(
        "pareto",
        [dict(scale=0.5, alpha=1.0), dict(scale=0.25, alpha=3.0)],
        [0.5, 0.75, 1.0, 50.0, 1e8],
        [0.2, -1.0, -np.inf],
        lambda scale, alpha: st.pareto(alpha, scale=scale),
    ),
    Case(
        "log_uniform",
        [dict(low=0.5, high=2.0), dict(low=0.25, high=32.0)],
        [0.5, 0.75, 1.0, 2.0],
        [0.2, 33.0, -1.0, np.inf],
        lambda low, high: st.loguniform(low, high),
    ),
    Case(
        "beta_proportion",
        [dict(mean=0.5, concentration=1.0), dict(mean=0.2, concentration=7.0)],
        UNIT,
        BEYOND,
        lambda mean, concentration: st.beta(mean * concentration, (1 - mean) * concentration),
    ),
    Case(
        "kumaraswamy",
        [dict(concentration1=0.5, concentration0=0.5), dict(concentration1=2.0, concentration0=3.0)],
        INNER,
        [0.0, 1.0, *BEYOND],
        kumaraswamy,
    ),
    Case(
        "relaxed_bernoulli",
        [dict(temperature=0.5, logits=1.0), dict(temperature=2.0, logits=-3.0)],
        INNER,
        [0.0, 1.0, *BEYOND],
        relaxed,
    ),
    Case(
        "relaxed_bernoulli",
        [dict(temperature=0.5, probs=0.3)],
        INNER,
        [],
        lambda temperature, probs: relaxed(temperature, np.log(probs / (1 - probs))),
    ),
    Case(
        "von_mises",
        [dict(loc=1.0, concentration=0.01), dict(loc=0.0, concentration=2.0), dict(loc=-1.0, concentration=300.0)],
        [-np.pi, -1.0, 0.0, 0.3, 3.14],
        [-3.2, 3.2, np.inf],
        lambda loc, concentration: st.vonmises(concentration, loc),
    ),
    Case(
        "truncated_normal",
        [dict(loc=0.0, scale=1.0, low=-1.0, high=2.0), dict(loc=-1.5, scale=2.0, low=-1.5, high=8.0)],
        [-1.0, -0.5, 0.0, 1.0, 2.0],
        [-1.6, 8.5, np.inf, -np.inf],
        truncated,
    ),
    Case(
        "truncated_normal",
        [dict(loc=0.0, scale=1.0, low=8.0, high=9.0), dict(loc=30.0, scale=1.0, low=8.0, high=9.0)],
        [8.0, 8.5, 8.75, 9.0],
        [7.9, 9.1],
        truncated,
    ),
    Case(
        "truncated_normal",
        [dict(loc=0.0, scale=1.0, low=10.0), dict(loc=1.0, scale=1.0, low=0.5)],
        [10.0, 10.5, 11.0],
        [0.25, -np.inf],
        truncated,
    ),
    Case(
        "truncated_normal",
        [dict(loc=0.0, scale=1.0, high=-5.0), dict(loc=-1.0, scale=1.0, high=0.5)],
        [-6.0, -5.5, -5.25],
        [0.75, np.inf],
        truncated,
    ),
    Case("truncated_normal", [dict(loc=0.0, scale=1.0)], [-6.0, -5.5, 5.25], [], truncated),
    Case(
        "delta",
        [dict(v=0.5, log_density=0.25)],
        [0.5, 0.5, 0.5],
        [0.25, np.inf],
        lambda v, log_density: made(lambda x: log_density, mean=np.array([0.5]), cov=np.zeros((1, 1))),
    ),
    Case(
        "ordered_logistic",
        [dict(predictor=0.3, cutpoints=np.array([-1.0, 0.5])), dict(predictor=-2.0, cutpoints=np.array([-1.0, 4.0]))],
        [0, 1, 2],
        [-1, 3],
        ordered,
    ),
    Case(
        "discrete_uniform",
        [dict(low=0, high=3), dict(low=-2, high=5)],
        [0, 1, 3],
        [-3, 6, 20],
        lambda low, high: st.randint(low, high + 1),
    ),
    Case(
        "binomial",
        [dict(probs=0.3), dict(probs=0.0), dict(probs=1.0), dict(probs=1e-9)],
        [0, 1, 2, 7, 12],
        [-1, 13],
        lambda probs, total_count: st.binom(total_count, probs),
        dict(total_count=12),
    ),
    Case(
        "binomial",
        [dict(total_count=900, probs=0.3), dict(total_count=40, probs=0.999)],
        [0, 1, 2, 39, 40],
        [-1, 901],
        lambda probs, total_count: st.binom(total_count, probs),
    ),
    Case(
        "binomial",
        [dict(logits=-0.3), dict(logits=5.0)],
        [0, 1, 2, 7, 12],
        [-1, 13],
        lambda logits, total_count: st.binom(total_count, expit(logits)),
        dict(total_count=12),
    ),
    Case(
        "beta_binomial",
        [dict(concentration1=0.5, concentration0=2.0), dict(concentration1=7.0, concentration0=30.0)],
        [0, 1, 2, 7, 12],
        [-1, 13],
        lambda concentration1, concentration0, total_count: st.betabinom(total_count, concentration1, concentration0),
        dict(total_count=12),
    ),
    Case(
        "zero_inflated_poisson",
        [dict(gate=0.2, rate=1.0), dict(gate=0.7, rate=30.0)],
        [0, 1, 2, 30, 100],
        [-1, -50],
        zero_inflated,
    ),
    Case(
        "geometric",
        [dict(probs=0.3), dict(probs=1.0), dict(probs=1e-3)],
        COUNTS,
        [-1, -50],
        lambda probs: st.geom(probs, loc=-1),
    ),
    Case(
        "geometric",
        [dict(logits=-0.3), dict(logits=-6.0)],
        COUNTS,
        [-1, -50],
        lambda logits: st.geom(expit(logits), loc=-1),
    ),
    Case(
        "negative_binomial",
        [dict(total_count=0.5, probs=0.3), dict(total_count=20.0, probs=0.7)],
        COUNTS,
        [-1, -50],
        lambda total_count, probs: st.nbinom(total_count, 1 - probs),
    ),
    Case(
        "negative_binomial",
        [dict(total_count=0.5, logits=-0.3), dict(total_count=20.0, logits=1.0)],
        COUNTS,
        [-1, -50],
        lambda total_count, logits: st.nbinom(total_count, expit(-logits)),
    ),
    Case(
        "negative_binomial2",
        [dict(mean=0.5, concentration=2.0), dict(mean=40.0, concentration=7.0)],
        COUNTS,
        [-1, -50],
        lambda mean, concentration: st.nbinom(concentration, concentration / (concentration + mean)),
    ),
    Case(
        "gamma_poisson",
        [dict(concentration=0.5, rate=1.0), dict(concentration=20.0, rate=0.5)],
        COUNTS,
        [-1, -50],
        lambda concentration, rate: st.nbinom(concentration, rate / (1 + rate)),
    ),
    Case(
        "beta_negative_binomial",
        [dict(concentration1=2.0, concentration0=3.0, n=4.0), dict(concentration1=1.0, concentration0=9.0, n=7.0)],
        [0, 1, 2, 3, 30, 100],
        [-1, -50],
        lambda concentration1, concentration0, n: st.betanbinom(n, concentration0, concentration1),
    ),
    Case(
        "multinomial",
        [dict(probs=np.array(p)) for p in ([0.2, 0.3, 0.5], [0.1, 0.6, 0.3], [1e-6, 0.1, 0.9 - 1e-6], [0.0, 0.5, 0.5])],
        TALLIES,
        NOT_TALLIES,
        lambda probs, total_count: st.multinomial(total_count, probs / probs.sum()),
        dict(total_count=5),
    ),
    Case(
        "multinomial",
        [dict(logits=np.array(v)) for v in ([0.2, 0.3, -0.5], [10.0, 9.0, 11.0])],
        TALLIES,
        NOT_TALLIES,
        lambda logits, total_count: st.multinomial(total_count, softmax(logits)),
        dict(total_count=5),
    ),
    Case(
        "dirichlet_multinomial",
        [dict(concentration=np.array(c)) for c in ([0.5, 1.0, 2.0], [5.0, 0.1, 30.0])],
        TALLIES,
        NOT_TALLIES,
        lambda concentration, total_count: st.dirichlet_multinomial(concentration, total_count),
        dict(total_count=5),
    ),
    Case(
        "low_rank_multivariate_normal",
        [dict(loc=np.array([1.0, -2, 0]), cov_factor=FACTOR, cov_diag=np.array([0.5, 1.0, 0.1]))],
        VECTORS,
        [],
        lambda loc, cov_factor, cov_diag: st.multivariate_normal(loc, cov_factor @ cov_factor.T + np.diag(cov_diag)),
    ),
    Case(
        "multivariate_student_t",
        [dict(df=0.7, loc=np.zeros(3), scale_tril=EYE), dict(df=9.0, loc=np.array([1.0, -2, 0]), scale_tril=TRIL)],
        VECTORS,
        [],
        student,
    ),
    Case(
        "gaussian_random_walk",
        [dict(scale=1.0), dict(scale=3.0)],
        VECTORS,
        [],
        lambda scale, num_steps: st.multivariate_normal(np.zeros(3), scale**2 * np.minimum.outer([1, 2, 3], [1, 2, 3])),
        dict(num_steps=3),
    ),
    Case(
        "projected_normal",
        [dict(concentration=np.array([0.5, -1.0])), dict(concentration=np.array([2.0, 1.0]))],
        CIRCLE,
        2 * CIRCLE,
        projected_normal,
    ),
    Case(
        "matrix_normal",
        [
            dict(loc=np.zeros((3, 2)), scale_tril_row=EYE, scale_tril_column=np.eye(2)),
            dict(loc=np.ones((3, 2)), scale_tril_row=TRIL, scale_tril_column=COLUMN),
        ],
        MATRICES,
        [],
        matrix_normal,
    ),
    Case(
        "lkj_cholesky",
        [dict(concentration=1.0), dict(concentration=2.5)],
        CORRELATIONS[[0, 1, 1]],
        NOT_TRIANGULAR,
        lkj,
        dict(dimension=3),
    ),
    Case(
        "lkj_cholesky",
        [dict(concentration=1.0), dict(concentration=2.5)],
        CORRELATIONS,
        [],
        lambda sample_method, **p: lkj(**p),
        dict(dimension=3, sample_method="cvine"),
    ),
    Case(
        "wishart",
        [dict(concentration=3.5, scale_matrix=EYE), dict(concentration=9.0, scale_matrix=SPD)],
        np.array([EYE, SPD, 30 * SPD]),
        np.array([TRIL, -EYE, EYE - 1]),
        wishart,
    ),
    Case(
        "wishart",
        [dict(concentration=9.0, rate_matrix=SPD)],
        np.array([EYE, SPD]),
        [],
        lambda concentration, rate_matrix: wishart(concentration, np.linalg.inv(rate_matrix)),
    ),
    Case(
        "wishart_cholesky",
        [dict(concentration=3.5, scale_tril=EYE), dict(concentration=9.0, scale_tril=TRIL)],
        np.array([EYE, TRIL, 3 * TRIL]),
        NOT_TRIANGULAR,
        wishart_cholesky,
    ),
]
