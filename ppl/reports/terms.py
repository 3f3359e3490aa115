"""The cost terms of an objective as a reader sees them: what each is, and which choices are charged to it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ppl import jaxprs
from ppl.analysis.dependence import (
    NONE,
    Deps,
    Flow,
    Location,
    Past,
    in_order,
    linear_operands,
    location_of,
    root,
    site_shape,
)
from ppl.analysis.plan import Plan, num_states, relations
from ppl.analysis.positions import FROM, SAME, UPTO
from ppl.analysis.terms import Terms
from ppl.primitives import call_p, choice_p, density_p
from ppl.transforms.programs import label_of

SUMS = ("add", "sub", "add_any", "concatenate", "stack", "select_n")


@dataclasses.dataclass(frozen=True)
class Charge:
    """A choice that a term is charged with.

    Attributes:
        address: Its path, or the family's name.
        how: How finely, such as "lane by lane" or "all lanes, steps up to this one"; empty for a single number.
        by: "score", "enumerate" or "direct".
        location: The choice.
    """

    address: str
    how: str
    by: str
    location: Location


@dataclasses.dataclass(frozen=True)
class Term:
    """A cost term.

    Attributes:
        what: Density of which address, or which operation.
        source: File and line of the user's code, where known.
        shape: Its shape, in one step.
        steps: Lengths of the scans around it, outermost first.
        charges: The choices charged to it.
        through: Pathwise choices that it is computed from: derivatives go through their values.
        left_out: Choices without a strategy that it is computed from: derivatives may not reach them.
        states: Number of joint values of enumerated choices that it is summed over.
    """

    what: str
    source: str | None
    shape: tuple[int, ...]
    steps: tuple[int, ...]
    charges: tuple[Charge, ...]
    through: tuple[str, ...]
    left_out: tuple[str, ...]
    states: int = 1

    @property
    def evaluations(self) -> int:
        """Number of numbers that are computed: elements, steps, and joint values of enumerated choices."""
        return math.prod(self.shape) * math.prod(self.steps) * self.states


@dataclasses.dataclass(frozen=True)
class Scope:
    """A body with what is known of it; `flow` and `terms` are None where the plan does not look into it."""

    body: jaxprs.Body
    flow: Flow | None
    terms: Terms | None
    full: Flow
    location: Location = ()
    prefix: tuple[str, ...] = ()
    steps: tuple[int, ...] = ()

    def deps(self, var) -> Deps:
        """Return the sites that a variable depends on."""
        return self.flow.of(var) if self.flow is not None else NONE

    def is_charged(self, var) -> bool:
        """Tell whether a variable is a term with charges."""
        return self.terms is not None and var in self.terms.charged

    def is_single(self, var) -> bool:
        """Tell whether a variable without charges is read as one term."""
        return self.full.is_whole(var) or not self.full.of(var)

    def inside(self, index: int, number: int, eqn) -> Scope:
        """Return the scope of a body inside."""
        at = (index, number)
        prefix = (*self.prefix, *eqn.params["address"]) if eqn.primitive is call_p else self.prefix
        steps = (*self.steps, jaxprs.read_scan(eqn).length) if eqn.primitive is jaxprs.scan_p else self.steps
        return Scope(
            jaxprs.read_body(eqn, number),
            None if self.flow is None else self.flow.inner.get(at),
            None if self.terms is None else self.terms.inner.get(at),
            self.full.inner[at],
            (*self.location, index, number),
            prefix,
            steps,
        )


def list_terms(plan: Plan, full: Flow, aux: Sequence[bool]) -> list[Term]:
    """List the terms of a program in order.

    Args:
        plan: Its plan.
        full: Dependencies on all choices, also on those that are never charged.
        aux: Which results are auxiliary.
    """
    scope = Scope(plan.body, plan.flow, plan.terms, full)
    results: Wanted = {}
    for var, is_aux in zip(plan.body.outvars, aux, strict=True):
        if not is_aux:
            _want(results, var, 1)
    walk = _Walk(plan)
    found = walk.body(scope, results)
    given = [var for var in plan.body.invars if var in results]
    return [walk.term(scope, var, None, results[var], "an argument") for var in given] + found


def _is_var(var) -> bool:
    return not isinstance(var, jaxprs.Literal)


Wanted = dict[Any, int]
"""Variables of which something is the sum, each with its sign (0: both)."""


def _want(wanted: Wanted, var, sign: int) -> None:
    if _is_var(var):
        wanted[var] = sign if wanted.get(var, sign) == sign else 0


class _Walk:
    """Walk back from results through linear operations; what it ends at are the terms."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self.known: dict[int, tuple[dict, set]] = {}

    def makers_and_varying(self, body: jaxprs.Body) -> tuple[dict, set]:
        """Return which equation makes each variable, and which variables are not constants; looked up once."""
        if id(body.jaxpr) not in self.known:
            self.known[id(body.jaxpr)] = _makers(body), _varying(body)
        return self.known[id(body.jaxpr)]

    def body(self, scope: Scope, wanted: Wanted) -> list[Term]:
        """List the terms that wanted variables are the sum of; arguments that are terms themselves are added to it."""
        found: list[list[Term]] = []
        for index in range(len(scope.body.eqns) - 1, -1, -1):
            eqn = scope.body.eqns[index]
            outs = [var for var in eqn.outvars if var in wanted]
            if outs:
                found.append(self.equation(scope, index, eqn, outs, wanted))
        return [term for terms in reversed(found) for term in terms]

    def equation(self, scope: Scope, index: int, eqn, outs, wanted: Wanted) -> list[Term]:
        charged = [var for var in outs if scope.is_charged(var)]
        rest = [var for var in outs if not scope.is_charged(var)]
        terms = [self.term(scope, var, eqn, wanted[var]) for var in charged]
        if not rest:
            return terms
        if (index, 0) in scope.full.inner and eqn.primitive in (jaxprs.jit_p, call_p):
            return terms + self.call(scope.inside(index, 0, eqn), eqn, rest, wanted)
        if (index, 0) in scope.full.inner and eqn.primitive is jaxprs.scan_p:
            return terms + self.scan(scope.inside(index, 0, eqn), eqn, rest, wanted)
        operands = None if all(self._ends(scope, var) for var in rest) else _addends(scope, eqn)
        if operands is None:
            _, varying = self.makers_and_varying(scope.body)
            return terms + [self.term(scope, var, eqn, wanted[var]) for var in rest if var in varying]
        for var, own in operands:
            _want(wanted, var, own * wanted[rest[0]])
        return terms

    @staticmethod
    def _ends(scope: Scope, var) -> bool:
        return not scope.deps(var) and scope.is_single(var)

    def call(self, inner: Scope, eqn, outs, wanted: Wanted) -> list[Term]:
        """Walk through a call: its arguments are the caller's."""
        inside: Wanted = {}
        for outer, var in zip(eqn.outvars, inner.body.outvars, strict=True):
            if outer in outs:
                _want(inside, var, wanted[outer])
        found = self.body(inner, inside)
        for outer, var in zip(eqn.invars, inner.body.invars, strict=True):
            if var in inside:
                _want(wanted, outer, inside[var])
        return found

    def scan(self, inner: Scope, eqn, outs, wanted: Wanted) -> list[Term]:
        """Walk through a scan: a carry that is wanted after it is wanted in every step."""
        view = jaxprs.read_scan(eqn)
        consts, carry, xs = view.split(inner.body.invars)
        signs = {i: wanted[var] for i, var in enumerate(eqn.outvars) if var in outs}
        while True:
            inside: Wanted = {}
            for i, sign in signs.items():
                _want(inside, inner.body.outvars[i], sign)
            found = self.body(inner, inside)
            grown = {i: inside[var] for i, var in enumerate(carry) if var in inside and i not in signs}
            if not grown:
                break
            signs |= grown
        given = [var for var in [*consts, *xs] if var in inside]
        for i, var in enumerate(view.split(eqn.invars)[1]):
            if i in signs:
                _want(wanted, var, signs[i])
        return [self.term(inner, var, None, inside[var], "an input of the scan") for var in given] + found

    def term(self, scope: Scope, var, eqn, sign: int, what: str | None = None) -> Term:
        """Describe a term."""
        deps, plan = scope.deps(var) if scope.is_charged(var) else NONE, self.plan
        makers, _ = self.makers_and_varying(scope.body)
        parts = [Part(sign, what, None)] if what else _parts(scope, makers, var, sign, [64])
        sources = [None if eqn is None else jaxprs.user_line_of(eqn), *(part.source for part in parts)]
        charged = {location_of(key) for key in deps}
        sites = in_order({location_of(key) for key in scope.full.of(var)} - charged)
        others = [(label_of(plan.places[site]), plan.places[site].eqn.params["strategy"]) for site in sites]
        return Term(
            _what(parts),
            next((source for source in sources if source), None),
            tuple(var.aval.shape),
            scope.steps,
            tuple(_charges(plan, deps, scope.location)),
            tuple(dict.fromkeys(label for label, strategy in others if strategy is not None)),
            tuple(dict.fromkeys(label for label, strategy in others if strategy is None)),
            _states(plan, deps, scope.location),
        )


def _addends(scope: Scope, eqn) -> list[tuple[Any, int]] | None:
    """Return the operands of which an equation's result is a sum (or a multiple), with signs; or None."""
    deps = [scope.full.of(var) for var in eqn.invars]
    own = [scope.deps(var) for var in eqn.invars]
    linear = linear_operands(eqn, own if any(own) else deps)
    if linear is None:
        return None
    name = eqn.primitive.name
    if name in SUMS:
        first = int(name == "select_n")
        return [(var, -1 if name == "sub" and i == 1 else 1) for i, var in enumerate(eqn.invars[first:])]
    factor = -1 if name == "neg" else 1
    for var in eqn.invars:
        if not _is_var(var) and name in ("mul", "div"):
            factor *= -1 if np.ndim(var.val) == 0 and var.val < 0 else 1
    return [(eqn.invars[i], factor) for i in linear]


def _varying(body: jaxprs.Body) -> set:
    """Return the variables that are not the same whatever the arguments are."""
    found = set(body.invars)
    for eqn in body.eqns:
        if jaxprs.holds_choice(eqn) or any(_is_var(var) and var in found for var in eqn.invars):
            found.update(eqn.outvars)
    return found


# --- What a term is ----------------------------------------------------------------------------------------------

MOST_PARTS = 4


@dataclasses.dataclass(frozen=True)
class Part:
    """One of the densities and operations that a term is the sum of."""

    sign: int
    name: str
    source: str | None


def _what(parts: Sequence[Part]) -> str:
    names = list(dict.fromkeys((part.sign, part.name) for part in parts))
    marks = {1: "+ ", -1: "- ", 0: "+- "}
    shown = [("" if not i and sign > 0 else marks[sign]) + name for i, (sign, name) in enumerate(names[:MOST_PARTS])]
    more = [f"+ {len(names) - MOST_PARTS} more"] if len(names) > MOST_PARTS else []
    return " ".join([*shown, *more]) or "a constant"


def _makers(body: jaxprs.Body) -> dict:
    return {out: (index, eqn) for index, eqn in enumerate(body.eqns) for out in eqn.outvars}


def _parts(scope: Scope, makers, var, sign: int, budget: list[int]) -> list[Part]:
    """Walk back from a term to what it is made of; not for ever."""
    if not _is_var(var) or var in scope.body.constvars:
        return []
    if var not in makers:
        return [Part(sign, "an input", None)]
    index, eqn = makers[var]
    budget[0] -= 1
    if eqn.primitive.name == "convert_element_type":
        return _parts(scope, makers, eqn.invars[0], sign, budget)
    if budget[0] > 0 and scope.full.of(var):
        if (index, 0) in scope.full.inner and eqn.primitive in (jaxprs.jit_p, call_p):
            inner = scope.inside(index, 0, eqn)
            found = _parts(inner, _makers(inner.body), inner.body.outvars[eqn.outvars.index(var)], sign, budget)
            return [_part(eqn, part.sign, scope.prefix) if part.name == "an input" else part for part in found]
        operands = _addends(scope, eqn)
        if operands is not None:
            return [part for op, own in operands for part in _parts(scope, makers, op, own * sign, budget)]
    return [_part(eqn, sign, scope.prefix)]


_WORDS = {"integer_pow": "power", "pow": "power", "pjit": "jit", "select_n": "where"}


def _part(eqn, sign: int, prefix: Sequence[str]) -> Part:
    name, params = eqn.primitive.name, eqn.params
    label = "/".join([*prefix, str(params.get("label"))])
    if eqn.primitive is density_p:
        name = f'log p("{label}")'
    elif eqn.primitive is choice_p:
        name = f'value of "{label}"'
    elif eqn.primitive is jaxprs.jit_p and params.get("name"):
        name = f"`{params['name']}`"
    else:
        name = f"`{_WORDS.get(name, name)}`"
    inside = list(dict.fromkeys(_densities(eqn, prefix)))
    if inside:
        name += " of " + ", ".join([*inside[:MOST_PARTS], *["..."] * (len(inside) > MOST_PARTS)])
    return Part(sign, name, jaxprs.user_line_of(eqn))


def _densities(eqn, prefix: Sequence[str]) -> list[str]:
    """Name the densities evaluated in the bodies of an equation that is one term."""
    found = []
    for body in () if eqn.primitive is density_p else jaxprs.inner_bodies(eqn):
        for inner in body.eqns:
            nested = (*prefix, *inner.params["address"]) if inner.primitive is call_p else prefix
            if inner.primitive is density_p:
                found.append(f'log p("{"/".join([*prefix, inner.params["label"]])}")')
            found += _densities(inner, nested)
    return found


# --- Who is charged ----------------------------------------------------------------------------------------------


def _charges(plan: Plan, deps: Deps, body: Location) -> list[Charge]:
    found: dict[Location, list[tuple]] = {}
    for key in in_order(deps):
        found.setdefault(location_of(key), []).append((key, deps[key]))
    return [_charge(plan, site, keys, body) for site, keys in found.items()]


def _charge(plan: Plan, site: Location, keys: Sequence[tuple], body: Location) -> Charge:
    place = plan.places[site]
    steps = len(place.scans)
    table = [_kinds(plan, key, position, body) for key, position in keys]
    sizes = [*(length for _, length in place.scans), *site_shape(place.eqn)]
    merged = [_merged([kinds[axis] for kinds in table]) for axis in range(len(sizes))]
    lanes = _lane_words([kind for kind, size in zip(merged[steps:], sizes[steps:], strict=True) if size > 1])
    times = [_STEP_WORDS[kind] for kind, size in zip(merged[:steps], sizes[:steps], strict=True) if size > 1]
    words = list(dict.fromkeys([*lanes, *times]))
    return Charge(label_of(place), ", ".join(words), plan.modes[site], site)


_EARLIER, _LATER, _ALL = "earlier", "later", "all"
_STEP_WORDS = {
    SAME: "this step only",
    UPTO: "steps up to this one",
    FROM: "steps from this one on",
    _EARLIER: "earlier steps",
    _LATER: "later steps",
    _ALL: "all steps",
}


def _kinds(plan: Plan, key, position, body: Location) -> list[str]:
    place = plan.places[location_of(key)]
    kinds = [_ALL if kind is None else kind for kind in relations(key, position, body, place)]
    past = root(key)
    if isinstance(past, Past):
        axis = [scan for scan, _ in place.scans].index(past.scan)
        kinds[axis] = _LATER if plan.is_reverse(past.scan) else _EARLIER
    return kinds


def _merged(kinds: Sequence[str]) -> str:
    """Say how a term follows an axis on which it depends in several ways."""
    found = set(kinds)
    if len(found) == 1:
        return kinds[0]
    if found <= {SAME, UPTO, _EARLIER}:
        return UPTO
    return FROM if found <= {SAME, FROM, _LATER} else _ALL


def _lane_words(kinds: Sequence[str]) -> list[str]:
    found = set(kinds)
    if not found:
        return []
    if found == {SAME}:
        return ["lane by lane"]
    if found == {_ALL}:
        return ["all lanes"]
    words = {SAME: "lane by lane", UPTO: "up to this lane", FROM: "from this lane on", _ALL: "all lanes"}
    return [" x ".join(words[kind] for kind in kinds)]


MOST_STATES = 2**64
"""A bound on what is reported: such sums are refused."""


def _states(plan: Plan, deps: Deps, body: Location) -> int:
    """Count the joint values of enumerated choices that a term is summed over.

    In a chain these are this step's and the last one's; where a scan is written out, those of all steps that it meets.
    """
    axes: dict[tuple[Location, bool], int] = {}
    for key, position in deps.items():
        site, past = location_of(key), root(key)
        if plan.modes[site] == "enumerate":
            chained = any(site in chain.sites for chain in plan.chains.values())
            steps = 1 if chained else _steps_met(plan, key, position, body)
            at = (site, chained and isinstance(past, Past))
            axes[at] = max(axes.get(at, 0), steps)
    log2 = sum(steps * math.log2(num_states(plan, site)) for (site, _), steps in axes.items())
    return MOST_STATES if log2 > 64 else math.prod(num_states(plan, site) ** n for (site, _), n in axes.items())


def _steps_met(plan: Plan, key, position, body: Location) -> int:
    scans = plan.places[location_of(key)].scans
    kinds = _kinds(plan, key, position, body)
    return math.prod(length for (_, length), kind in zip(scans, kinds, strict=False) if kind != SAME)
