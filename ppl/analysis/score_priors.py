"""Priors known by their score have a derivative and no value: where the value would matter, they are refused.

An objective may add their log density to others. It may not put it through a nonlinear operation (a log weight that is
exponentiated), nor charge it to a choice by a score function or sum it over an enumerated one: both read the value.
"""

from __future__ import annotations

from collections.abc import Sequence

from ppl import jaxprs
from ppl._errors import StrategyError
from ppl.analysis.dependence import Flow, linear_operands
from ppl.primitives import call_p, density_p

Deps = frozenset  # of equations
NONE: Deps = frozenset()


def check_score_priors(body: jaxprs.Body, flow: Flow) -> None:
    """Refuse a program that reads the value of a density known by its score only."""
    if not _holds_score(body):
        return
    _check_sites(body, flow)
    outs = _walk(body, [(NONE, NONE)] * len(body.invars))
    read = NONE.union(*(nonlinear for _, nonlinear in outs))
    if read:
        raise _refused(next(iter(read)), "a nonlinear operation, such as the average of importance weights")


def _is_score(eqn) -> bool:
    return eqn.primitive is density_p and not eqn.params["spec"].can_sample


def _holds_score(body: jaxprs.Body) -> bool:
    return any(_is_score(eqn) or any(map(_holds_score, jaxprs.inner_bodies(eqn))) for eqn in body.eqns)


def _check_sites(body: jaxprs.Body, flow: Flow) -> None:
    for index, eqn in enumerate(body.eqns):
        inner = {number: child for (at, number), child in flow.inner.items() if at == index}
        if _is_score(eqn) and flow.deps[eqn.outvars[0]]:
            raise _refused(eqn, "a choice that is charged by a score function or enumerated")
        for number, child in inner.items():
            _check_sites(jaxprs.read_body(eqn, number), child)
        if not inner and any(map(_holds_score, jaxprs.inner_bodies(eqn))) and any(map(flow.of, eqn.invars)):
            raise _refused(eqn, "a choice that is charged by a score function or enumerated")


def _walk(body: jaxprs.Body, args: Sequence[tuple[Deps, Deps]]) -> list[tuple[Deps, Deps]]:
    """Return for each result the score densities that it depends on linearly, and otherwise."""
    env = dict.fromkeys(body.constvars, (NONE, NONE))
    env.update(zip(body.invars, args, strict=True))
    read = lambda var: (NONE, NONE) if isinstance(var, jaxprs.Literal) else env[var]
    for eqn in body.eqns:
        outs = _equation(eqn, [read(var) for var in eqn.invars])
        env.update(zip(eqn.outvars, outs, strict=True))
    return [read(var) for var in body.outvars]


def _equation(eqn, args):
    if _is_score(eqn):
        return [(frozenset({eqn}), NONE)]
    if eqn.primitive in (jaxprs.jit_p, jaxprs.remat_p, call_p):
        return _walk(jaxprs.read_call(eqn), args)
    if eqn.primitive is jaxprs.scan_p:
        return _scan(eqn, args)
    if eqn.primitive is jaxprs.cond_p:
        return _cond(eqn, args)
    linear = linear_operands(eqn, [first | second for first, second in args]) or ()
    kept = NONE.union(*(args[i][0] for i in linear))
    read = NONE.union(*(first for i, (first, _) in enumerate(args) if i not in linear), *(other for _, other in args))
    return [(kept, read)] * len(eqn.outvars)


def _scan(eqn, args):
    view = jaxprs.read_scan(eqn)
    consts, carry, xs = view.split(args)
    while True:
        outs = _walk(view.body, [*consts, *carry, *xs])
        grown = [(a | c, b | d) for (a, b), (c, d) in zip(carry, outs[: view.num_carry], strict=True)]
        if grown == carry:
            return [*carry, *outs[view.num_carry :]]
        carry = grown


def _cond(eqn, args):
    (first, second), *operands = args
    outs = [_walk(branch, operands) for branch in jaxprs.read_branches(eqn)]
    return [
        (NONE.union(*(kept for kept, _ in cases)), NONE.union(first, second, *(read for _, read in cases)))
        for cases in zip(*outs, strict=True)
    ]


def _refused(eqn, reason: str) -> StrategyError:
    label = eqn.params.get("label", eqn.primitive.name)
    return StrategyError(
        f"The value of a prior known by its score only is needed, at {label!r}.",
        where=f"{label!r}",
        expected="a log density that is added to others, and pathwise choices under it",
        got=reason,
        remedy="use the ELBO with pathwise choices, or a prior with a density",
    )
