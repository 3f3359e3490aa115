"""Means of single estimates over all of their noise, without the library's own machinery: enumeration and quadrature.

A strategy is given a distribution and costs of its own here, and returns numbers; their derivative is the estimate.
"""

import jax
import jax.numpy as jnp
import numpy as np

import ppl
from ppl.primitives import view
from ppl.strategies.costs import Costs
from ppl.strategies.distribution import Distribution


def distribution(family: str, **params) -> Distribution:
    """Return the distribution that a strategy is given for a single choice."""
    made = getattr(ppl, family)(**params)
    made.used = True
    return Distribution(view(made.spec, (), False, made.params), "a test")


def costs(function, relaxed=None) -> Costs:
    """Return the costs of a single choice, given a function of its value."""
    ask = lambda value, noise_key=None, **how: (relaxed if how.get("relaxed") else function)(value)
    return Costs(ask)


def unit_interval(*breaks: float, nodes: int = 24):
    """Return nodes and weights of a Gauss rule on each piece of (0, 1) between the breaks."""
    points, weights = np.polynomial.legendre.leggauss(nodes)
    edges = [0.0, *sorted(breaks), 1.0]
    pieces = [(a, b - a) for a, b in zip(edges[:-1], edges[1:], strict=True)]
    nodes = np.concatenate([a + width * (points + 1) / 2 for a, width in pieces])
    return jnp.asarray(nodes), jnp.asarray(np.concatenate([width * weights / 2 for _, width in pieces]))


def moments(estimate, theta, noise, weights):
    """Return mean and variance of the derivative of `estimate(noise, theta)` over weighted noise."""
    gradients = jax.vmap(jax.grad(estimate, argnums=1), (0, None))(noise, theta)
    mean = weights @ gradients
    return mean, weights @ (gradients - mean) ** 2
