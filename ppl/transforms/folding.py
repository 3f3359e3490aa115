"""Constants of enumeration: tables of values that are known when a program is traced, and what is read at them.

`locs[k]`, for all values k of a choice at once, is a run of rows of `locs`: no gather in the value and, which would
cost more, no scatter in the derivative.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from ppl.transforms.axes import Axes, Val, union

_ELEMENTWISE = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "max": np.maximum,
    "min": np.minimum,
    "neg": np.negative,
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "select_n": lambda which, *cases: np.where(which, *cases[::-1]),
    "convert_element_type": lambda x: x,
    "copy": lambda x: x,
}
"""What indexing does with integers, and comparisons of them."""


def constant_of(val: Val) -> np.ndarray | None:
    """Return the numbers of a value that is known when the program is traced, with size 1 along lanes that agree."""
    raw = val.raw if val.uniform is None else val.uniform
    return np.asarray(raw) if isinstance(raw, (np.ndarray, np.generic, int, bool)) else None


def fold(eqn, vals: Sequence[Val]) -> Val | None:
    """Evaluate an equation on integer constants with NumPy; None, where that cannot be done.

    Args:
        eqn: The equation.
        vals: Its operands: constants have one axis of enumeration at most.
    """
    if len(eqn.outvars) != 1 or not (eqn.primitive.name in _ELEMENTWISE or eqn.primitive.name in _MOVED):
        return None
    constants, axes = [constant_of(val) for val in vals], union(vals)
    if len(axes) > 1 or any(constant is None for constant in constants):
        return None
    out = eqn.outvars[0].aval
    if not (_is_discrete(out) and all(_is_discrete(var.aval) for var in eqn.invars)):
        return None
    lead = len(axes)
    led = [c if val.axes or not lead or not c.ndim else c[None] for c, val in zip(constants, vals, strict=True)]
    if eqn.primitive.name in _ELEMENTWISE:
        small = _ELEMENTWISE[eqn.primitive.name](*led) if _same_lanes(led, vals, eqn) else None
    else:
        small = _MOVED[eqn.primitive.name](eqn, led, lead)
    return None if small is None else _constant(np.asarray(small, out.dtype), axes, out.shape)


def _is_discrete(aval) -> bool:
    return isinstance(aval.dtype, np.dtype) and aval.dtype.kind in "iub"


def _same_lanes(constants, vals, eqn) -> bool:
    """Tell whether operands that are no scalars have one rank, and are as many numbers or one."""
    ranks = {len(var.aval.shape) for var in eqn.invars if var.aval.shape}
    return len(ranks) <= 1 and (eqn.primitive.name != "select_n" or len(vals) == 3)


def _constant(small: np.ndarray, axes: Axes, shape: Sequence[int]) -> Val:
    small = small.reshape(
        small.shape[: len(axes)] + (1,) * (len(shape) + len(axes) - small.ndim) + small.shape[len(axes) :]
    )
    return Val(spread(small, len(axes), shape), axes, None, small)


def spread(small: Any, lead: int, shape: Sequence[int]):
    """Write out the lanes of what is the same in all of them; `lead` axes of enumeration stand in front."""
    whole = small.shape[:lead] + tuple(shape)
    return small if small.shape == whole else jnp.broadcast_to(small, whole)


def _broadcast(eqn, constants, lead: int) -> np.ndarray:
    (constant,) = constants
    shape = [1] * len(eqn.outvars[0].aval.shape)
    for axis, size in zip(eqn.params["broadcast_dimensions"], constant.shape[lead:], strict=True):
        shape[axis] = size
    return constant.reshape(constant.shape[:lead] + tuple(shape))


def _squeeze(eqn, constants, lead: int) -> np.ndarray:
    return np.squeeze(constants[0], tuple(lead + axis for axis in eqn.params["dimensions"]))


def _concatenate(eqn, constants, lead: int) -> np.ndarray | None:
    axis = eqn.params["dimension"]
    if any(c.shape[lead + axis] != var.aval.shape[axis] for c, var in zip(constants, eqn.invars, strict=True)):
        return None
    size = max(c.shape[0] for c in constants) if lead else None
    led = [np.broadcast_to(c, (size, *c.shape[1:])) if lead else c for c in constants]
    ranges = {c.shape[: lead + axis] + c.shape[lead + axis + 1 :] for c in led}
    return np.concatenate(led, lead + axis) if len(ranges) == 1 else None


_MOVED = {"broadcast_in_dim": _broadcast, "squeeze": _squeeze, "concatenate": _concatenate}
"""What indexing does with axes."""


# --- Reading at constants ----------------------------------------------------------------------------------------


def read_rows(eqn, vals: Sequence[Val]) -> Val | None:
    """Read an array at all values of a choice: a run of its rows; None, where an equation does not do just that."""
    name = eqn.primitive.name
    if name not in ("dynamic_slice", "gather") or vals[0].axes or any(constant_of(val) is None for val in vals[1:]):
        return None
    starts = _slice_starts(vals[1:]) if name == "dynamic_slice" else _gather_starts(eqn, vals[1])
    axes, array = union(vals[1:]), vals[0].raw
    if starts is None or len(axes) != 1 or not (sizes := _single(eqn, starts, np.shape(array))):
        return None
    at, first, count = sizes
    rows = array if count == array.shape[at] else lax.slice_in_dim(array, first, first + count, axis=at)
    rows = jnp.moveaxis(rows, at, 0)
    rows = rows if _drops(eqn, at) else jnp.expand_dims(rows, at + 1)
    if name == "gather":
        offset, rank = eqn.params["dimension_numbers"].offset_dims, len(eqn.outvars[0].aval.shape)
        rows = jnp.expand_dims(rows, [axis + 1 for axis in range(rank) if axis not in offset])
    return Val(spread(rows, 1, eqn.outvars[0].aval.shape), axes, None, rows)


def _slice_starts(indices: Sequence[Val]) -> list[np.ndarray]:
    return [np.ravel(constant_of(val)) for val in indices]


def _gather_starts(eqn, index: Val) -> list[np.ndarray] | None:
    """List where each axis is read: once for all lanes."""
    numbers, constant, rank = eqn.params["dimension_numbers"], constant_of(index), len(eqn.invars[0].aval.shape)
    if numbers.operand_batching_dims or any(size != 1 for size in constant.shape[1:-1]):
        return None
    starts = [np.zeros(1, int)] * rank
    for column, axis in enumerate(numbers.start_index_map):
        starts[axis] = constant[..., column].ravel()
    return starts


def _single(eqn, starts: Sequence[np.ndarray], shape: Sequence[int]) -> tuple[int, int, int] | None:
    """Find the one axis that is read at consecutive indices, the others being read as a whole: axis, first, number."""
    sizes = eqn.params["slice_sizes"]
    moving = [axis for axis, start in enumerate(starts) if len(start) > 1 and start.min() != start.max()]
    if len(moving) != 1 or sizes[moving[0]] != 1:
        return None
    (at,) = moving
    start = starts[at]
    whole = all(sizes[axis] == shape[axis] for axis in range(len(shape)) if axis != at)
    within = start[0] >= 0 and start[-1] < shape[at] and (np.diff(start) == 1).all()
    return (at, int(start[0]), len(start)) if whole and within else None


def _drops(eqn, at: int) -> bool:
    return eqn.primitive.name == "gather" and at in eqn.params["dimension_numbers"].collapsed_slice_dims
