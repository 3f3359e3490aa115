r"""Quadrature rules: where to evaluate the expectation of a function of one choice, and with which weights.

A rule has nodes t_i with weights w_i of its own, and places them in a distribution with the density p by a map x(t):

    E f(x) = sum_i w_i rho(t_i) f(x(t_i)),    rho(t) = p(x(t)) |x'(t)| / omega(t),

omega the rule's weight function. Gauss's rules are chosen so that rho is 1. Elsewhere the trapezoidal rule is applied
after a change of variables under which the density decays as fast as an exponential of an exponential (Takahasi and
Mori 1974); its centre and width are those of Laplace's approximation to the distribution of log x or logit x.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln

from ppl.primitives import View

Nodes = tuple[np.ndarray, np.ndarray]
"""Nodes, and the logarithms of their weights."""
Placed = tuple[jax.Array, jax.Array]
"""Values of a choice, and the logarithms of rho."""


def _cutoff(dtype: Any) -> float:
    """Return -log of a density, relative to that at the mode, that is lost in rounding: 40 in float64, 20 in float32.

    Nodes reach no further than they must: what a program computes there, exp(u) say, may not be finite any more.
    """
    return 4 - math.log(jnp.finfo(dtype).eps)


@dataclasses.dataclass(frozen=True)
class Rule:
    """A quadrature rule for one family of distributions.

    Attributes:
        nodes: Nodes and log weights, for a number of points and the dtype of the choice.
        place: Maps the choice, its named parameters and nodes of the choice's shape to values and log rho.
    """

    nodes: Callable[[int, Any], Nodes]
    place: Callable[[View, Mapping[str, Any], jax.Array], Placed]


def _positive(nodes: np.ndarray, weights: np.ndarray) -> Nodes:
    """Leave out nodes whose weights are too small to be written down."""
    return nodes[weights > 0], np.log(weights[weights > 0])


def hermite(points: int, dtype: Any) -> Nodes:
    """Integrate over a standard normal (Gauss-Hermite)."""
    nodes, weights = np.polynomial.hermite.hermgauss(points)
    return _positive(math.sqrt(2) * nodes, weights / math.sqrt(math.pi))


def legendre(points: int, dtype: Any) -> Nodes:
    """Integrate over the unit interval (Gauss-Legendre)."""
    nodes, weights = np.polynomial.legendre.leggauss(points)
    return _positive((nodes + 1) / 2, weights / 2)


def laguerre(points: int, dtype: Any) -> Nodes:
    """Integrate over a standard exponential (Gauss-Laguerre)."""
    return _positive(*np.polynomial.laguerre.laggauss(points))


def trapezoidal(points: int, dtype: Any) -> Nodes:
    """Integrate over the real line what decays as fast as an exponential of an exponential."""
    end = math.asinh(5 + _cutoff(dtype))  # The last node is so many widths of the distribution from its mode.
    return end * (2 * periodic(points, dtype)[0] - 1), np.full(points, math.log(2 * end / points))


def periodic(points: int, dtype: Any) -> Nodes:
    """Integrate a periodic function over the unit interval."""
    return (np.arange(points) + 0.5) / points, np.full(points, -math.log(points))


def _log_cosh(x: jax.Array) -> jax.Array:
    return jnp.logaddexp(x, -x) - math.log(2)


def _alike(value: jax.Array) -> Placed:
    """Place nodes of a rule that was made for the density itself."""
    return value, jnp.zeros_like(value)


def _log_gamma(concentration: jax.Array, t: jax.Array) -> Placed:
    """Place log x for x of a standard gamma distribution.

    Past the mode, y to the right of it, the density falls as exp(-a (exp(y) - 1 - y)), a the concentration. The tail
    ends where that is less than exp(-c), c the cutoff, for exp(y) overflows soon after: with s**2 = 2 c / a, that is
    so from exp(y) = 1 + s + s**2 / 2 on, since exp(s) is at least as much.
    """
    width = concentration**-0.5
    reach = math.sqrt(2 * _cutoff(t.dtype)) * width
    offset = jnp.minimum(width * jnp.sinh(t), jnp.log1p(reach + reach**2 / 2))
    log_mode = jnp.log(concentration)
    at_mode = concentration * (log_mode - 1) - gammaln(concentration)
    log_density = at_mode + concentration * (offset - jnp.expm1(offset))
    return log_mode + offset, log_density + jnp.log(width) + _log_cosh(t)


def _of_gamma(concentration: Callable, value: Callable) -> Rule:
    """Make the rule of a function `value(params, log x)` of a standard gamma variable x."""

    def place(view: View, params: Mapping[str, Any], t: jax.Array) -> Placed:
        log_x, log_rho = _log_gamma(concentration(params), t)
        return value(params, log_x), log_rho

    return Rule(trapezoidal, place)


def _beta(view: View, params: Mapping[str, Any], t: jax.Array) -> Placed:
    a, b = params["concentration1"], params["concentration0"]
    width = jnp.sqrt((a + b) / (a * b))
    logit = jnp.log(a) - jnp.log(b) + width * jnp.sinh(t)
    log_norm = gammaln(a) + gammaln(b) - gammaln(a + b)  # JAX's `betaln` has 8 digits.
    log_density = -a * jax.nn.softplus(-logit) - b * jax.nn.softplus(logit) - log_norm
    limits = jnp.finfo(t.dtype)
    value = jnp.clip(jax.nn.sigmoid(logit), limits.tiny, 1 - limits.epsneg)  # The tails round to 0 and 1.
    return value, log_density + jnp.log(width) + _log_cosh(t)


def _student(df: jax.Array, params: Mapping[str, Any], t: jax.Array) -> Placed:
    """With x = sqrt(df) sinh(v), the density in v is a power of cosh(v)."""
    v = math.pi / 2 * jnp.sinh(t)
    log_norm = gammaln((df + 1) / 2) - gammaln(df / 2) - 0.5 * math.log(math.pi)
    value = params["loc"] + params["scale"] * jnp.sqrt(df) * jnp.sinh(v)
    return value, log_norm - df * _log_cosh(v) + math.log(math.pi / 2) + _log_cosh(t)


def _half_cauchy(view: View, params: Mapping[str, Any], t: jax.Array) -> Placed:
    log_x = jnp.sinh(t)
    return params["scale"] * jnp.exp(log_x), -math.log(math.pi) - _log_cosh(log_x) + _log_cosh(t)


def _logistic(view: View, params: Mapping[str, Any], t: jax.Array) -> Placed:
    x = 2 * jnp.sinh(t)
    log_density = -x - 2 * jax.nn.softplus(-x)
    return params["loc"] + params["scale"] * x, log_density + math.log(2) + _log_cosh(t)


def _on_interval(view: View, low: Any, high: Any, t: jax.Array) -> Placed:
    value = low + (high - low) * t
    return value, view.spec.log_prob(value, view.params, inside=True) + jnp.log(high - low)


_ONE = lambda params: jnp.ones_like(params["scale"])

RULES: dict[str, Rule] = {
    "normal": Rule(hermite, lambda view, p, t: _alike(p["loc"] + p["scale"] * t)),
    "log_normal": Rule(hermite, lambda view, p, t: _alike(jnp.exp(p["loc"] + p["scale"] * t))),
    "uniform": Rule(legendre, lambda view, p, t: _alike(p["low"] + (p["high"] - p["low"]) * t)),
    "log_uniform": Rule(legendre, lambda view, p, t: _alike(p["low"] * (p["high"] / p["low"]) ** t)),
    "exponential": Rule(laguerre, lambda view, p, t: _alike(t / p["rate"])),
    "gamma": _of_gamma(lambda p: p["concentration"], lambda p, y: jnp.exp(y) / p["rate"]),
    "inverse_gamma": _of_gamma(lambda p: p["concentration"], lambda p, y: p["rate"] * jnp.exp(-y)),
    "chi2": _of_gamma(lambda p: p["df"] / 2, lambda p, y: 2 * jnp.exp(y)),
    "half_normal": _of_gamma(lambda p: _ONE(p) / 2, lambda p, y: p["scale"] * jnp.exp((y + math.log(2)) / 2)),
    "weibull": _of_gamma(_ONE, lambda p, y: p["scale"] * jnp.exp(y / p["concentration"])),
    "gumbel": _of_gamma(_ONE, lambda p, y: p["loc"] - p["scale"] * y),
    "half_cauchy": Rule(trapezoidal, _half_cauchy),
    "logistic": Rule(trapezoidal, _logistic),
    "student_t": Rule(trapezoidal, lambda view, p, t: _student(p["df"], p, t)),
    "cauchy": Rule(trapezoidal, lambda view, p, t: _student(_ONE(p), p, t)),
    "beta": Rule(trapezoidal, _beta),
    "truncated_normal": Rule(legendre, lambda view, p, t: _on_interval(view, p["low"], p["high"], t)),
    "von_mises": Rule(periodic, lambda view, p, t: _on_interval(view, -math.pi, math.pi, t)),
}
"""A rule for each family, by name."""


def rule_of(spec: Any) -> Rule | None:
    """Return the rule for a distribution, or None."""
    if spec.family.name == "truncated_normal" and not {"low", "high"} <= set(spec.names):
        return None
    return RULES.get(spec.family.name)
