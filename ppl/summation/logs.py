"""Sums of exponentials of logarithms, safe where all of them are -inf."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax


def log_sum_exp(logs: Any, axis: int) -> Any:
    """Return log(sum(exp(logs))) along an axis.

    The largest is taken out first. What is -inf adds 0 and gets the derivative 0 (of any order); a sum of nothing but
    -inf is -inf, with derivatives 0; NaN and +inf stay what they are.
    """
    largest = _finite_max(logs, axis)
    total = _exp(logs, largest).sum(axis)
    some = total != 0
    return jnp.where(some, jnp.log(jnp.where(some, total, 1)) + jnp.squeeze(largest, axis), -jnp.inf)


def powers(logs: Any, axis: int) -> tuple[Any, Any]:
    """Return the exponentials of a table, the largest along an axis taken out, and the logarithm of that."""
    largest = _finite_max(logs, axis)
    return _exp(logs, largest), largest


def log_product(table: tuple[Any, Any], logs: Any, axis: int, exact: Callable[[], Any]) -> Any:
    """Return log(sum(table * exp(logs))) along an axis, the table being given by its `powers`.

    With the largest taken out on both sides, terms are at most 1, and what underflows is less than the smallest normal
    number. Where a sum is not large beside all of that together, all sums are done in logarithms.

    Args:
        table: Exponentials, and the logarithms by which they were shifted.
        logs: Logarithms that broadcast against the table.
        axis: The axis to sum over.
        exact: Returns the result computed in logarithms.

    Returns:
        The logarithms of the sums.
    """
    factors, shift = table
    largest = _finite_max(logs, axis)
    terms = _exp(logs, largest)
    if factors.ndim == 2 and terms.shape == (1, factors.shape[1]) and axis == 1:
        total = jnp.matmul(factors, terms[0], precision=lax.Precision.HIGHEST)
    elif factors.ndim == 2 and terms.shape == (factors.shape[0], 1) and axis == 0:
        total = jnp.matmul(terms[:, 0], factors, precision=lax.Precision.HIGHEST)
    else:
        total = (factors * terms).sum(axis)
    info = jnp.finfo(total.dtype)
    enough = total >= factors.shape[axis] * (float(info.tiny) / float(info.eps))
    scale = jnp.squeeze(largest, axis) + jnp.squeeze(shift, axis)
    summed = lambda: jnp.log(jnp.where(enough, total, 1)) + scale
    return lax.cond(enough.all(), summed, exact)


def _finite_max(logs: Any, axis: int) -> Any:
    largest = lax.stop_gradient(jnp.max(logs, axis, keepdims=True))
    return jnp.where(jnp.isfinite(largest), largest, 0)


def _exp(logs: Any, largest: Any) -> Any:
    possible = logs != -jnp.inf
    return jnp.where(possible, jnp.exp(jnp.where(possible, logs - largest, 0)), 0)
