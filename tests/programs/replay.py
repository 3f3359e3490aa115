"""Comparison of a program with its law, written apart from the library in plain Python or as a closed form."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.flatten_util import ravel_pytree

import ppl
from tests.statistics import STEP, expectation

KEY = jr.key(7)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(logits) -> list:
    """Return the probabilities; complex logits too."""
    weights = np.exp(np.asarray(logits))
    return list(weights / weights.sum())


def hermite(nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the nodes and weights of a Gauss rule for the standard normal."""
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    return points, weights / weights.sum()


def replay(law: Callable, theta) -> tuple[float, np.ndarray]:
    """Return value and gradient of a law: all outcomes of its draws, and a complex step in one parameter at a time."""
    theta = np.asarray(theta, np.float64)
    stepped = np.array([expectation(law, theta + 1j * STEP * row) for row in np.eye(len(theta))])
    return float(stepped[0].real), stepped.imag / STEP


def close(got, expected, tol=1e-12) -> None:
    np.testing.assert_allclose(np.asarray(got), np.asarray(expected), rtol=0, atol=tol)


def assert_exact(program: Callable, law: Callable, theta) -> ppl.Exact:
    """Compare the exact mean of the estimates of value and gradient with the law's, and return it."""
    value, gradient = replay(law, theta)
    exact = ppl.exact_gradient(program)(jnp.asarray(theta))
    close(exact.value, value, 1e-9)
    close(exact.gradient, gradient, 1e-9)
    return exact


def assert_mean(estimate: Callable, truth, num=20_000, key=KEY) -> None:
    """Compare the mean of `estimate(key)`, any pytree, with the truth of the same structure, by a z-test."""
    draws = np.asarray(jax.jit(jax.vmap(lambda key: ravel_pytree(estimate(key))[0]))(jr.split(key, num)))
    truth = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(truth)])
    z = (draws.mean(0) - truth) / np.maximum(draws.std(0) / np.sqrt(num), 1e-12)
    assert draws.std(0).max() > 0, "the same result for every key"
    assert (np.abs(z) < 4.5).all(), f"mean {draws.mean(0)}, truth {truth}, z {z}"
