"""Values with axes of enumeration: every enumerated choice that a value depends on adds one leading axis."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ppl.analysis.dependence import in_order
from ppl.analysis.positions import INF, SAME, Position, Window

Axes = tuple[Any, ...]
"""Enumerated choices (locations, or `Past` for those of the step before) in order: the leading axes of a value."""


@dataclasses.dataclass(frozen=True)
class Val:
    """A value of the program.

    Attributes:
        raw: The value as it is, with one leading axis for each of `axes`; None where it is not needed.
        axes: The enumerated choices that it varies with.
        surrogate: The sum of charged terms whose expectation's derivatives it has; None where it is not needed.
        uniform: The same as `raw` with size 1 along axes of the value where all elements are equal; None, if not known.
        values: First and number of the values of which it holds all, in order; None, if it is not such a table.
        last: The same as `raw` with its one axis of enumeration last, lanes of size 1 where all are equal; or None.
    """

    raw: Any
    axes: Axes = ()
    surrogate: Any = None
    uniform: Any = None
    values: tuple[int, int] | None = None
    last: Any = None


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


def at_states(val: Val, states: Mapping) -> Val:
    """Return a value at given states of some enumerated choices, without axes for these."""
    places = [(place, states[axis]) for place, axis in enumerate(val.axes) if axis in states]
    if not places or val.raw is None:
        return val
    raw, uniform = val.raw, val.uniform
    for place, state in reversed(places):
        index = (slice(None),) * place + (state,)
        raw, uniform = raw[index], None if uniform is None else uniform[index]
    return dataclasses.replace(
        val, raw=raw, axes=tuple(a for a in val.axes if a not in states), uniform=uniform, values=None, last=None
    )


def expand(val: Val, axes: Axes, sizes: dict) -> Any:
    """Return a raw value broadcast to more axes."""
    if val.axes == axes:
        return val.raw
    raw = jnp.asarray(val.raw)
    own = raw.shape[len(val.axes) :]
    spread = raw.reshape(tuple(sizes[axis] if axis in val.axes else 1 for axis in axes) + own)
    return jnp.broadcast_to(spread, tuple(sizes[axis] for axis in axes) + own)


def aligned(array, position: Position, shape: Sequence[int]):
    """Sum what is given for every lane of a choice into what broadcasts against a value of this shape.

    Args:
        array: Numbers over the axes of the choice.
        position: Where these axes lie in the value: they are kept, summed over windows, or summed.
        shape: Shape of the value.
    """
    for axis in reversed(range(len(position))):
        relation = position[axis]
        if relation is None or relation[0] is None:
            array = (array if relation is None else _between(array, axis, relation[1])).sum(axis)
        else:
            array = windowed(array, axis, relation[1], shape[relation[0]])
    targets = [relation[0] for relation in position if relation is not None and relation[0] is not None]
    order = sorted(range(len(targets)), key=targets.__getitem__)
    array = jnp.transpose(array, order)
    return jnp.expand_dims(array, [axis for axis in range(len(shape)) if axis not in targets])


def windowed(array, axis: int, window: Window, length: int):
    """Sum an array along an axis over the window of lanes around each of `length` indices."""
    first, last, _ = window
    if window == SAME or array.shape[axis] == 1:  # What is one for all lanes stays so.
        return array
    if first == -INF:
        return _ends(lax.cumsum(array, axis), axis, np.arange(length) + last)
    if last == INF:
        backwards = lax.cumsum(array, axis, reverse=True)
        return _ends(jnp.flip(backwards, axis), axis, array.shape[axis] - 1 - (np.arange(length) + first))
    size = array.shape[axis]
    padding = [(0, 0, 0)] * array.ndim
    total = None
    for offset in range(first, last + 1):
        padding[axis] = (-offset, length - size + offset, 0)
        moved = lax.pad(array, jnp.zeros((), array.dtype), padding)
        total = moved if total is None else total + moved
    return total


def _between(array, axis: int, window: Window):
    """Return the lanes at fixed places; what is one for all lanes stays so."""
    size = array.shape[axis]
    first, last = max(window[0], 0), min(window[1], size - 1)
    return array if size == 1 else lax.slice_in_dim(array, min(first, size), max(first, last + 1), axis=axis)


def _ends(sums, axis: int, indices: np.ndarray):
    """Read cumulative sums: 0 before the first, the total after the last."""
    indices = np.clip(indices, -1, sums.shape[axis] - 1)
    read = jnp.take(sums, np.maximum(indices, 0), axis)
    if (indices >= 0).all():
        return read if len(indices) != sums.shape[axis] or (np.diff(indices) != 1).any() else sums
    shape = [1] * sums.ndim
    shape[axis] = len(indices)
    return jnp.where((indices >= 0).reshape(shape), read, 0)


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
