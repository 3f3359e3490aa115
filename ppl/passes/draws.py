"""Which choices of a program may draw their noise together: alike, small, and in the same body."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from ppl import jaxprs
from ppl.analysis.dependence import Location
from ppl.primitives import call_p, choice_p

DRAW_ELEMENTS = 2**12
"""Largest draw that gains by being made together with others: beyond it the slices cost more than the calls."""


@dataclasses.dataclass(frozen=True)
class Draws:
    """How choices are drawn that do not simply have a key of their own.

    Attributes:
        groups: For each choice that shares its draw, the locations of all that do.
        steps: For each choice that has left a loop, the number of lanes that have been steps, and of all lanes.
    """

    groups: dict[Location, tuple[Location, ...]] = dataclasses.field(default_factory=dict)
    steps: dict[Location, tuple[int, int]] = dataclasses.field(default_factory=dict)


def plan_draws(body: jaxprs.Body) -> Draws:
    """Group the choices of a program, and find those that have left a loop.

    Example:
        >>> import ppl
        >>> from ppl.jaxprs import restage
        >>> pair = lambda x: ppl.normal(x, 1.0).sample() + ppl.normal(2 * x, 1.0).sample()
        >>> sorted(plan_draws(restage(pair, [1.0])).groups)
        [(0,), (2,)]
    """
    plan, scopes = Draws(), []
    _walk(body, (), {}, scopes, plan.steps)
    groups = [tuple(members) for scope in scopes for members in scope.values() if len(members) > 1]
    plan.groups.update({location: group for group in groups for location in group})
    return plan


def _walk(body: jaxprs.Body, location: Location, scope: dict, scopes: list, steps: dict) -> None:
    """Collect the choices of a body, and of calls in it, in one scope; other bodies have scopes of their own."""
    if not any(scope is other for other in scopes):
        scopes.append(scope)
    for index, eqn in enumerate(body.eqns):
        here = (*location, index)
        if eqn.primitive is choice_p:
            if eqn.params["steps"]:
                steps[here] = eqn.params["steps"], len(eqn.params["lanes"])
            elif _may_share(eqn):
                scope.setdefault(_kind(eqn), []).append(here)
        elif not jaxprs.holds_choice(eqn):
            continue
        elif eqn.primitive in (jaxprs.jit_p, call_p):
            _walk(jaxprs.read_call(eqn), (*here, 0), scope, scopes, steps)
        elif eqn.primitive is jaxprs.cond_p:
            for number, branch in enumerate(jaxprs.read_branches(eqn)):
                _walk(branch, (*here, number), {}, scopes, steps)
        elif eqn.primitive in (jaxprs.scan_p, jaxprs.remat_p):
            _walk(jaxprs.read_body(eqn, 0), (*here, 0), {}, scopes, steps)


def _may_share(eqn) -> bool:
    strategy = eqn.params["strategy"]
    drawn = (strategy is None or strategy.mode != "enumerate") and not isinstance(eqn.params["digest"], tuple)
    return drawn and not eqn.params["spec"].silent and math.prod(eqn.outvars[0].aval.shape) <= DRAW_ELEMENTS


def _kind(eqn) -> Any:
    """Return what choices must have in common: distribution and shapes."""
    params = eqn.params
    lanes = tuple((lane.size, lane.mapped) for lane in params["lanes"])
    return params["spec"], lanes, params["masked"], tuple((var.aval.shape, var.aval.dtype) for var in eqn.invars)
