"""Sums of a term over the values of enumerated choices, with their probabilities: what is summed first costs least."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax

from ppl.transforms.axes import Axes, Val
from ppl.transforms.elimination import Factor, multiply
from ppl.transforms.possible import possible_product


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
    counts = _counts(term, axes, factors)
    left, axes = list(factors), list(axes)
    while axes:
        groups = {axis: [factor for factor in left if axis in factor.val.axes] for axis in axes}
        axis = min(reversed(axes), key=lambda axis: len(groups[axis]))
        weight = _against(multiply(groups[axis]), axes) if groups[axis] else jnp.ones((), term.dtype)
        if counts is not None:
            term, counts = possible_product(weight, term, counts), None
        elif groups[axis]:
            term = weight * term
        left = [factor for factor in left if axis not in factor.val.axes]
        term = term.sum(axes.index(axis) if at == 0 else at)
        axes.remove(axis)
    return functools.reduce(lambda total, factor: total * factor.val.raw, left, term)


def _counts(term, axes: Axes, factors: Sequence[Factor]):
    """Tell where a term counts: all of it, but what is infinite where a factor is 0; None without factors."""
    if not factors:
        return None
    likely = functools.reduce(jnp.logical_and, [_against(factor.val, axes) != 0 for factor in factors])
    return jnp.broadcast_to(lax.is_finite(term) | likely, term.shape)


def _against(val: Val, axes: Sequence):
    """Give a value size 1 along the axes that it does not have; its own are in the same order."""
    missing = [place for place, axis in enumerate(axes) if axis not in val.axes]
    return jnp.expand_dims(val.raw, missing) if missing else val.raw
