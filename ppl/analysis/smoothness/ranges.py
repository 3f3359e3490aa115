"""How large a value can be, asked only where it matters: at the edge of a support, at a pole."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from jax.core import Tracer

from ppl import jaxprs
from ppl.analysis.smoothness import intervals
from ppl.analysis.smoothness.frames import Frame, canonical
from ppl.analysis.smoothness.intervals import ANY, NONNEGATIVE, POSITIVE, SIGNED_UNIT, UNIT, Interval
from ppl.primitives import choice_p

_LARGEST = 4096
"""Number of elements up to which a constant array is looked at."""


def interval_of(frame: Frame, var) -> Interval:
    """Return an interval that holds all elements of a value."""
    if isinstance(var, jaxprs.Literal):
        return _of_constant(var.val)
    if var not in frame.ranges:
        frame.ranges[var] = ANY  # Met again on the way (a carry), nothing is known.
        frame.ranges[var] = _find(frame, var)
    return frame.ranges[var]


def _of_constant(value) -> Interval:
    if isinstance(value, Tracer) or np.size(value) > _LARGEST or not np.size(value):
        return ANY
    try:
        values = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        return ANY  # A key.
    if not np.isfinite(values).all():
        return ANY
    return intervals.closed(float(values.min()), float(values.max()))


def _find(frame: Frame, var) -> Interval:
    if getattr(var.aval.dtype, "kind", "") == "c":
        return ANY
    made = frame.maker(var)
    if made is None:
        return _of_argument(frame, var)
    eqn, index, number = made
    step = frame.behind(index, number)
    if step is not None:
        inside = step[0]
        return (
            intervals.softplus(interval_of(inside, inside.body.invars[0]))
            if _is_softplus(inside)
            else interval_of(*step)
        )
    if eqn.primitive is choice_p:
        return support_interval(
            frame, eqn.params["spec"], dict(zip(eqn.params["spec"].names, eqn.invars, strict=False))
        )
    if eqn.primitive is jaxprs.cond_p and frame.children.get(index):
        return intervals.hull([interval_of(child, child.body.outvars[number]) for child in frame.children[index]])
    if eqn.primitive is jaxprs.scan_p and frame.children.get(index):
        (child,) = frame.children[index]
        stacked = number >= jaxprs.read_scan(eqn).num_carry
        return interval_of(child, child.body.outvars[number]) if stacked else ANY
    if eqn.primitive.name == "div" and _is_share(frame, eqn):
        return UNIT
    rule = RULES.get(eqn.primitive.name)
    return ANY if rule is None else rule(eqn, [lambda v=v: interval_of(frame, v) for v in eqn.invars])


def _is_softplus(inside: Frame) -> bool:
    """Tell whether a body is JAX's softplus, which looks for NaN on the way."""
    return inside.trusted and jaxprs.function_of(inside.body)[0] == "softplus"


def _is_share(frame: Frame, eqn) -> bool:
    """Tell whether a quotient is x / sum(x) of positive x, as in a softmax."""
    made, axes = frame.maker(eqn.invars[1]), list(range(len(eqn.invars[1].aval.shape)))
    while made is not None and made[0].primitive.name == "broadcast_in_dim":
        axes = [axes[axis] for axis in made[0].params["broadcast_dimensions"]]
        made = frame.maker(made[0].invars[0])
    if made is None or made[0].primitive.name != "reduce_sum" or made[0].invars[0] is not eqn.invars[0]:
        return False
    kept = [axis for axis in range(len(eqn.invars[0].aval.shape)) if axis not in made[0].params["axes"]]
    return axes == kept and interval_of(frame, eqn.invars[0]).positive


def _of_argument(frame: Frame, var) -> Interval:
    constants = dict(zip(frame.body.constvars, frame.body.consts, strict=True))
    if var in constants:
        return _of_constant(constants[var])
    origins = frame.origins(var)
    return intervals.hull([interval_of(*origin) for origin in origins]) if origins else ANY


# --- Supports ----------------------------------------------------------------------------------------------------

_FIXED = {
    "positive": POSITIVE,
    "nonnegative": NONNEGATIVE,
    "unit_interval": intervals.closed(0.0, 1.0),
    "open_unit_interval": UNIT,
    "simplex": intervals.closed(0.0, 1.0),
    "circular": intervals.closed(-math.pi, math.pi),
    "sphere": SIGNED_UNIT,
    "corr_cholesky": SIGNED_UNIT,
}


def support_interval(frame: Frame, spec, operands: dict, surely: bool = False) -> Interval:
    """Return an interval around a support, or with `surely` one that the support holds whatever its parameters are.

    A choice is an interior point of its support: as its parameters move, it does not pass through the edge.
    """
    name = spec.family.support.name
    if name in _FIXED:
        fixed = _FIXED[name]
        return fixed if surely else Interval(fixed.low, fixed.high)
    low, high = -math.inf, math.inf
    known = dict(spec.known)

    def edge(parameter: str, upper: bool) -> float:
        if parameter in operands:
            interval = interval_of(frame, operands[parameter])
        else:
            interval = intervals.point(float(known[parameter])) if parameter in known else ANY
        return interval.high if upper else interval.low

    if name in ("interval", "left_bounded"):
        low = edge("low", surely)
    if name in ("interval", "right_bounded"):
        high = edge("high", not surely)
    if name == "above_loc":
        low = edge("loc", surely)
    if name == "from_scale":
        low = edge("scale", surely)
        low = low if surely else max(low, 0.0)
    return Interval(low, high)


def comes_from(frame: Frame, var) -> tuple[Frame, object] | None:
    """Return the choice of which a value is an unchanged copy, if it is one."""
    frame, var = canonical(frame, var)
    made = frame.maker(var)
    return (frame, made[0]) if made is not None and made[0].primitive is choice_p else None


# --- Operations --------------------------------------------------------------------------------------------------

_Parts = list[Callable[[], Interval]]


def _first(eqn, parts: _Parts) -> Interval:
    return parts[0]()


def _unary(function: Callable[[Interval], Interval]):
    return lambda eqn, parts: function(parts[0]())


def _binary(function: Callable[[Interval, Interval], Interval]):
    return lambda eqn, parts: function(parts[0](), parts[1]())


def _constant(interval: Interval):
    return lambda eqn, parts: interval


def _hull(start: int = 0):
    return lambda eqn, parts: intervals.hull([part() for part in parts[start:]])


def _mul(eqn, parts: _Parts) -> Interval:
    first, second = eqn.invars
    return intervals.power(parts[0](), 2) if first is second else intervals.mul(parts[0](), parts[1]())


def _div(eqn, parts: _Parts) -> Interval:
    return intervals.mul(parts[0](), intervals.inverse(parts[1]()))


def _pow(eqn, parts: _Parts) -> Interval:
    base = parts[0]()
    return POSITIVE if base.positive else NONNEGATIVE if base.low >= 0 else ANY


def _reduce_sum(eqn, parts: _Parts) -> Interval:
    """Keep the sign; a sum of several elements is 0 only where all are: on a set too small to be passed through."""
    part = parts[0]()
    count = math.prod(eqn.invars[0].aval.shape) // max(math.prod(eqn.outvars[0].aval.shape), 1)
    if count == 1:
        return part
    low = count * part.low if part.low < 0 else part.low
    high = count * part.high if part.high > 0 else part.high
    return Interval(low, high, part.low_open or part.low == 0, part.high_open or part.high == 0)


def _cumulative(eqn, parts: _Parts) -> Interval:
    part = parts[0]()
    return Interval(part.low, math.inf, part.low_open) if part.low >= 0 else ANY


def _dot_general(eqn, parts: _Parts) -> Interval:
    first, second = parts[0](), parts[1]()
    if first.low < 0 or second.low < 0:
        return ANY
    return POSITIVE if first.positive and second.positive else NONNEGATIVE


def _prod(eqn, parts: _Parts) -> Interval:
    part = parts[0]()
    return POSITIVE if part.positive else NONNEGATIVE if part.low >= 0 else ANY


def _clamp(eqn, parts: _Parts) -> Interval:
    return intervals.minimum(intervals.maximum(parts[1](), parts[0]()), parts[2]())


RULES: dict[str, Callable] = {
    **dict.fromkeys(
        ("copy", "copy_p", "assume_continuous", "jump_guard", "stop_gradient")
        + ("reshape", "broadcast_in_dim", "squeeze", "transpose"),
        _first,
    ),
    **dict.fromkeys(
        ("expand_dims", "slice", "rev", "gather", "dynamic_slice", "reduce_max", "reduce_min"),
        _first,
    ),
    "sharding_constraint": _first,
    **dict.fromkeys(("convert_element_type", "sort", "cummax", "cummin", "real", "reduce_precision", "top_k"), _first),
    **dict.fromkeys(("concatenate", "pad"), _hull()),
    "select_n": _hull(1),
    "neg": _unary(intervals.neg),
    "add": _binary(intervals.add),
    "add_any": _binary(intervals.add),
    "sub": _binary(lambda x, y: intervals.add(x, intervals.neg(y))),
    "mul": _mul,
    "div": _div,
    "integer_pow": lambda eqn, parts: intervals.power(parts[0](), eqn.params["y"]),
    "square": _unary(lambda x: intervals.power(x, 2)),
    "pow": _pow,
    "abs": _unary(intervals.absolute),
    "max": _binary(intervals.maximum),
    "min": _binary(intervals.minimum),
    "clamp": _clamp,
    "exp": _unary(intervals.exp),
    "exp2": _unary(intervals.exp2),
    "expm1": _unary(intervals.expm1),
    "log": _unary(intervals.log),
    "log1p": _unary(intervals.log1p),
    "sqrt": _unary(intervals.sqrt),
    "rsqrt": _constant(POSITIVE),
    "logistic": _unary(intervals.logistic),
    "tanh": _unary(intervals.tanh),
    "cosh": _constant(Interval(1.0, math.inf, low_open=False)),
    "erf": _constant(Interval(-1.0, 1.0)),
    "erfc": _constant(Interval(0.0, 2.0)),
    "sin": _constant(SIGNED_UNIT),
    "cos": _constant(SIGNED_UNIT),
    "sign": _constant(SIGNED_UNIT),
    "atan": _constant(Interval(-math.pi / 2, math.pi / 2)),
    "reduce_sum": _reduce_sum,
    "cumsum": _cumulative,
    "reduce_prod": _prod,
    "cumprod": _prod,
    "dot_general": _dot_general,
}
"""What each operation does to intervals; a part is asked for only if the rule needs it."""
