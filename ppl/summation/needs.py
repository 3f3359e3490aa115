"""What of a program has to be evaluated for its factors, and how its choices are summed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from ppl import jaxprs
from ppl._errors import ControlFlowError
from ppl.analysis.dependence import NONE, Dependence, Deps, Flow, Location, Slice, any_slice, location_of
from ppl.analysis.plan import Plan, _joint_lanes
from ppl.analysis.terms import Terms
from ppl.interpreter import Place
from ppl.primitives import call_p, factor_p
from ppl.summation.refusals import has_no_place


@dataclasses.dataclass
class Needs(Terms):
    """What is needed of each variable of a body, as it is; and the equations that hold factors.

    Attributes:
        holding: Identities of these equations.
    """

    holding: set[int] = dataclasses.field(default_factory=set)

    def needs(self, eqn) -> bool:
        """Tell whether an equation is needed."""
        return id(eqn) in self.holding or super().needs(eqn)


def plan_sum(body: jaxprs.Body, places: Mapping[Location, Place]) -> Plan:
    """Analyse a program whose densities are marked: dependencies, needs, and lanes that are summed jointly."""
    modes = dict.fromkeys(places, "enumerate")
    flow = Dependence(modes, values=True).flow(body, [NONE] * len(body.invars))
    flow.attach(flow)
    terms = find_needs(body, flow, [False] * len(body.outvars))
    charges = list(_charges(body, flow, ()))
    for _, deps in charges:
        _refuse_slices(deps, places)
    joint = {site: _joint_lanes(site, place, charges) for site, place in places.items()}
    return Plan(body, places, modes, flow, terms, frozenset(), joint, frozenset(), {}, (), {}, ())


def _charges(body: jaxprs.Body, flow: Flow, location: Location) -> Iterator[tuple[Location, Deps]]:
    """List the dependencies of every factor, with the body in which it is."""
    for eqn in body.eqns:
        if eqn.primitive is factor_p:
            yield location, flow.of(eqn.invars[0])
    for (index, number), inner in flow.inner.items():
        yield from _charges(jaxprs.read_body(body.eqns[index], number), inner, (*location, index, number))


def _refuse_slices(deps: Deps, places: Mapping[Location, Place]) -> None:
    if any_slice(deps):
        place = places[next(location_of(key) for key in deps if isinstance(key, Slice))]
        label = (*place.prefix, place.eqn.params["label"])
        raise _sliced(label, place.eqn)


def _sliced(label, eqn) -> ControlFlowError:
    remedy = "make the choice inside of that scan, or loop over its lanes by `jax.vmap`"
    return has_no_place(label, eqn, "in lanes that a later `scan` takes one by one", remedy)


def find_needs(body: jaxprs.Body, flow: Flow, out_raw: Sequence[bool]) -> Needs:
    """Walk back from a body's factors and from the results that are needed."""
    terms = Needs(out_raw=list(out_raw), out_surrogate=[False] * len(out_raw))
    _need(terms, [var for var, raw in zip(body.outvars, out_raw, strict=True) if raw])
    for index in range(len(body.eqns) - 1, -1, -1):
        _equation(terms, flow, index, body.eqns[index])
    return terms


def _need(terms: Terms, variables: Sequence) -> None:
    for var in variables:
        if not isinstance(var, jaxprs.Literal):
            terms.need_raw(var)


def _equation(terms: Needs, flow: Flow, index: int, eqn) -> None:
    looked_into = (index, 0) in flow.inner and jaxprs.holds_choice(eqn)
    if looked_into and eqn.primitive is jaxprs.scan_p:
        return _scan(terms, flow, index, eqn)
    if (index, 0) in flow.inner and eqn.primitive in (jaxprs.jit_p, jaxprs.remat_p, call_p):
        return _call(terms, flow, index, eqn)
    if eqn.primitive is factor_p:
        terms.holding.add(id(eqn))
    if terms.needs(eqn):
        _need(terms, eqn.invars)
    return None


def _call(terms: Needs, flow: Flow, index: int, eqn) -> None:
    body = jaxprs.read_call(eqn)
    inner = find_needs(body, flow.inner[index, 0], [terms.needs_raw(var) for var in eqn.outvars])
    _enter(terms, index, eqn, inner)
    _need(terms, [outer for outer, var in zip(eqn.invars, body.invars, strict=True) if inner.needs_raw(var)])


def _enter(terms: Needs, index: int, eqn, inner: Needs) -> None:
    terms.inner[index, 0] = inner
    if inner.holding:
        terms.holding.add(id(eqn))


def _scan(terms: Needs, flow: Flow, index: int, eqn) -> None:
    view, out_raw = jaxprs.read_scan(eqn), [terms.needs_raw(var) for var in eqn.outvars]
    _, carry_vars, _ = view.split(view.body.invars)
    while True:  # A carry that is needed inside is needed from the step before.
        inner = find_needs(view.body, flow.inner[index, 0], out_raw)
        carry = [old or inner.needs_raw(var) for old, var in zip(out_raw, carry_vars, strict=False)]
        grown = carry + out_raw[view.num_carry :]
        if grown == out_raw:
            break
        out_raw = grown
    _enter(terms, index, eqn, inner)
    needed = [inner.needs_raw(var) for var in view.body.invars]
    needed = [
        need or view.num_consts <= i < view.num_consts + view.num_carry and out_raw[i - view.num_consts]
        for i, need in enumerate(needed)
    ]
    _need(terms, [outer for outer, need in zip(eqn.invars, needed, strict=True) if need])
