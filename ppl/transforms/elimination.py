"""Sums over enumerated choices by variable elimination: one choice at a time, the cheapest first.

A term needs the joint probability of the choices that it varies with; those that these depend on are summed out. Each
sum makes a message over the choices next to the one that is gone, so a chain or tree of choices costs what its edges
cost, not their joint values (Zhang and Poole 1994). Messages are kept: terms further down a chain use them again.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

from ppl.transforms.axes import Axes, Val, under


@dataclasses.dataclass(frozen=True)
class Factor:
    """A factor of a joint probability.

    Attributes:
        name: What it is made of: factors of one name are equal.
        val: Its numbers, over some enumerated choices and over lanes that broadcast against the term's.
    """

    name: Any
    val: Val


def eliminate(
    factors: Sequence[Factor], keep: Axes, num_states: Callable[[Axes], float], messages: dict[Any, Val]
) -> list[Factor]:
    """Sum a product of factors over all choices but those to keep.

    Args:
        factors: The factors.
        keep: Choices to keep.
        num_states: Number of joint values of some choices; it may refuse too many.
        messages: Sums made before, by what they are made of.

    Returns:
        Factors of the sum.
    """
    left = list(factors)
    while True:
        gone = dict.fromkeys(axis for factor in left for axis in factor.val.axes if axis not in keep)
        if not gone:
            return left
        groups = {axis: [factor for factor in left if axis in factor.val.axes] for axis in gone}
        joint = {axis: tuple(dict.fromkeys(a for f in group for a in f.val.axes)) for axis, group in groups.items()}
        axis = min(gone, key=lambda axis: num_states(joint[axis]))
        left = [factor for factor in left if axis not in factor.val.axes]
        left.append(_summed(axis, groups[axis], messages))


def _summed(axis: Any, group: Sequence[Factor], messages: dict[Any, Val]) -> Factor:
    name = (axis, *(factor.name for factor in group))
    if name not in messages:
        product = multiply(group)
        place = product.axes.index(axis)
        messages[name] = Val(product.raw.sum(place), product.axes[:place] + product.axes[place + 1 :])
    return Factor(name, messages[name])


def multiply(factors: Sequence[Factor]) -> Val:
    """Multiply factors over the union of their choices."""
    if len(factors) == 1:
        return factors[0].val
    return Val(*under(lambda *raws: functools.reduce(jnp.multiply, raws), [factor.val for factor in factors]))
