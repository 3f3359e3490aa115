"""Sums of a term over the values of enumerated choices, with their probabilities: what is summed first costs least."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax

from ppl.transforms.axes import Axes, Val
from ppl.transforms.elimination import Factor, multiply


def weigh(term: Any, axes: Axes, factors: Sequence[Factor], at: int = 0):
    """Sum a term over enumerated choices, one after the other, those first that fewest factors mention.

    A term that is infinite where the joint probability is 0 counts as 0, and has the derivative 0: it cannot happen.

    Args:
        term: The term, with one leading axis for each choice.
        axes: The choices.
        factors: Factors of their joint probability over these choices, broadcasting against the term's own axes.
        at: Where the axis of a single choice stands, if not in front.

    Returns:
        The mean.
    """
    term = _possible(term, axes, factors)
    left, axes = list(factors), list(axes)
    while axes:
        groups = {axis: [factor for factor in left if axis in factor.val.axes] for axis in axes}
        axis = min(reversed(axes), key=lambda axis: len(groups[axis]))
        if groups[axis]:
            term = _against(multiply(groups[axis]), axes) * term
        left = [factor for factor in left if axis not in factor.val.axes]
        term = term.sum(axes.index(axis) if at == 0 else at)
        axes.remove(axis)
    return functools.reduce(lambda total, factor: total * factor.val.raw, left, term)


def _possible(term, axes: Axes, factors: Sequence[Factor]):
    """Put 0 for what is infinite where a factor is 0."""
    if not factors:
        return term
    likely = functools.reduce(jnp.logical_and, [_against(factor.val, axes) != 0 for factor in factors])
    counts = jnp.broadcast_to(lax.is_finite(term) | likely, term.shape)
    return lax.select(counts, term, jnp.zeros_like(term))


def _against(val: Val, axes: Sequence):
    """Give a value size 1 along the axes that it does not have; its own are in the same order."""
    missing = [place for place, axis in enumerate(axes) if axis not in val.axes]
    return jnp.expand_dims(val.raw, missing) if missing else val.raw
