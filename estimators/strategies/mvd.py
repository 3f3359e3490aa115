"""Measure-valued derivatives: the derivative of a density as a scaled difference of two densities."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax

from ppl import Strategy


@dataclasses.dataclass(frozen=True)
class mvd(Strategy):  # noqa: N801
    """Evaluate the costs at two coupled draws: d p = c (p+ - p-) dtheta, so d E[k] = c E[k(x+) - k(x-)] dtheta.

    For any cost, also discontinuous ones, with a variance that does not grow where the score does (Pflug 1989; table of
    Mohamed et al. 2020, section 6). Bernoulli and categorical choices look at every value, which leaves no noise of
    their own; a poisson choice at x and x + 1; normal at loc -+ scale * Rayleigh for the mean and at a double-sided
    Maxwell against a normal for the scale; exponential and gamma at a draw, and at the same with one more exponential
    added. The concentration of a gamma has no such pair here: use `implicit()`.

    Raises:
        StrategyError: A derivative reaches the concentration of a gamma, or costs of too many elements mix.

    Example:
        >>> import ppl
        >>> from estimators import mvd
        >>> cost = lambda p: (ppl.bernoulli(p, grad=mvd()).sample() - 0.45) ** 2
        >>> exact = ppl.exact_gradient(cost)(0.3)
        >>> round(float(exact.gradient), 4), round(float(exact.variance), 4)
        (0.1, 0.0)
    """

    common_noise = True

    def check(self, family) -> str | None:
        """Refuse families that have no pair in the table."""
        return None if family.name in _PAIRS else f"it is for {', '.join(_PAIRS)}"

    def estimate(self, key, d, k):
        """Return c theta (k(x+) - k(x-)), summed over the parameters."""
        return _PAIRS[d.family.name](key, d, k)


def _difference(k, plus, minus):
    return lax.stop_gradient(k(plus) - k(minus))


def _finite(key, d, k):
    values = d.first_value + jnp.arange(d.num_values)
    costs = lax.stop_gradient(jax.vmap(k)(values))
    return (d.probabilities * (costs - costs[:1])).sum(0)  # The weights sum to 1: a common cost is no cost.


def _poisson(key, d, k):
    x = d.sample(key)
    return d.params["rate"] * _difference(k, x + 1, x)


def _normal(key, d, k):
    loc, scale = d.params["loc"], d.params["scale"]
    fixed_loc, fixed_scale = lax.stop_gradient((loc, scale))
    radius_key, maxwell_key, uniform_key = jr.split(key, 3)
    radius = fixed_scale * jr.rayleigh(radius_key, 1.0, d.shape)
    slope = _difference(k, fixed_loc + radius, fixed_loc - radius) / (fixed_scale * math.sqrt(2 * math.pi))
    wide = fixed_scale * jr.double_sided_maxwell(maxwell_key, 0.0, 1.0, d.shape)
    narrow = wide * jr.uniform(uniform_key, d.shape)  # A double-sided Maxwell times a uniform is a normal.
    spread = _difference(k, fixed_loc + wide, fixed_loc + narrow) / fixed_scale
    return loc * slope + scale * spread


def _exponential(key, d, k):
    rate = d.params["rate"]
    fixed = lax.stop_gradient(rate)
    first, second = jr.exponential(key, (2, *d.shape)) / fixed
    return rate * _difference(k, first, first + second) / fixed


def _gamma(key, d, k):
    first_key, second_key = jr.split(key)
    rate = d.params["rate"]
    concentration = d.fixed("concentration", "use `implicit()` for this choice")
    fixed = lax.stop_gradient(rate)
    first = lax.stop_gradient(d.sample(first_key))
    second = jr.exponential(second_key, d.shape) / fixed
    return rate * _difference(k, first, first + second) * concentration / fixed


_PAIRS = {
    "bernoulli": _finite,
    "categorical": _finite,
    "poisson": _poisson,
    "normal": _normal,
    "exponential": _exponential,
    "gamma": _gamma,
}
