"""Distributions on the real line and its intervals."""

from __future__ import annotations

import dataclasses

from ppl import support
from ppl.distributions import densities, samplers
from ppl.distributions.constructor import constructor, parameters
from ppl.family import Family, Parameter

_LOC_SCALE = parameters(loc=0.0, scale=1.0)
_SHAPE_RATE = (Parameter("concentration"), *parameters(rate=1.0))
_PROBS_OR_LOGITS = ("probs", "logits")

# --- The real line -----------------------------------------------------------------------------------------------

normal = constructor(
    Family("normal", "Normal", _LOC_SCALE, support.real, density=densities.normal, sampler=samplers.normal),
    "p(x) = exp(-(x - loc)**2 / (2 scale**2)) / (scale sqrt(2 pi))",
)
laplace = constructor(
    Family("laplace", "Laplace", _LOC_SCALE, support.real, sampler=samplers.laplace),
    "p(x) = exp(-|x - loc| / scale) / (2 scale)",
)
asymmetric_laplace = constructor(
    Family("asymmetric_laplace", "AsymmetricLaplace", (*_LOC_SCALE, *parameters(asymmetry=1.0)), support.real),
    "p(x) proportional to exp(-|x - loc| / s), s = scale asymmetry on the left, scale / asymmetry on the right",
)
asymmetric_laplace_quantile = constructor(
    Family(
        "asymmetric_laplace_quantile",
        "AsymmetricLaplaceQuantile",
        (*_LOC_SCALE, *parameters(quantile=0.5)),
        support.real,
    ),
    "p(x) = q (1 - q) / scale exp(-(x - loc) (q - [x < loc]) / scale), q = quantile",
)
soft_laplace = constructor(
    Family("soft_laplace", "SoftLaplace", parameters("loc", "scale"), support.real),
    "p(x) = 1 / (pi scale cosh((x - loc) / scale))",
)
logistic = constructor(
    Family("logistic", "Logistic", _LOC_SCALE, support.real, sampler=samplers.logistic),
    "p(x) = exp(-z) / (scale (1 + exp(-z))**2), z = (x - loc) / scale",
)
gumbel = constructor(
    Family("gumbel", "Gumbel", _LOC_SCALE, support.real, sampler=samplers.gumbel),
    "p(x) = exp(-z - exp(-z)) / scale, z = (x - loc) / scale",
)
cauchy = constructor(
    Family("cauchy", "Cauchy", _LOC_SCALE, support.real, sampler=samplers.cauchy),
    "p(x) = 1 / (pi scale (1 + ((x - loc) / scale)**2))",
)
student_t = constructor(
    Family("student_t", "StudentT", (Parameter("df"), *_LOC_SCALE), support.real, implicit=True),
    "p(x) proportional to (1 + ((x - loc) / scale)**2 / df)**(-(df + 1) / 2)",
)

# --- The half-line -----------------------------------------------------------------------------------------------

exponential = constructor(
    Family("exponential", "Exponential", parameters(rate=1.0), support.nonnegative),
    "p(x) = rate exp(-rate x)",
)
gamma = constructor(
    Family("gamma", "Gamma", _SHAPE_RATE, support.positive, implicit=True),
    "p(x) = rate**concentration x**(concentration - 1) exp(-rate x) / Gamma(concentration)",
)
chi2 = constructor(
    Family("chi2", "Chi2", parameters("df"), support.positive, implicit=True),
    "p(x) proportional to x**(df / 2 - 1) exp(-x / 2)",
)
inverse_gamma = constructor(
    Family("inverse_gamma", "InverseGamma", _SHAPE_RATE, support.positive, implicit=True),
    "p(x) = rate**concentration x**(-concentration - 1) exp(-rate / x) / Gamma(concentration)",
)
half_normal = constructor(
    Family(
        "half_normal",
        "HalfNormal",
        parameters(scale=1.0),
        support.nonnegative,
        density=densities.half_normal,
        sampler=samplers.half_normal,
    ),
    "p(x) = 2 exp(-x**2 / (2 scale**2)) / (scale sqrt(2 pi))",
)
half_cauchy = constructor(
    Family(
        "half_cauchy",
        "HalfCauchy",
        parameters(scale=1.0),
        support.nonnegative,
        density=densities.half_cauchy,
    ),
    "p(x) = 2 / (pi scale (1 + (x / scale)**2))",
)
log_normal = constructor(
    Family(
        "log_normal",
        "LogNormal",
        _LOC_SCALE,
        support.positive,
        density=densities.log_normal,
        sampler=samplers.log_normal,
    ),
    "p(x) = exp(-(log x - loc)**2 / (2 scale**2)) / (x scale sqrt(2 pi))",
)
weibull = constructor(
    Family("weibull", "Weibull", parameters("scale", "concentration"), support.positive),
    "p(x) = (c / scale) (x / scale)**(c - 1) exp(-(x / scale)**c), c = concentration",
)
gompertz = constructor(
    Family("gompertz", "Gompertz", _SHAPE_RATE, support.nonnegative),
    "p(x) = concentration rate exp(rate x - concentration (exp(rate x) - 1))",
)
dagum = constructor(
    Family("dagum", "Dagum", parameters("concentration", "sharpness", "scale"), support.positive),
    "P(X <= x) = (1 + (x / scale)**-sharpness)**-concentration",
)
levy = constructor(
    Family("levy", "Levy", parameters("loc", "scale"), support.above_loc),
    "p(x) = sqrt(scale / (2 pi)) exp(-scale / (2 (x - loc))) (x - loc)**(-3 / 2)",
)
pareto = constructor(
    Family("pareto", "Pareto", parameters("scale", "alpha"), support.from_scale, density=densities.pareto),
    "p(x) = alpha scale**alpha x**(-alpha - 1)",
)

# --- Intervals ---------------------------------------------------------------------------------------------------

uniform = constructor(
    Family("uniform", "Uniform", parameters(low=0.0, high=1.0), support.interval),
    "p(x) = 1 / (high - low)",
)
log_uniform = constructor(
    Family("log_uniform", "LogUniform", parameters("low", "high"), support.clipped_interval),
    "p(x) = 1 / (x log(high / low))",
)
beta = constructor(
    Family("beta", "Beta", parameters("concentration1", "concentration0"), support.unit_interval, implicit=True),
    "p(x) proportional to x**(concentration1 - 1) (1 - x)**(concentration0 - 1)",
)
beta_proportion = constructor(
    Family(
        "beta_proportion", "BetaProportion", parameters("mean", "concentration"), support.unit_interval, implicit=True
    ),
    "p(x) proportional to x**(mean concentration - 1) (1 - x)**((1 - mean) concentration - 1)",
)
kumaraswamy = constructor(
    Family(
        "kumaraswamy",
        "Kumaraswamy",
        parameters("concentration1", "concentration0"),
        support.open_unit_interval,
        density=densities.kumaraswamy,
    ),
    "p(x) = a b x**(a - 1) (1 - x**a)**(b - 1), a = concentration1, b = concentration0",
)
relaxed_bernoulli = constructor(
    Family(
        "relaxed_bernoulli",
        "RelaxedBernoulli",
        parameters("temperature", *_PROBS_OR_LOGITS),
        support.open_unit_interval,
        alternatives=_PROBS_OR_LOGITS,
        density=densities.relaxed_bernoulli,
    ),
    "x = sigmoid((logits + L) / temperature), L standard logistic: a relaxation of the Bernoulli, not one",
)
von_mises = constructor(
    Family("von_mises", "VonMises", parameters("loc", "concentration"), support.circular, reparameterised=False),
    "p(x) = exp(concentration cos(x - loc)) / (2 pi I_0(concentration))",
)


def _truncated(family: Family, given) -> Family:
    low, high = "low" in given, "high" in given
    bounds = support.clipped_interval if low and high else support.left_bounded if low else support.right_bounded
    return dataclasses.replace(family, support=bounds if low or high else support.real)


truncated_normal = constructor(
    Family(
        "truncated_normal",
        "TruncatedNormal",
        (*_LOC_SCALE, Parameter("low", optional=True), Parameter("high", optional=True)),
        support.clipped_interval,
        density=densities.truncated_normal,
        variant=_truncated,
    ),
    "p(x) proportional to exp(-(x - loc)**2 / (2 scale**2)) for low <= x <= high; either bound may be left out",
)


def _point(family: Family, given) -> Family:
    event_dim = int(given["event_dim"])
    v, *others = family.parameters
    v = dataclasses.replace(v, event_ndim=event_dim)
    return dataclasses.replace(family, event_ndim=event_dim, parameters=(v, *others), support=support.point(event_dim))


delta = constructor(
    Family(
        "delta",
        "Delta",
        (*parameters(v=0.0, log_density=0.0), Parameter("event_dim", default=0, static=True)),
        support.point(0),
        density=densities.delta,
        variant=_point,
    ),
    "x = v, with the log density log_density; the last event_dim axes of v are one event",
)
