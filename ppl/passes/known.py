"""What of a loop is known without running it.

A value in the body of a scan is *fixed* if it is the same in every step (it is computed from constants), *known* if
it can be computed for all steps at once (from constants and scanned inputs; a random choice with known parameters is
known, too). What a loop carries is known in three cases, applied until nothing new is found:

- what a step hands on is known: the next step finds it, so the carry is the same array shifted by one step;
- a step adds something known to it: the carry is a cumulative sum, and in the end a sum;
- a step hands it on as it was: it is fixed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from ppl import jaxprs

Role = Literal["loop", "fixed", "shift", "sum"]


@dataclasses.dataclass(frozen=True)
class Action:
    """One thing to be computed outside the loop: an equation, or a carry (shifted, or summed up)."""

    kind: Literal["equation", "shift", "prefix"]
    index: int


@dataclasses.dataclass
class Known:
    """What is known of the body of a scan.

    Attributes:
        fixed: Variables that are the same in every step.
        steps: Other variables known for every step.
        roles: How each carry is known, or "loop".
        increments: For a carry that is summed up: sign and variable of everything that a step adds.
        actions: What has to be computed outside, in order.
    """

    fixed: set = dataclasses.field(default_factory=set)
    steps: set = dataclasses.field(default_factory=set)
    roles: list[Role] = dataclasses.field(default_factory=list)
    increments: dict[int, list[tuple[int, Any]]] = dataclasses.field(default_factory=dict)
    actions: list[Action] = dataclasses.field(default_factory=list)

    def is_fixed(self, var) -> bool:
        """Tell whether a variable or literal is the same in every step."""
        return isinstance(var, jaxprs.Literal) or var in self.fixed

    def is_known(self, var) -> bool:
        """Tell whether a variable or literal is known."""
        return self.is_fixed(var) or var in self.steps


def find_known(view: jaxprs.Scan, may_hoist: Callable[[Any, list[bool]], bool]) -> Known:
    """Find what is known of a scan.

    Args:
        view: The scan.
        may_hoist: Says of an equation, and which of its inputs are fixed, whether it may leave the loop.
    """
    body, known = view.body, Known(roles=["loop"] * view.num_carry)
    consts, _, xs = view.split(body.invars)
    known.fixed = {*body.constvars, *consts}
    known.steps = {*xs}
    tried: set[int] = set()
    while _equations(known, body, tried, may_hoist) | _carries(known, view):
        pass
    return known


def _equations(known: Known, body, tried: set[int], may_hoist) -> bool:
    """Mark the equations whose inputs are known."""
    before = len(known.actions)
    for index, eqn in enumerate(body.eqns):
        if index in tried or not all(map(known.is_known, eqn.invars)):
            continue
        tried.add(index)
        fixed = [known.is_fixed(var) for var in eqn.invars]
        if eqn.outvars and may_hoist(eqn, fixed):
            known.actions.append(Action("equation", index))
            once = all(fixed) and not jaxprs.holds_choice(eqn)
            (known.fixed if once else known.steps).update(eqn.outvars)
    return len(known.actions) > before


def _carries(known: Known, view: jaxprs.Scan) -> bool:
    """Mark the carries that have become known."""
    found = False
    _, carry, _ = view.split(view.body.invars)
    for i, (var, out) in enumerate(zip(carry, view.body.outvars, strict=False)):
        if known.roles[i] != "loop":
            continue
        if var is out:
            known.roles[i] = "fixed"
            known.fixed.add(var)
        elif known.is_known(out):
            known.roles[i] = "shift"
            known.actions.append(Action("shift", i))
            known.steps.add(var)
        elif not _adds_up(known, view, i, var, out):
            continue
        found = True
    return found


def _adds_up(known: Known, view: jaxprs.Scan, i: int, var, out) -> bool:
    """Mark a carry to which every step adds something known."""
    chain = _chain(known, view.body, var, out)
    if chain is None:
        return False
    known.roles[i], (known.increments[i], links) = "sum", chain
    if _read_elsewhere(view.body, links, i):
        known.actions.append(Action("prefix", i))
        known.steps.add(var)
    return True


def _chain(known: Known, body, var, out) -> tuple[list, dict] | None:
    """Walk back from what is handed on to what was found, through additions of known values."""
    if not jnp.issubdtype(var.aval.dtype, np.number):
        return None
    definitions = {made: eqn for eqn in body.eqns for made in eqn.outvars}
    increments, links, at = [], {}, out
    while at is not var:
        eqn = definitions.get(at)
        step = None if eqn is None else _addend(known, eqn)
        if step is None:
            return None
        before, *added = step
        increments += added
        links[before] = eqn
        at = before
    return increments, {**links, out: None}


def _addend(known: Known, eqn) -> list | None:
    """Split an addition into the unknown operand and the known one with its sign."""
    name = eqn.primitive.name
    if name == "convert_element_type":
        (operand,) = eqn.invars
        same = operand.aval.dtype == eqn.outvars[0].aval.dtype
        return [operand] if same and not known.is_known(operand) else None
    if name not in ("add", "sub", "add_any"):
        return None
    first, second = eqn.invars
    if known.is_known(second) and not known.is_known(first):
        return [first, (-1 if name == "sub" else 1, second)]
    if known.is_known(first) and not known.is_known(second) and name != "sub":
        return [second, (1, first)]
    return None


def _read_elsewhere(body, links: dict, i: int) -> bool:
    """Tell whether the carry, or a partial sum of it, is read by anything but the chain of additions."""
    for eqn in body.eqns:
        for read in eqn.invars:
            if not isinstance(read, jaxprs.Literal) and read in links and links[read] is not eqn:
                return True
    outs = [out for j, out in enumerate(body.outvars) if j != i and not isinstance(out, jaxprs.Literal)]
    return any(out in links for out in outs)
