"""Which values depend on choices that are enumerated step by step: these stay where they are."""

from __future__ import annotations

from collections.abc import Sequence

from ppl import jaxprs
from ppl.passes.policy import holds_mode
from ppl.primitives import call_p, choice_p

ENUMERATED = frozenset({"enumerate"})


def enumerated_in_scans(body: jaxprs.Body) -> set:
    """Return the variables, at any depth, that depend on an enumerated choice inside a scan."""
    found: set = set()
    if any(holds_mode(eqn, ENUMERATED) for eqn in body.eqns):
        _walk(body, [False] * len(body.invars), False, found)
    return found


def _walk(body: jaxprs.Body, args: Sequence[bool], in_scan: bool, found: set) -> list[bool]:
    found.update(var for var, depends in zip(body.invars, args, strict=True) if depends)
    read = lambda var: not isinstance(var, jaxprs.Literal) and var in found
    for eqn in body.eqns:
        outs = _equation(eqn, [read(var) for var in eqn.invars], in_scan, found)
        found.update(var for var, depends in zip(eqn.outvars, outs, strict=True) if depends)
    return [read(var) for var in body.outvars]


def _equation(eqn, args, in_scan, found) -> list[bool]:
    if eqn.primitive in (jaxprs.jit_p, jaxprs.remat_p, call_p):
        return _walk(jaxprs.read_call(eqn), args, in_scan, found)
    if eqn.primitive is jaxprs.scan_p:
        return _scan(eqn, args, found)
    if eqn.primitive is jaxprs.cond_p:
        outs = [_walk(branch, args[1:], in_scan, found) for branch in jaxprs.read_branches(eqn)]
        return [args[0] or any(cases) for cases in zip(*outs, strict=True)]
    depends = any(args) or (in_scan and eqn.primitive is choice_p and holds_mode(eqn, ENUMERATED))
    return [depends] * len(eqn.outvars)


def _scan(eqn, args, found) -> list[bool]:
    view = jaxprs.read_scan(eqn)
    consts, carry, xs = view.split(args)
    while True:
        outs = _walk(view.body, [*consts, *carry, *xs], True, found)
        grown = [old or new for old, new in zip(carry, outs[: view.num_carry], strict=True)]
        if grown == carry:
            return [*carry, *outs[view.num_carry :]]
        carry = grown
