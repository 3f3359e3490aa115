"""The operands of a choice beside its parameters: what its strategy has learned, which stands before the mask.

A strategy is a static parameter of the choice's equation, so what it computes from arrays cannot be in it. A learned
baseline is evaluated where the choice is made, and its value is one more operand: it gains lanes, leaves loops and is
differentiated like any other. A strategy that learns by itself (`Strategy.learns`) gives one 1-D array, which stands in
the same place.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ppl._errors import StrategyError
from ppl.family import Spec
from ppl.primitives import Lane, choice_p
from ppl.strategies.baseline import Learned
from ppl.strategies.protocol import Strategy


def learned_baseline(strategy: Strategy | None) -> Learned | None:
    """Return the baseline of a strategy if it is a learned one."""
    baseline = getattr(strategy, "baseline", None)
    return baseline if isinstance(baseline, Learned) else None


def as_static(strategy: Strategy | None) -> Strategy | None:
    """Return a strategy without arrays, as it stands in a program."""
    baseline = learned_baseline(strategy)
    if baseline is not None:
        return dataclasses.replace(strategy, baseline=baseline.static())
    return strategy.static() if strategy is not None and strategy.learns else strategy


def baseline_operand(strategy: Strategy | None, shapes: Sequence[tuple[int, ...]], where: str) -> jax.Array | None:
    """Evaluate a learned baseline, broadcast to the last of these shapes that it fits; None if there is none.

    What a strategy learns by itself is a 1-D array, and left as it is.

    Raises:
        StrategyError: Its value broadcasts to none of them.
    """
    if strategy is not None and strategy.learns:
        return jnp.asarray(strategy.operand(), jnp.result_type(float))
    baseline = learned_baseline(strategy)
    if baseline is None:
        return None
    value = jnp.asarray(baseline.operand())
    value = value if jnp.issubdtype(value.dtype, jnp.floating) else value.astype(jnp.result_type(float))
    for shape in reversed(shapes):
        if _broadcasts(value.shape, shape):
            return jnp.broadcast_to(value, shape)
    raise StrategyError(
        "A learned baseline has the wrong shape.",
        where=where,
        expected=" or ".join(f"shape {shape}" for shape in shapes) + ": one number for each lane and batch element",
        got=f"shape {value.shape}",
        remedy="let its function return one number for each element of the choice",
    )


def _broadcasts(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    return len(shape) <= len(target) and np.broadcast_shapes(shape, target) == target


def without_baseline(params: Mapping[str, Any], operands: Sequence) -> tuple[list, tuple[Lane, ...]]:
    """Return the operands of a choice, and its lanes, without the value of a baseline."""
    if not params["baseline"]:
        return list(operands), params["lanes"]
    at = len(params["spec"].names)
    lanes = tuple(dataclasses.replace(lane, mapped=_drop(lane.mapped, at)) for lane in params["lanes"])
    return [*operands[:at], *operands[at + 1 :]], lanes


def _drop(mapped: tuple[bool, ...], at: int) -> tuple[bool, ...]:
    return mapped[:at] + mapped[at + 1 :]


def learned_operand(params: Mapping[str, Any], operands: Sequence) -> tuple[Any, tuple[bool, ...]] | None:
    """Return what a choice's strategy learns by itself, and in which lanes it differs; None if there is nothing."""
    strategy, at = params["strategy"], len(params["spec"].names)
    if strategy is None or not strategy.learns or not params["baseline"]:
        return None
    return operands[at], tuple(lane.mapped[at] for lane in params["lanes"])


def baseline_in_lanes(params: Mapping[str, Any]) -> Callable[[Any], jax.Array]:
    """Return a function that lets a baseline's value broadcast against the lanes and batch of its choice."""
    at = len(params["spec"].names)
    lead = tuple(lane.size if lane.mapped[at] else 1 for lane in params["lanes"])
    mapped = sum(lane.mapped[at] for lane in params["lanes"])
    return lambda value: jnp.reshape(value, lead + jnp.shape(value)[mapped:])


def with_strategy(strategy: Strategy | None, operands: Sequence, params: Mapping[str, Any]) -> list:
    """Bind a choice again with another strategy, whose baseline has the shape of the batch, or of lanes and batch."""
    operands, lanes = without_baseline(params, operands)
    batch = _batch_shape(params["spec"], operands, lanes)
    whole = (*(lane.size for lane in lanes), *batch)
    where = f"{params['label']!r} at {params['source']}"
    value = baseline_operand(strategy, [whole, batch] if lanes else [batch], where)
    if value is not None:
        at = len(params["spec"].names)
        in_lanes = len(lanes) > 0 and value.shape == whole and not strategy.learns
        operands.insert(at, value)
        add = lambda mapped: (*mapped[:at], in_lanes, *mapped[at:])
        lanes = tuple(dataclasses.replace(lane, mapped=add(lane.mapped)) for lane in lanes)
    changes = {"strategy": as_static(strategy), "baseline": value is not None, "lanes": lanes}
    return choice_p.bind(*operands, **{**params, **changes})


def _batch_shape(spec: Spec, operands: Sequence, lanes: Sequence[Lane]) -> tuple[int, ...]:
    count = [sum(lane.mapped[i] for lane in lanes) for i in range(len(spec.names))]
    return tuple(spec.batch_shape([jnp.shape(x)[n:] for x, n in zip(operands, count, strict=False)]))


# --- Where a value is kept while a program is evaluated ----------------------------------------------------------

_FITTED, _SHARE = -1, -2


def fitted_at(site: tuple[int, ...]) -> tuple[int, ...]:
    """Return the name under which the value of a choice's baseline stands beside the scores: as if inside of it."""
    return (*site, _FITTED)


def share_at(site: tuple[int, ...]) -> tuple[int, ...]:
    """Return the name of the probabilities of the enumerated choices for each value of which a choice is drawn."""
    return (*site, _SHARE)


def choice_at(name: tuple[int, ...]) -> tuple[int, ...]:
    """Return the location of the choice to which what stands under a name belongs."""
    return name[:-1] if name[-1:] in ((_FITTED,), (_SHARE,)) else name
