"""The plan of an estimator: sites, dependencies, cost terms, and whether the enumeration it asks for can be done."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from ppl import jaxprs
from ppl._errors import StrategyError
from ppl.analysis.dependence import NONE, Dependence, Flow, Location, Past, is_inside
from ppl.analysis.smoothness import Smoothness, smoothness
from ppl.analysis.terms import Terms, find_terms
from ppl.interpreter import Interpreter, Place
from ppl.primitives import lane_shapes

MAX_STATES = 2**16
"""Largest number of joint states over which one cost term is summed."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """A staged program with everything that is decided before it is evaluated.

    Attributes:
        body: The program.
        places: Its choices, by location.
        modes: Mode of each site.
        flow: Dependencies.
        terms: Cost terms.
        aux: Which of its results are auxiliary.
    """

    body: jaxprs.Body
    places: Mapping[Location, Place]
    modes: Mapping[Location, str]
    flow: Flow
    terms: Terms
    aux: tuple[bool, ...]

    @functools.cached_property
    def smoothness(self) -> Smoothness:
        """Which pathwise choices are unsound: found out once it is asked for."""
        return smoothness(self.body, self.places, self.aux)

    def enumerated(self, deps) -> tuple[Location, ...]:
        """Return the enumerated sites among dependencies, in order: the axes that a value carries."""
        return tuple(sorted(key for key in deps if not isinstance(key, Past) and self.modes[key] == "enumerate"))


def make_plan(body: jaxprs.Body, places: Mapping[Location, Place], aux: Sequence[bool]) -> Plan:
    """Analyse a program, given which of its results are auxiliary: needed as they are."""
    modes = {
        location: place.eqn.params["strategy"].mode
        for location, place in places.items()
        if place.eqn.params["strategy"] is not None and place.eqn.params["strategy"].mode != "path"
    }
    flow = Dependence(modes).flow(body, [NONE] * len(body.invars))
    terms = find_terms(body, flow, list(aux), [not is_aux for is_aux in aux])
    return Plan(body, places, modes, flow, terms, tuple(aux))


def num_states(place: Place) -> int:
    """Return the number of joint values of one choice: over all of its lanes and batch elements, for one step."""
    spec, lanes = place.eqn.params["spec"], place.eqn.params["lanes"]
    shapes = lane_shapes([var.aval.shape for var in place.eqn.invars], lanes)[: len(spec.names)]
    elements = math.prod([lane.size for lane in lanes]) * math.prod(spec.batch_shape(shapes))
    return spec.num_values(shapes) ** elements


def escapes(plan: Plan) -> list[tuple[Location, Location]]:
    """List scans whose enumerated choices reach the carry or the outputs as values, with one such choice."""
    return list(_escapes(plan, plan.body, plan.flow, plan.terms, ()))


def _escapes(plan: Plan, body, flow: Flow, terms: Terms, location: Location) -> Iterator[tuple[Location, Location]]:
    for index, number in flow.inner:
        if (index, number) not in terms.inner:
            continue  # Nothing of it is needed.
        here, inner, inner_terms = (*location, index), flow.inner[index, number], terms.inner[index, number]
        eqn = body.eqns[index]
        if eqn.primitive is jaxprs.scan_p:
            culprit = _escaping(plan, here, flow.carry[index], inner, inner_terms)
            if culprit is not None:
                yield here, culprit
                continue
        yield from _escapes(plan, jaxprs.read_body(eqn, number), inner, inner_terms, (*here, number))


def _escaping(plan: Plan, here: Location, carry, flow: Flow, terms: Terms) -> Location | None:
    num_carry = len(carry)
    keys: set[Any] = set()
    for deps, out, raw in zip(carry, flow.outs[:num_carry], terms.out_raw[:num_carry], strict=True):
        keys |= (deps | out) if raw else NONE
    for deps, raw in zip(flow.outs[num_carry:], terms.out_raw[num_carry:], strict=True):
        keys |= deps if raw else NONE
    sites = {key.location if isinstance(key, Past) else key for key in keys if is_inside(key, here)}
    return min((site for site in sites if plan.modes[site] == "enumerate"), default=None)


class Unroll(Interpreter):
    """Rewrite a program with some of its scans written out step by step."""

    def __init__(self, scans: set[Location], location: Location = ()):
        super().__init__(location)
        self.scans = scans

    def enter(self, location, extra):
        """Write out inside as outside."""
        return Unroll(self.scans, location)

    def special(self, eqn, values):
        """Bind choices again; nested calls are written out, so that scans inside keep their place."""
        if eqn.primitive.name == "generative_call":
            return self.jit(eqn, values)
        return eqn.primitive.bind(*values, **eqn.params)

    def scan(self, eqn, values):
        """Write a chosen scan out."""
        if self.here not in self.scans:
            return super().scan(eqn, values)
        view, here = jaxprs.read_scan(eqn), self.here
        consts, carry, xs = view.split(values)
        stacked = []
        steps = range(view.length)
        for step in reversed(steps) if view.reverse else steps:
            outs = self.enter((*here, 0), ()).run(view.body, [*consts, *carry, *[x[step] for x in xs]])
            carry, ys = view.split_out(outs)
            stacked.append(ys)
        stacked = stacked[::-1] if view.reverse else stacked
        return [*carry, *[jnp.stack(ys) for ys in zip(*stacked, strict=True)]]


def refuse_enumeration(plan: Plan, scan: Location, site: Location, max_states: int) -> StrategyError:
    """Build the error for a choice in a scan whose histories are too many to be summed."""
    place = plan.places[site]
    lengths = dict(place.scans)
    return StrategyError(
        f"The enumerated choice {place.eqn.params['label']!r} reaches later steps of its scan.",
        where=f"{place.eqn.params['label']!r} at {place.eqn.params['source']}",
        expected=f"at most {max_states} histories, or a choice whose costs are added up within its step",
        got=f"{num_states(place)} values in each of {lengths[scan]} steps",
        remedy="use `reinforce()` for this choice, or shorten the scan",
    )


def histories(plan: Plan, scan: Location) -> float:
    """Return the number of joint histories of all enumerated choices inside a scan."""
    log_total = 0.0
    for location, place in plan.places.items():
        if plan.modes.get(location) == "enumerate" and is_inside(location, scan):
            inner = [length for where, length in place.scans if where[: len(scan)] == scan]
            log_total += math.log(num_states(place)) * math.prod(inner)
    return math.exp(min(log_total, 700.0))
