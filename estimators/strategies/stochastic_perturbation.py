"""Finite perturbations of discrete values with infinitesimal probability."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from ppl import Strategy


@dataclasses.dataclass(frozen=True)
class stochastic_perturbation(Strategy):  # noqa: N801 - strategies read as words at the choice.
    """Weigh what a jump to a neighbouring value would cost with the rate of that jump (Arya et al. 2022, section 2).

    When a parameter moves by dt, a value x that is read off one uniform number becomes its neighbour y with probability
    w(x) dt, so d E k = E[w(x) (k(y) - k(x))]. The pairs (w, y) for an increase of the parameter, F the distribution
    function, p the probabilities: bernoulli and binomial(n) (n - x) / (1 - p) and x + 1; geometric x / (p (1 - p)) and
    x - 1; poisson 1 and x + 1; categorical -dF(x) / p(x) and x + 1. Any cost. Two evaluations; choices made afterwards
    see the same noise in both, so in a chain most of what follows cancels. Nothing is pruned: of a chain of T steps
    each looks at its own neighbour.

    Raises:
        StrategyError: The family is none of these, or costs of too many elements mix.

    Example:
        >>> import ppl
        >>> from estimators import stochastic_perturbation
        >>> cost = lambda n: ppl.poisson(n, grad=stochastic_perturbation()).sample() ** 2.0
        >>> import jax
        >>> gradients = jax.vmap(ppl.grad(cost), (0, None))(jax.random.split(jax.random.key(0), 4000), 1.5)
        >>> bool(abs(gradients.mean() - 4) < 0.2)
        True
    """

    common_noise = True

    def check(self, family) -> str | None:
        """Refuse families that have no pair in the table."""
        return None if family.name in _PAIRS else f"it is for {', '.join(_PAIRS)}"

    def estimate(self, key, d, k):
        """Draw a value, and return the estimate for it."""
        return self.given(d.sample(key), d, k)

    def given(self, x, d, k):
        """Return w (k(y) - k(x)) as a function of the parameters."""
        neighbour, weight = _PAIRS[d.family.name](d, x)
        return weight * lax.stop_gradient(k(neighbour) - k(x))


def _prob(d):
    """Return the probability of success, and the same detached."""
    prob = d.params["probs"] if "probs" in d.params else jax.nn.sigmoid(d.params["logits"])
    return prob, lax.stop_gradient(prob)


def _bernoulli(d, x):
    prob, fixed = _prob(d)
    return jnp.minimum(x + 1, 1), jnp.where(x < 1, prob / _safe(1 - fixed), 0 * prob)


def _binomial(d, x):
    prob, fixed = _prob(d)
    total = d.params["total_count"]
    return jnp.minimum(x + 1, total), (total - x) * prob / _safe(1 - fixed)


def _geometric(d, x):
    prob, fixed = _prob(d)
    return jnp.maximum(x - 1, 0), x * prob / _safe(fixed * (1 - fixed))


def _poisson(d, x):
    return x + 1, d.params["rate"]


def _categorical(d, x):
    probs = d.probabilities
    below = jnp.take_along_axis(jnp.cumsum(probs, 0), x[None], 0)[0]
    own = lax.stop_gradient(jnp.take_along_axis(probs, x[None], 0)[0])
    last = d.num_values - 1
    return jnp.minimum(x + 1, last), jnp.where(x < last, -below / _safe(own), 0 * below)


def _safe(x):
    return jnp.maximum(x, jnp.finfo(jnp.result_type(x)).tiny)


_PAIRS = {
    "bernoulli": _bernoulli,
    "categorical": _categorical,
    "binomial": _binomial,
    "geometric": _geometric,
    "poisson": _poisson,
}
