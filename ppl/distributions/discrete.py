"""Distributions of integers."""

from __future__ import annotations

from ppl import support
from ppl.distributions import densities, samplers
from ppl.distributions.constructor import constructor, parameters
from ppl.family import Family, Parameter, enumerable_if_known

_PROBS_OR_LOGITS = ("probs", "logits")
_COUNT = Parameter("total_count", default=1, integer=True)
_NEEDED_COUNT = Parameter("total_count", default=1, static=True)

# --- Finite supports ---------------------------------------------------------------------------------------------

bernoulli = constructor(
    Family(
        "bernoulli",
        "Bernoulli",
        parameters(*_PROBS_OR_LOGITS),
        support.boolean,
        discrete=True,
        enumerable=True,
        alternatives=_PROBS_OR_LOGITS,
        density=densities.bernoulli,
        anywhere=densities.bernoulli_anywhere,
        masses=densities.bernoulli_masses,
        sampler=samplers.bernoulli,
        finite_with=("logits",),
    ),
    "P(1) = probs = 1 / (1 + exp(-logits))",
)
categorical = constructor(
    Family(
        "categorical",
        "Categorical",
        (Parameter("probs", 1), Parameter("logits", 1)),
        support.index,
        discrete=True,
        enumerable=True,
        alternatives=_PROBS_OR_LOGITS,
        masses=densities.categorical_masses,
        log_masses=densities.categorical_log_masses,
    ),
    "P(k) = probs[k] = softmax(logits)[k]",
)
ordered_logistic = constructor(
    Family(
        "ordered_logistic",
        "OrderedLogistic",
        (Parameter("predictor"), Parameter("cutpoints", 1)),
        support.ordered_index,
        discrete=True,
        enumerable=True,
        density=densities.ordered_logistic,
    ),
    "P(k) = sigmoid(cutpoints[k] - predictor) - sigmoid(cutpoints[k - 1] - predictor)",
)
discrete_uniform = constructor(
    Family(
        "discrete_uniform",
        "DiscreteUniform",
        (Parameter("low", default=0, integer=True), Parameter("high", default=1, integer=True)),
        support.integer_interval,
        discrete=True,
        density=densities.discrete_uniform,
        enumerable=True,
        variant=enumerable_if_known("low", "high"),
    ),
    "P(k) = 1 / (high - low + 1), low and high included",
)
binomial = constructor(
    Family(
        "binomial",
        "Binomial",
        (_COUNT, *parameters(*_PROBS_OR_LOGITS)),
        support.count_to_total,
        discrete=True,
        enumerable=True,
        alternatives=_PROBS_OR_LOGITS,
        density=densities.binomial,
        masses=densities.binomial_masses,
        variant=enumerable_if_known("total_count"),
    ),
    "P(k) = C(total_count, k) probs**k (1 - probs)**(total_count - k)",
)
beta_binomial = constructor(
    Family(
        "beta_binomial",
        "BetaBinomial",
        (*parameters("concentration1", "concentration0"), _COUNT),
        support.count_to_total,
        discrete=True,
        density=densities.beta_binomial,
        enumerable=True,
        variant=enumerable_if_known("total_count"),
    ),
    "the binomial with probs from beta(concentration1, concentration0)",
)

# --- Counts without a bound --------------------------------------------------------------------------------------

poisson = constructor(
    Family("poisson", "Poisson", parameters("rate"), support.count, discrete=True),
    "P(k) = rate**k exp(-rate) / k!",
)
zero_inflated_poisson = constructor(
    Family(
        "zero_inflated_poisson",
        "ZeroInflatedPoisson",
        (Parameter("gate"), *parameters(rate=1.0)),
        support.count,
        discrete=True,
        density=densities.zero_inflated_poisson,
    ),
    "0 with probability gate, else poisson(rate)",
)
geometric = constructor(
    Family(
        "geometric",
        "Geometric",
        parameters(*_PROBS_OR_LOGITS),
        support.count,
        discrete=True,
        alternatives=_PROBS_OR_LOGITS,
        density=densities.geometric,
    ),
    "P(k) = (1 - probs)**k probs: failures before the first success",
)
negative_binomial = constructor(
    Family(
        "negative_binomial",
        "NegativeBinomial",
        parameters("total_count", *_PROBS_OR_LOGITS),
        support.count,
        discrete=True,
        alternatives=_PROBS_OR_LOGITS,
        density=densities.negative_binomial,
    ),
    "P(k) = C(k + total_count - 1, k) (1 - probs)**total_count probs**k",
)
negative_binomial2 = constructor(
    Family(
        "negative_binomial2",
        "NegativeBinomial2",
        parameters("mean", "concentration"),
        support.count,
        discrete=True,
        density=densities.negative_binomial2,
    ),
    "the negative binomial of this mean, with variance mean + mean**2 / concentration",
)
gamma_poisson = constructor(
    Family(
        "gamma_poisson",
        "GammaPoisson",
        (Parameter("concentration"), *parameters(rate=1.0)),
        support.count,
        discrete=True,
        density=densities.gamma_poisson,
    ),
    "the Poisson with a rate from gamma(concentration, rate)",
)
beta_negative_binomial = constructor(
    Family(
        "beta_negative_binomial",
        "BetaNegativeBinomial",
        parameters("concentration1", "concentration0", "n"),
        support.count,
        discrete=True,
        density=densities.beta_negative_binomial,
    ),
    "negative_binomial(n, probs) with probs from beta(concentration1, concentration0)",
)

# --- Vectors of counts -------------------------------------------------------------------------------------------

multinomial = constructor(
    Family(
        "multinomial",
        "Multinomial",
        (_NEEDED_COUNT, Parameter("probs", 1), Parameter("logits", 1)),
        support.counts_of_total,
        event_ndim=1,
        discrete=True,
        alternatives=_PROBS_OR_LOGITS,
        density=densities.multinomial,
    ),
    "P(x) = total_count! prod_k probs_k**x_k / x_k!",
)
dirichlet_multinomial = constructor(
    Family(
        "dirichlet_multinomial",
        "DirichletMultinomial",
        (Parameter("concentration", 1), _NEEDED_COUNT),
        support.counts_of_total,
        event_ndim=1,
        discrete=True,
        density=densities.dirichlet_multinomial,
    ),
    "the multinomial with probs from dirichlet(concentration)",
)
