"""The plan of an estimator: sites, dependencies, cost terms, and whether the enumeration it asks for can be done."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax.numpy as jnp

from ppl import jaxprs
from ppl._errors import StrategyError
from ppl.analysis.chains import Chain, Scene, find_chains
from ppl.analysis.dependence import (
    NONE,
    Dependence,
    Deps,
    Flow,
    Key,
    Location,
    Past,
    Slice,
    is_inside,
    location_of,
    root,
    site_shape,
)
from ppl.analysis.positions import SAME, Window
from ppl.analysis.smoothness import Smoothness, smoothness
from ppl.analysis.terms import Terms, find_terms
from ppl.interpreter import Interpreter, Place
from ppl.primitives import call_p, lane_shapes

MAX_STATES = 2**16
"""Largest number of joint states over which one cost term is summed."""

_LOCAL_MODES = frozenset({"path", "detached", "relaxed"})
"""Modes of choices whose costs nobody has to know."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """A staged program with everything that is decided before it is evaluated.

    Attributes:
        body: The program.
        places: Its choices, by location.
        modes: Mode of each site.
        flow: Dependencies.
        terms: Cost terms.
        needed: Dependencies whose scores or weights are used, with the body in which they are.
        joint: For each enumerated site, the axes over whose elements it is summed jointly; its other axes are summed
            lane by lane.
        in_step: Those of them whose joint lanes are in step for as long as nothing mixes them.
        chains: Scans whose enumerated choices are summed by passing messages.
        kept: Choices whose strategies look at costs: direct ones, and those with a baseline.
        mixed: For each of them, the axes (steps, lanes, batch) along which some term mixes elements.
        aux: Which of its results are auxiliary.
        judge: Judges its pathwise choices, where another program than this one has to be looked at.
    """

    body: jaxprs.Body
    places: Mapping[Location, Place]
    modes: Mapping[Location, str]
    flow: Flow
    terms: Terms
    needed: frozenset[tuple[Location, Key]]
    joint: Mapping[Location, tuple[int, ...]]
    in_step: frozenset[Location]
    chains: Mapping[Location, Chain]
    kept: tuple[Location, ...]
    mixed: Mapping[Location, tuple[int, ...]]
    aux: tuple[bool, ...]
    judge: Callable[[], Smoothness] | None = None

    @functools.cached_property
    def smoothness(self) -> Smoothness:
        """Which pathwise choices are unsound: found out once it is asked for."""
        return smoothness(self.body, self.places, self.aux) if self.judge is None else self.judge()

    def is_reverse(self, scan: Location) -> bool:
        """Tell whether a scan runs backwards."""
        body = self.body
        for place in range(0, len(scan) - 1, 2):
            body = jaxprs.read_body(body.eqns[scan[place]], scan[place + 1])
        return jaxprs.read_scan(body.eqns[scan[-1]]).reverse

    def dependents(self, site: Location) -> tuple[frozenset[Location], frozenset[Location]]:
        """List the choices that depend on a site: within one step, and in later steps only."""
        plain, past = set(), set()
        for location, deps in self.flow.choices.items():
            keys = [key for key in deps if location_of(key) == site]
            if any(not isinstance(key, Past) for key in keys):
                plain.add(location)
            elif keys:
                past.add(location)
        return frozenset(plain), frozenset(past)

    def enumerated(self, deps: Deps) -> tuple[Location, ...]:
        """Return the enumerated sites among dependencies, in order: the axes that a value carries."""
        sites = {root(key) for key in deps if not isinstance(root(key), Past)}
        return tuple(sorted(site for site in sites if self.modes[site] == "enumerate"))

    def above(self, site: Location) -> tuple[Location, ...]:
        """Return the enumerated choices, outside of scans, for each value of which a choice is drawn."""
        return tuple(e for e in self.enumerated(self.flow.sites[site]) if not self.places[e].scans)

    def needs_costs(self, site: Location) -> bool:
        """Tell whether a choice's strategy, or its baseline, is computed from costs."""
        strategy = self.places[site].eqn.params["strategy"]
        return site in self.kept and (strategy.mode == "direct" or strategy.baseline.needs_costs)

    def shape_of(self, key: Key, body: Location) -> tuple[int, ...]:
        """Return the sizes of a dependency's axes, seen from a body: steps of scans further in, lanes, batch."""
        if isinstance(key, Slice):
            shape = self.shape_of(key.outer, key.scan[:-1])
            return shape[: key.axis] + shape[key.axis + 1 :]
        place = self.places[location_of(key)]
        around = key.scan if isinstance(key, Past) else body
        steps = [length for where, length in place.scans if len(where) > len(around) and is_within(where, around)]
        return (*steps, *site_shape(place.eqn))

    def leaves(self, key: Key, body: Location) -> bool:
        """Tell whether a choice is seen from outside of a scan that hands out its steps as lanes."""
        scans = [scan for scan, chain in self.chains.items() if key in chain.leaving]
        return any(not is_within(body, scan) for scan in scans)

    def slices_at(self, scan: Location) -> list[Slice]:
        """List the slices that a scan hands to its steps."""
        return [key for _, key in self.needed if isinstance(key, Slice) and key.scan == scan]

    def past_at(self, scan: Location) -> list[Past]:
        """List the sites of a scan whose earlier steps are charged to terms of later ones."""
        return [key for _, key in self.needed if isinstance(key, Past) and key.scan == scan]

    def is_needed_outside(self, site: Location, scan: Location) -> bool:
        """Tell whether a site inside a scan is charged to a term outside of it."""
        return any(key == site and not is_within(body, scan) for body, key in self.needed)


def is_within(location: Location, around: Location) -> bool:
    """Tell whether a location lies in (or is) another."""
    return location[: len(around)] == around


def make_plan(body: jaxprs.Body, places: Mapping[Location, Place], aux: Sequence[bool]) -> Plan:
    """Analyse a program, given which of its results are auxiliary: needed as they are."""
    modes = {
        location: place.eqn.params["strategy"].mode
        for location, place in places.items()
        if place.eqn.params["strategy"] is not None
        and place.eqn.params["strategy"].mode not in ("path", "detached", "relaxed")
    }
    flow = Dependence(modes).flow(body, [NONE] * len(body.invars))
    terms = find_terms(body, flow, list(aux), [not is_aux for is_aux in aux])
    charges = _charges(terms, flow, aux)
    needed = {item for body, deps in charges for key in deps for item in _chain(key, body)}
    joint = {
        site: _joint_lanes(site, place, charges) for site, place in places.items() if modes.get(site) == "enumerate"
    }
    kept = tuple(site for site, mode in modes.items() if _looks_at_costs(places[site].eqn.params["strategy"]))
    mixed = {site: _mixed_axes(site, places[site], charges) for site in kept}
    in_step = frozenset() if kept else _in_step(joint, places, body, flow)
    chains = {}
    if "enumerate" in modes.values():
        values = Dependence(modes, values=True).flow(body, [NONE] * len(body.invars))
        flow.attach(values)
        readers = {site: deps for site, deps in flow.sites.items() if modes[site] == "enumerate"}
        apart = functools.partial(_steps_apart, places, _charges(terms, values, aux), readers)
        chains = find_chains(Scene(modes, places, apart), body, flow, values, terms)
    return Plan(body, places, modes, flow, terms, frozenset(needed), joint, in_step, chains, kept, mixed, tuple(aux))


def _charges(terms: Terms, flow: Flow, aux: Sequence[bool]) -> list[tuple[Location, Deps]]:
    """List the dependencies of every term and auxiliary result, with the body in which it is."""
    return [
        *_term_charges(terms, flow, ()),
        *(((), deps) for deps, is_aux in zip(flow.outs, aux, strict=True) if is_aux),
    ]


def _term_charges(terms: Terms, flow: Flow, body: Location) -> Iterator[tuple[Location, Deps]]:
    for var in terms.charged:
        yield body, flow.deps[var]
    for (index, number), inner in terms.inner.items():
        yield from _term_charges(inner, flow.inner[index, number], (*body, index, number))


def _chain(key: Key, body: Location) -> Iterator[tuple[Location, Key]]:
    """List a dependency and all from which it is made, each with the body in which it is."""
    yield body, key
    if isinstance(key, Slice):
        yield from _chain(key.outer, key.scan[:-1])
    elif isinstance(key, Past):
        yield (*key.scan, 0), key.location


def _looks_at_costs(strategy) -> bool:
    return strategy.mode == "direct" or getattr(strategy, "baseline", None) is not None


def _joint_lanes(site: Location, place: Place, charges) -> tuple[int, ...]:
    """Return the axes of lanes and batch of a site along which some term mixes elements."""
    steps = len(place.scans)
    return tuple(axis - steps for axis in _mixed_axes(site, place, charges) if axis >= steps)


def _in_step(joint, places, body: jaxprs.Body, flow: Flow) -> frozenset[Location]:
    """Find the choices whose lanes a cost mixes, and which no loop, branch or checkpoint has to know."""
    found = {site for site, axes in joint.items() if axes and not places[site].scans}
    return frozenset(found - set(_entered(body, flow))) if found else frozenset()


def _entered(body: jaxprs.Body, flow: Flow, within: bool = False) -> Iterator[Location]:
    """List the choices that bodies other than those of calls depend on, or make."""
    if within:
        yield from (location_of(key) for deps in flow.deps.values() for key in deps)
    for (index, number), inner in flow.inner.items():
        eqn = body.eqns[index]
        entered = within or eqn.primitive not in (jaxprs.jit_p, call_p)
        yield from _entered(jaxprs.read_body(eqn, number), inner, entered)


def follows(plan: Plan, deps: Deps, site: Location) -> bool:
    """Tell whether each element of a value looks at its own lane alone, of the lanes of a choice that a cost mixes."""
    position = deps.get(site)
    if position is None:
        return True
    lanes = [position[axis] for axis in plan.joint[site]]
    return all(relation is not None and relation[0] is not None and relation[1] == SAME for relation in lanes)


def _steps_apart(places, charges, readers: Mapping[Location, Deps], site: Location, scan: Location) -> bool:
    """Tell whether each term outside of a scan looks at a choice in it at one step, and no enumerated choice does."""
    place = places[site]
    if any(not is_within(reader, scan) and site in map(location_of, deps) for reader, deps in readers.items()):
        return False
    axis = [where for where, _ in place.scans].index(scan)
    outside = [(body, deps) for body, deps in charges if not is_within(body, scan)]
    return all(
        key == site and relations(key, position, body, place)[axis] == SAME
        for body, deps in outside
        for key, position in deps.items()
        if location_of(key) == site
    )


def _mixed_axes(site: Location, place: Place, charges: Sequence[tuple[Location, Deps]]) -> tuple[int, ...]:
    """Return the axes of a site (steps of all scans around it, lanes, batch) along which some term mixes elements."""
    sizes = [*(length for _, length in place.scans), *site_shape(place.eqn)]
    found = set()
    for body, deps in charges:
        for key, position in deps.items():
            if location_of(key) == site:
                windows = relations(key, position, body, place)
                found |= {axis for axis, size in enumerate(sizes) if size > 1 and windows[axis] != SAME}
    return tuple(sorted(found))


def relations(key: Key, position, body: Location, place: Place) -> list[Window | None]:
    """Say of each axis of a site (steps of all scans around it, lanes, batch) how a value in a body follows it."""
    windows = [None if relation is None else relation[1] for relation in position]
    while isinstance(key, Slice):
        windows = [*windows[: key.axis], key.window, *windows[key.axis :]]
        key, body = key.outer, key.scan[:-1]
    around = key.scan if isinstance(key, Past) else body
    shared = [scan for scan, _ in place.scans if is_within(around, scan)]  # The value is in the same step of these.
    before = [None if isinstance(key, Past) and scan == key.scan else SAME for scan in shared]
    return [*before, *windows]


def num_values(place: Place) -> int:
    """Return the number of values of one element of a choice."""
    spec, lanes = place.eqn.params["spec"], place.eqn.params["lanes"]
    shapes = lane_shapes([var.aval.shape for var in place.eqn.invars], lanes)[: len(spec.names)]
    return spec.num_values(shapes)


def num_states(plan: Plan, site: Location) -> int:
    """Return the number of joint values over which an enumerated choice is summed, for one step."""
    place = plan.places[site]
    shape = site_shape(place.eqn)
    return num_values(place) ** math.prod(shape[axis] for axis in plan.joint[site])


def largest_sum(plan: Plan) -> int:
    """Return the largest number of joint values over which one enumerated choice is summed."""
    return max((num_states(plan, site) for site, mode in plan.modes.items() if mode == "enumerate"), default=1)


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
            chained = here in plan.chains
            culprit = None if chained else _escaping(plan, here, flow.carry[index], inner, inner_terms)
            if culprit is not None:
                yield here, culprit
                continue
        yield from _escapes(plan, jaxprs.read_body(eqn, number), inner, inner_terms, (*here, number))


def _escaping(plan: Plan, here: Location, carry, flow: Flow, terms: Terms) -> Location | None:
    num_carry = len(carry)
    keys: set[Key] = set()
    for deps, out, raw in zip(carry, flow.outs[:num_carry], terms.out_raw[:num_carry], strict=True):
        keys |= {*deps, *out} if raw else set()
    for deps, raw in zip(flow.outs[num_carry:], terms.out_raw[num_carry:], strict=True):
        keys |= set(deps) if raw else set()
    sites = {location_of(key) for key in keys if is_inside(key, here)}
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
        got=f"{num_states(plan, site)} values in each of {lengths[scan]} steps",
        remedy="use `reinforce()` for this choice, or shorten the scan",
    )


def histories(plan: Plan, scan: Location) -> float:
    """Return the number of joint histories of all enumerated choices inside a scan."""
    log_total = 0.0
    for location, place in plan.places.items():
        if plan.modes.get(location) == "enumerate" and is_inside(location, scan):
            inner = [length for where, length in place.scans if where[: len(scan)] == scan]
            log_total += math.log(num_states(plan, location)) * math.prod(inner)
    return math.exp(min(log_total, 700.0))
