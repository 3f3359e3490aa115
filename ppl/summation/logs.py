"""Sums of exponentials of logarithms, safe where all of them are -inf."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax


def log_sum_exp(logs: Any, axis: int) -> Any:
    """Return log(sum(exp(logs))) along an axis.

    The largest is taken out first. What is -inf adds 0 and gets the derivative 0 (of any order); a sum of nothing but
    -inf is -inf, with derivatives 0; NaN and +inf stay what they are.
    """
    largest = lax.stop_gradient(jnp.max(logs, axis, keepdims=True))
    largest = jnp.where(jnp.isfinite(largest), largest, 0)
    possible = logs != -jnp.inf
    terms = jnp.where(possible, jnp.exp(jnp.where(possible, logs - largest, 0)), 0)
    total = terms.sum(axis)
    some = total != 0
    return jnp.where(some, jnp.log(jnp.where(some, total, 1)) + jnp.squeeze(largest, axis), -jnp.inf)
