"""Values with axes of enumeration: every enumerated choice that a value depends on adds one leading axis."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ppl.analysis.dependence import in_order
from ppl.analysis.positions import FROM, SAME, Position

Axes = tuple[Any, ...]
"""Enumerated choices (locations, or `Past` for those of the step before) in order: the leading axes of a value."""


@dataclasses.dataclass(frozen=True)
class Val:
    """A value of the program.

    Attributes:
        raw: The value as it is, with one leading axis for each of `axes`; None where it is not needed.
        axes: The enumerated choices that it varies with.
        surrogate: The sum of charged terms whose expectation's derivatives it has; None where it is not needed.
    """

    raw: Any
    axes: Axes = ()
    surrogate: Any = None


def union(vals: Sequence[Val]) -> Axes:
    """Return all axes of several values, sorted."""
    return tuple(in_order({axis for val in vals for axis in val.axes}))


def under(function: Callable, vals: Sequence[Val], axes: Axes | None = None) -> tuple[Any, Axes]:
    """Evaluate a function of raw values for every joint state of the enumerated choices that they depend on.

    Returns:
        The results, each with one leading axis per choice, and these choices.
    """
    axes = union(vals) if axes is None else axes
    for axis in reversed(axes):
        in_axes = tuple(0 if axis in val.axes else None for val in vals)
        function = jax.vmap(function, in_axes=in_axes)
    return function(*[val.raw for val in vals]), axes


def expand(val: Val, axes: Axes, sizes: dict) -> Any:
    """Return a raw value broadcast to more axes."""
    if val.axes == axes:
        return val.raw
    raw = jnp.asarray(val.raw)
    own = raw.shape[len(val.axes) :]
    spread = raw.reshape(tuple(sizes[axis] if axis in val.axes else 1 for axis in axes) + own)
    return jnp.broadcast_to(spread, tuple(sizes[axis] for axis in axes) + own)


def aligned(array, position: Position, ndim: int):
    """Sum what is given for every lane of a choice into what broadcasts against a value with so many axes.

    Args:
        array: Numbers over the axes of the choice.
        position: Where these axes lie in the value: they are kept, accumulated, or summed.
        ndim: Number of axes of the value.
    """
    for axis in reversed(range(len(position))):
        relation = position[axis]
        if relation is None:
            array = array.sum(axis)
        elif relation[1] != SAME:
            array = lax.cumsum(array, axis, reverse=relation[1] == FROM)
    targets = [relation[0] for relation in position if relation is not None]
    order = sorted(range(len(targets)), key=targets.__getitem__)
    array = jnp.transpose(array, order)
    return jnp.expand_dims(array, [axis for axis in range(ndim) if axis not in targets])


@dataclasses.dataclass(frozen=True)
class Table:
    """Values by dependency, taken apart into arrays that JAX can hand on, and what they are."""

    vals: Mapping[Any, Val]

    @property
    def raws(self) -> list:
        """The arrays."""
        return [val.raw for val in self.vals.values()]

    def restore(self, raws: Sequence) -> dict[Any, Val]:
        """Return the same values with other arrays."""
        return {key: Val(raw, val.axes) for (key, val), raw in zip(self.vals.items(), raws, strict=True)}
