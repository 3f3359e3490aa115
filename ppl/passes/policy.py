"""What may be evaluated for all steps of a loop at once, and what had better not be."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable
from typing import Any

from ppl import jaxprs
from ppl.primitives import call_p, choice_p, density_p, factor_p

KEPT_MODES = frozenset({"enumerate"})
"""Modes of choices that stay in their loop under `expect`: a chain of enumerated choices is summed step by step."""

STEP_ELEMENTS = 2**14
"""Largest array of one step that is worth a place outside: beyond it the loop itself costs next to nothing."""

TOTAL_ELEMENTS = 2**25
"""Largest array over all steps."""

SHORT_LOOP = 4
"""Most steps of a loop that is written out: each is then fused with what comes before and after it."""

WRITTEN_OUT = 4_000
"""Most equations, over all steps, of a loop that is written out, lest compiling takes its time."""

_CHEAP = {
    *("add", "sub", "mul", "div", "neg", "max", "min", "select_n", "and", "or", "not", "eq", "ne", "lt", "le", "gt"),
    *("ge", "convert_element_type", "broadcast_in_dim", "reshape", "squeeze", "expand_dims", "iota", "copy", "copy_p"),
    *("concatenate", "pad", "slice", "transpose", "integer_pow", "square", "sign", "abs", "stop_gradient"),
}
_FREE = {"broadcast_in_dim", "reshape", "squeeze", "expand_dims", "convert_element_type", "transpose", "copy", "copy_p"}
_BRANCHING = (jaxprs.cond_p, jaxprs.while_p)

_FOUND: weakref.WeakKeyDictionary[Any, dict[str, bool]] = weakref.WeakKeyDictionary()
"""What is known of jaxprs; kept alive here, a jaxpr would keep tracers among its constants alive."""


def _anywhere(eqn, what: str, test) -> bool:
    """Tell whether a test holds for an equation or one inside it."""
    return test(eqn) or any(_in_body(body, what, test) for body in jaxprs.inner_bodies(eqn))


def _in_body(body: jaxprs.Body, what: str, test) -> bool:
    known = _FOUND.setdefault(body.jaxpr, {})
    if what not in known:
        known[what] = any(_anywhere(eqn, what, test) for eqn in body.eqns)
    return known[what]


def steps_in_a_row(view: jaxprs.Scan) -> int:
    """Return how many steps of a loop are written out in one turn: all of a short one, else what its author said."""
    if 0 < view.length <= SHORT_LOOP and view.length * num_equations(view.body) <= WRITTEN_OUT:
        return view.length
    return view.unroll


def num_equations(body: jaxprs.Body) -> int:
    """Count the equations of a body, those of bodies inside included."""
    return sum(1 + sum(map(num_equations, jaxprs.inner_bodies(eqn))) for eqn in body.eqns)


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
    known = _FOUND.setdefault(body.jaxpr, {})
    if "loops" not in known:
        known["loops"] = any(map(loops, body.eqns))
    return known["loops"]


def has_mode(eqn, modes: frozenset[str]) -> bool:
    """Tell whether an equation is a choice whose strategy has one of these modes."""
    if eqn.primitive is not choice_p:
        return False
    strategy = eqn.params["strategy"]
    return strategy is not None and strategy.mode in modes


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
    if not jaxprs.can_map(eqn) or has_mode(eqn, kept):
        return False
    if jaxprs.holds_choice(eqn) and eqn.primitive is not choice_p:
        return False  # Only a lane of its own gives a choice the keys that it has had in its loop.
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


def _is_cheap(eqn) -> bool:
    if eqn.primitive is jaxprs.jit_p:
        return all(map(_is_cheap, jaxprs.read_call(eqn).eqns))
    return eqn.primitive.name in _CHEAP


def better_inside(body: jaxprs.Body, hoisted: Iterable[int], is_fixed: Callable[[Any], bool], length: int) -> set[int]:
    """Find the results that are cheaper to compute in every step than to hand in: broadcasts, outer products.

    The price of handing a value in is its size (a fixed one is handed in once for all steps), or what it costs to hand
    in everything that it can cheaply be computed from.

    Args:
        body: The body of the loop.
        hoisted: Indices of the equations that may leave it.
        is_fixed: Tells whether a variable or literal is the same in every step.
        length: Number of steps.
    """
    weight = lambda var: size_of(var) / (length if is_fixed(var) else 1)
    price: dict[Any, float] = {}
    inside = set()
    for index in sorted(hoisted):
        eqn = body.eqns[index]
        own = sum(map(weight, eqn.outvars))
        variables = {var for var in eqn.invars if not isinstance(var, jaxprs.Literal)}
        sources = sum(price.get(var, weight(var)) for var in variables)
        if _is_cheap(eqn) and (sources < own or (sources == own and eqn.primitive.name in _FREE)):
            inside.add(index)
            price.update((var, sources) for var in eqn.outvars)
    return inside
