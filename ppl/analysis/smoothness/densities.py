"""Densities are judged by their support: a pathwise value may not pass through its edge, nor an edge through a value.

A density jumps at the edge of a bounded support, to 0; its logarithm falls to -inf, where its derivative is cut off. So
a value that moves with parameters must provably stay inside, whatever they are: it was chosen from that support or a
smaller one, or its operations (exp, softplus, a square, a sigmoid, ...) keep it there. Densities that vanish at the
edge (a gamma of concentration above 1) are not told from those that jump: outside, the log density is -inf all the
same.
"""

from __future__ import annotations

import math
from typing import Any

from ppl.analysis.smoothness.frames import Frame, canonical, is_inexact
from ppl.analysis.smoothness.ranges import comes_from, interval_of, support_interval
from ppl.specs import Whole

_WITHOUT_EDGE = frozenset({"sphere"})
_OF_MATRICES = frozenset({"corr_cholesky", "lower_cholesky", "positive_definite"})


def edge(frame: Frame, eqn) -> tuple[str, list[int]] | None:
    """Say why a density is not continuous in its value and parameters, and in which operands; None if it is."""
    spec, family = eqn.params["spec"], eqn.params["spec"].family
    support = family.support
    if eqn.params["inside"] or support.everywhere or isinstance(spec, Whole) or support.name in _WITHOUT_EDGE:
        return None
    operands = dict(zip(spec.names, eqn.invars[1:], strict=False))
    moving = [1 + i for i, name in enumerate(spec.names) if name in support.moving and is_inexact(operands[name])]
    suspects = [*([0] if is_inexact(eqn.invars[0]) else []), *moving]
    if not any(frame.fact(eqn.invars[i]).smooth for i in suspects):
        return None
    if family.discrete:
        return f"{family} is a distribution of integers", suspects
    if _stays_inside(frame, eqn, spec, operands):
        return None
    return _reason(frame, eqn, family), suspects


def _reason(frame: Frame, eqn, family) -> str:
    support = family.support
    if frame.fact(eqn.invars[0]).smooth:
        inside = f"the support of {family} ({support.name})"
        return f"its density jumps at the edge of {inside}, and the value is not known to stay inside"
    return f"the edge of the support of {family} moves with {' and '.join(support.moving)}"


def _stays_inside(frame: Frame, eqn, spec, operands) -> bool:
    if _same_support(frame, eqn, spec, operands):
        return True
    if spec.family.support.name in _OF_MATRICES or spec.family.support.name == "point":
        return False
    return interval_of(frame, eqn.invars[0]).inside(support_interval(frame, spec, operands, surely=True))


def _same_support(frame: Frame, eqn, spec, operands) -> bool:
    """Tell whether the value was chosen from a support of the same kind, with the same edges."""
    found = comes_from(frame, eqn.invars[0])
    if found is None:
        return False
    outer, choice = found
    other, support = choice.params["spec"], spec.family.support
    if other.family.support.name != support.name:
        return False
    theirs = dict(zip(other.names, choice.invars, strict=False))
    known, others_known = dict(spec.known), dict(other.known)
    return all(
        known.get(name) == others_known.get(name)
        if name not in operands
        else name in theirs and _same_edge((frame, operands[name]), (outer, theirs[name]))
        for name in support.moving
    )


def _same_edge(ours: tuple[Frame, Any], theirs: tuple[Frame, Any]) -> bool:
    """Tell whether two parameters are the same value, or the same number."""
    first, second = interval_of(*ours), interval_of(*theirs)
    if first == second and first.low == first.high:
        return True
    shapes = [var.aval.shape for _, var in (ours, theirs)]
    scalars = all(math.prod(shape) == 1 for shape in shapes)
    return (scalars or shapes[0] == shapes[1]) and canonical(*ours) == canonical(*theirs)
