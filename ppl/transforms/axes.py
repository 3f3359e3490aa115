"""Values with axes of enumeration: every enumerated choice that a value depends on adds one leading axis."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

Axes = tuple[tuple[int, ...], ...]
"""Locations of enumerated choices, sorted: the leading axes of a value, outermost first."""


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
    return tuple(sorted({axis for val in vals for axis in val.axes}))


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


def axes_of(vals: dict) -> dict:
    """Return the axes of several values by key."""
    return {key: val.axes for key, val in vals.items()}


def raws_of(vals: dict) -> dict:
    """Return several values as they are, by key."""
    return {key: val.raw for key, val in vals.items()}
