"""Values of many lanes with the axis of enumeration last, where a choice has many values.

By rule the axis of an enumerated choice leads: for few values that is what runs fastest. The probabilities of many
values, a row of logits for each lane, come with their axis last, and turning them costs more than all that is computed
with them. So such a value is kept in both layouts; the one that nobody reads is never made.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from ppl.analysis.positions import SAME, Position
from ppl.analysis.rules import is_elementwise
from ppl.primitives import Lane, density_p, evaluate_density_with
from ppl.transforms.axes import Val, union

MANY_VALUES = 8
"""Number of values from which on their axis may be last: a vector register of the widest common machines."""


def with_last(val: Val, last: Any = None) -> Val:
    """Keep a value of one enumerated choice in both layouts, where that helps; `last` is the second, if it is there."""
    rank = jnp.ndim(val.raw) - 1
    if len(val.axes) != 1 or rank < 1 or val.raw.shape[0] < MANY_VALUES:
        return val
    return dataclasses.replace(val, last=jnp.moveaxis(val.raw, 0, -1) if last is None else last)


def of_last(last, shape: Sequence[int], axes) -> Val:
    """Return the value whose second layout is given."""
    whole = (*shape, last.shape[-1])
    return Val(jnp.moveaxis(jnp.broadcast_to(last, whole), -1, 0), axes, last=last)


def evaluate_last(eqn, vals: Sequence[Val]) -> Val | None:
    """Evaluate an elementwise equation or a density in the second layout; None, where it cannot or need not be."""
    axes = union(vals)
    if len(axes) != 1 or len(eqn.outvars) != 1 or not eqn.outvars[0].aval.shape:
        return None
    if eqn.primitive is density_p:
        return _density(eqn, vals)
    if not is_elementwise(eqn.primitive.name) or all(val.last is None for val in vals):
        return None
    shape = tuple(eqn.outvars[0].aval.shape)
    operands = [_last_of(val, var.aval.shape) for val, var in zip(vals, eqn.invars, strict=True)]
    if any(operand is None for operand in operands):
        return None
    whole = (*shape, next(val.last.shape[-1] for val in vals if val.last is not None))
    operands = [jnp.broadcast_to(operand, whole) if jnp.ndim(operand) else operand for operand in operands]
    params = eqn.primitive.get_bind_params(eqn.params)
    return of_last(eqn.primitive.bind(*operands, **params), shape, axes)


def _last_of(val: Val, shape: Sequence[int]):
    """Return a value with the axis of enumeration last, of size 1 where all are equal."""
    if val.last is not None:
        return val.last
    if not val.axes:
        return jnp.expand_dims(val.raw, -1) if shape else val.raw
    return None if val.uniform is None or not shape else jnp.moveaxis(jnp.asarray(val.uniform), 0, -1)


def _density(eqn, vals: Sequence[Val]) -> Val | None:
    """Evaluate a density of scalars with one more lane: the values of the choice."""
    params, lanes = eqn.params, eqn.params["lanes"]
    scalar = all(sum(lane.mapped[i] for lane in lanes) == len(var.aval.shape) for i, var in enumerate(eqn.invars))
    if params["masked"] or not lanes or not scalar or params["spec"].family.event_ndim:
        return None
    read = [_lane_operand(val, len(var.aval.shape)) for val, var in zip(vals, eqn.invars, strict=True)]
    if any(operand is None for operand in read):
        return None
    operands, shared, varying = zip(*read, strict=True)
    count = next(operand.shape[-1] for operand, varies in zip(operands, varying, strict=True) if varies)
    if count < MANY_VALUES:
        return None
    kept = [
        Lane(lane.size, tuple(on and not one for on, one in zip(lane.mapped, shared, strict=True)), lane.depth)
        for lane in lanes
    ]
    last = evaluate_density_with(eqn, operands, (*kept, Lane(count, tuple(varying), 0)))
    return of_last(last, eqn.outvars[0].aval.shape, union(vals))


def _lane_operand(val: Val, rank: int) -> tuple[Any, bool, bool] | None:
    """Return an operand, whether it is the same in all lanes, and whether it has the axis of enumeration, last."""
    if not val.axes:
        return val.raw, False, False
    if val.last is not None and jnp.ndim(val.last) == rank + 1 and 1 not in jnp.shape(val.last)[:-1]:
        return val.last, False, True
    if val.uniform is not None and jnp.size(val.uniform) == jnp.shape(val.uniform)[0]:
        return jnp.ravel(jnp.asarray(val.uniform)), True, True
    if not rank:
        return val.raw, False, True
    return None


def weigh_last(term: Val, weight: Val, position: Position | None):
    """Sum a term over the values of a choice in the second layout; None, where it does not have it.

    Args:
        term: The term.
        weight: The probabilities of the choice.
        position: Where the lanes of the choice lie in the term.
    """
    if term.last is None or weight.last is None or weight.axes != term.axes:
        return None
    shape = term.raw.shape[1:]
    if position != tuple((axis, SAME) for axis in range(len(shape))) or weight.last.shape[:-1] != shape:
        return None
    return jnp.broadcast_to(term.last, weight.last.shape), weight.last
