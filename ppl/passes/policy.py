"""What may be evaluated for all steps of a loop at once, and what had better not be."""

from __future__ import annotations

import math
from typing import Any

from ppl import jaxprs
from ppl.primitives import call_p, choice_p, density_p, factor_p

KEPT_MODES = frozenset({"enumerate", "score"})
"""Modes of choices that stay in their loop under `expect`: it charges and sums these step by step."""

STEP_ELEMENTS = 2**14
"""Largest array of one step that is worth a place outside: beyond it the loop itself costs next to nothing."""

TOTAL_ELEMENTS = 2**25
"""Largest array over all steps."""

_CHEAP = {
    *("add", "sub", "mul", "div", "neg", "max", "min", "select_n", "and", "or", "not", "eq", "ne", "lt", "le", "gt"),
    *("ge", "convert_element_type", "broadcast_in_dim", "reshape", "squeeze", "expand_dims", "iota", "copy", "copy_p"),
    *("concatenate", "pad", "slice", "transpose", "integer_pow", "square", "sign", "abs", "stop_gradient"),
}
_BRANCHING = (jaxprs.cond_p, jaxprs.while_p)

_FOUND: dict[tuple[int, str], tuple[Any, bool]] = {}


def _anywhere(eqn, what: str, test) -> bool:
    """Tell whether a test holds for an equation or one inside it."""
    return test(eqn) or any(_in_body(body, what, test) for body in jaxprs.inner_bodies(eqn))


def _in_body(body: jaxprs.Body, what: str, test) -> bool:
    known = _FOUND.get((id(body.jaxpr), what))
    if known is None or known[0] is not body.jaxpr:
        if len(_FOUND) > 4096:  # Entries keep their jaxpr alive.
            _FOUND.clear()
        found = any(_anywhere(eqn, what, test) for eqn in body.eqns)
        known = _FOUND[id(body.jaxpr), what] = (body.jaxpr, found)
    return known[1]


def speaks(eqn) -> bool:
    """Tell whether an equation is, or holds, a random choice or a density."""
    return _anywhere(eqn, "language", lambda e: e.primitive in (choice_p, density_p))


def loops(eqn) -> bool:
    """Tell whether an equation is, or holds, a scan with random choices or densities, outside checkpoints."""
    if eqn.primitive is jaxprs.remat_p:
        return False
    if eqn.primitive is jaxprs.scan_p:
        return speaks(eqn)
    return any(body_loops(body) for body in jaxprs.inner_bodies(eqn))


def body_loops(body: jaxprs.Body) -> bool:
    """Tell whether a body holds such a scan."""
    known = _FOUND.get((id(body.jaxpr), "loops"))
    if known is None or known[0] is not body.jaxpr:
        known = _FOUND[id(body.jaxpr), "loops"] = (body.jaxpr, any(map(loops, body.eqns)))
    return known[1]


def holds_mode(eqn, modes: frozenset[str]) -> bool:
    """Tell whether an equation is, or holds, a choice whose strategy has one of these modes."""
    if not modes or not jaxprs.holds_choice(eqn):
        return False
    if eqn.primitive is choice_p:
        strategy = eqn.params["strategy"]
        return strategy is not None and strategy.mode in modes
    return any(holds_mode(inner, modes) for body in jaxprs.inner_bodies(eqn) for inner in body.eqns)


def may_hoist(eqn, fixed: list[bool], length: int, kept: frozenset[str]) -> bool:
    """Tell whether an equation whose inputs are known may leave its loop.

    A cond whose predicate varies would become a select of both branches, with their costs and their NaNs; a `while`
    would run as long as its longest step. Checkpointed bodies are the user's decision.

    Args:
        eqn: The equation.
        fixed: Which of its inputs are the same in every step.
        length: Number of steps.
        kept: Modes of choices that stay.
    """
    if not jaxprs.can_map(eqn) or holds_mode(eqn, kept):
        return False
    if _anywhere(eqn, "unmovable", lambda e: e.primitive in (jaxprs.remat_p, call_p, factor_p)):
        return False
    once = all(fixed) and not jaxprs.holds_choice(eqn)
    if not once and eqn.primitive is jaxprs.cond_p and fixed[0]:
        branching = any(_in_body(body, "branching", _branches) for body in jaxprs.inner_bodies(eqn))
    else:
        branching = not once and _anywhere(eqn, "branching", _branches)
    largest = _largest(eqn)
    return not branching and largest <= STEP_ELEMENTS and (once or largest * length <= TOTAL_ELEMENTS)


def _branches(eqn) -> bool:
    return eqn.primitive in _BRANCHING


def size_of(var) -> int:
    """Return the number of elements of a variable."""
    return math.prod(var.aval.shape)


def _largest(eqn) -> int:
    own = max((size_of(var) for var in eqn.outvars), default=0)
    inner = (_largest(inner) for body in jaxprs.inner_bodies(eqn) for inner in body.eqns)
    return max(own, *inner, 0)


def better_inside(eqn, fixed: list[bool]) -> bool:
    """Tell whether a result is cheaper to compute in every step than to hand in: a broadcast, an outer product."""
    if eqn.primitive.name not in _CHEAP:
        return False
    once = all(fixed)
    given = sum(size_of(var) for var, same in zip(eqn.invars, fixed, strict=True) if once or not same)
    return sum(map(size_of, eqn.outvars)) > max(given, 1)
