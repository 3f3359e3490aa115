"""Which choices of a program may draw their noise together: alike, small, and in the same body."""

from __future__ import annotations

import math
from typing import Any

from ppl import jaxprs
from ppl.analysis.dependence import Location
from ppl.primitives import call_p, choice_p

DRAW_ELEMENTS = 2**12
"""Largest draw that gains by being made together with others: beyond it the slices cost more than the calls."""

Groups = dict[Location, tuple[Location, ...]]
"""For each choice that does not draw alone: the group that it belongs to."""


def group_draws(body: jaxprs.Body) -> Groups:
    """Group the choices of a program.

    Args:
        body: The program.

    Returns:
        For each choice that shares its draw, the locations of all that do.

    Example:
        >>> import ppl
        >>> from ppl.jaxprs import restage
        >>> pair = lambda x: ppl.normal(x, 1.0).sample() + ppl.normal(2 * x, 1.0).sample()
        >>> sorted(group_draws(restage(pair, [1.0])))
        [(0,), (2,)]
    """
    found: list[dict] = []
    _walk(body, (), {}, found)
    groups = [tuple(members) for scope in found for members in scope.values() if len(members) > 1]
    return {location: group for group in groups for location in group}


def _walk(body: jaxprs.Body, location: Location, scope: dict, found: list) -> None:
    """Collect the choices of a body, and of calls in it, in one scope; other bodies have scopes of their own."""
    if not any(scope is other for other in found):
        found.append(scope)
    for index, eqn in enumerate(body.eqns):
        here = (*location, index)
        if eqn.primitive is choice_p:
            if _may_share(eqn):
                scope.setdefault(_kind(eqn), []).append(here)
        elif not jaxprs.holds_choice(eqn):
            continue
        elif eqn.primitive in (jaxprs.jit_p, call_p):
            _walk(jaxprs.read_call(eqn), (*here, 0), scope, found)
        elif eqn.primitive is jaxprs.cond_p:
            for number, branch in enumerate(jaxprs.read_branches(eqn)):
                _walk(branch, (*here, number), {}, found)
        elif eqn.primitive in (jaxprs.scan_p, jaxprs.remat_p):
            _walk(jaxprs.read_body(eqn, 0), (*here, 0), {}, found)


def _may_share(eqn) -> bool:
    strategy = eqn.params["strategy"]
    drawn = strategy is None or strategy.mode != "enumerate"
    return drawn and not eqn.params["spec"].silent and math.prod(eqn.outvars[0].aval.shape) <= DRAW_ELEMENTS


def _kind(eqn) -> Any:
    """Return what choices must have in common: distribution and shapes."""
    params = eqn.params
    lanes = tuple((lane.size, lane.mapped) for lane in params["lanes"])
    return params["spec"], lanes, params["masked"], tuple((var.aval.shape, var.aval.dtype) for var in eqn.invars)
