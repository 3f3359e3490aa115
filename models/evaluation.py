"""Measuring a fit on held-out data."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, PyTree

import ppl


def held_out(
    objective: Callable, params: PyTree, data: PyTree, key: Key[Array, ""], *, runs: int
) -> Float[np.ndarray, " n"]:
    """Estimate the expectation of an objective for each datum: a program that maps over data and repeats over lanes.

    Args:
        objective: Stochastic function of `(params, datum)`.
        params: Its first argument.
        data: The data, along the leading axis of its leaves.
        key: Of all draws; every datum and every run has draws of its own.
        runs: How many runs are averaged.
    """

    def means(params: PyTree, data: PyTree) -> Float[Array, " n"]:
        def mean(datum: PyTree) -> Float[Array, ""]:
            return jnp.mean(jax.vmap(lambda _: objective(params, datum))(jnp.arange(runs)))

        return jax.lax.map(mean, data)

    estimate = ppl.expect(means)
    return np.asarray(eqx.filter_jit(lambda *args: estimate(*args))(key, params, data), np.float64)
