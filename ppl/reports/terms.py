"""The cost terms of an objective as a reader sees them: what each is, and which choices are charged to it how finely."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

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
from ppl.primitives import call_p, density_p
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
        through: Other choices that it is computed from: derivatives go through their values, or nowhere.
        states: Number of joint values of enumerated choices that it is summed over.
    """

    what: str
    source: str | None
    shape: tuple[int, ...]
    steps: tuple[int, ...]
    charges: tuple[Charge, ...]
    through: tuple[str, ...]
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
    results = {var for var, is_aux in zip(plan.body.outvars, aux, strict=True) if not is_aux and _is_var(var)}
    walk = _Walk(plan)
    found = walk.body(scope, results)
    given = [var for var in plan.body.invars if var in results]
    return [walk.term(scope, var, None, "an argument") for var in given] + found


def _is_var(var) -> bool:
    return not isinstance(var, jaxprs.Literal)


class _Walk:
    """Walk back from results through linear operations; what it ends at are the terms."""

    def __init__(self, plan: Plan):
        self.plan = plan

    def body(self, scope: Scope, wanted: set) -> list[Term]:
        """List the terms that wanted variables are the sum of; arguments that are terms themselves are added to it."""
        found: list[list[Term]] = []
        for index in range(len(scope.body.eqns) - 1, -1, -1):
            eqn = scope.body.eqns[index]
            outs = [var for var in eqn.outvars if var in wanted]
            if outs:
                found.append(self.equation(scope, index, eqn, outs, wanted))
        return [term for terms in reversed(found) for term in terms]

    def equation(self, scope: Scope, index: int, eqn, outs, wanted: set) -> list[Term]:
        charged = [var for var in outs if scope.is_charged(var)]
        rest = [var for var in outs if not scope.is_charged(var)]
        terms = [self.term(scope, var, eqn) for var in charged]
        if not rest:
            return terms
        if (index, 0) in scope.full.inner and eqn.primitive in (jaxprs.jit_p, call_p):
            return terms + self.call(scope.inside(index, 0, eqn), eqn, rest, wanted)
        if (index, 0) in scope.full.inner and eqn.primitive is jaxprs.scan_p:
            return terms + self.scan(scope.inside(index, 0, eqn), eqn, rest, wanted)
        operands = None if all(self._ends(scope, var) for var in rest) else _addends(scope, eqn)
        if operands is None:
            return terms + [self.term(scope, var, eqn) for var in rest if not _is_constant(scope, eqn)]
        wanted.update(var for var in operands if _is_var(var))
        return terms

    @staticmethod
    def _ends(scope: Scope, var) -> bool:
        return not scope.deps(var) and scope.is_single(var)

    def call(self, inner: Scope, eqn, outs, wanted: set) -> list[Term]:
        """Walk through a call: its arguments are the caller's."""
        inside = {var for outer, var in zip(eqn.outvars, inner.body.outvars, strict=True) if outer in outs}
        inside = {var for var in inside if _is_var(var)}
        found = self.body(inner, inside)
        pairs = zip(eqn.invars, inner.body.invars, strict=True)
        wanted.update(outer for outer, var in pairs if var in inside and _is_var(outer))
        return found

    def scan(self, inner: Scope, eqn, outs, wanted: set) -> list[Term]:
        """Walk through a scan: a carry that is wanted after it is wanted in every step."""
        view = jaxprs.read_scan(eqn)
        consts, carry, xs = view.split(inner.body.invars)
        flags = [var in outs for var in eqn.outvars]
        while True:
            inside = {var for var, on in zip(inner.body.outvars, flags, strict=True) if on and _is_var(var)}
            found = self.body(inner, inside)
            grown = [on or var in inside for on, var in zip(flags, carry, strict=False)] + flags[len(carry) :]
            if grown == flags:
                break
            flags = grown
        found = [self.term(inner, var, None, "an input of the scan") for var in [*consts, *xs] if var in inside] + found
        init = zip(view.split(eqn.invars)[1], flags, strict=False)
        wanted.update(var for var, on in init if on and _is_var(var))
        return found

    def term(self, scope: Scope, var, eqn, what: str | None = None) -> Term:
        """Describe a term."""
        deps, plan = scope.deps(var) if scope.is_charged(var) else NONE, self.plan
        charged = {location_of(key) for key in deps}
        others = in_order({location_of(key) for key in scope.full.of(var)} - charged)
        return Term(
            what or _what(scope, var),
            None if eqn is None else jaxprs.user_source_of(eqn),
            tuple(var.aval.shape),
            scope.steps,
            tuple(_charges(plan, deps, scope.location)),
            tuple(dict.fromkeys(label_of(plan.places[site]) for site in others)),
            _states(plan, deps),
        )


def _addends(scope: Scope, eqn) -> list | None:
    """Return the operands of which an equation's result is a sum (or a multiple), or None."""
    deps = [scope.full.of(var) for var in eqn.invars]
    own = [scope.deps(var) for var in eqn.invars]
    linear = linear_operands(eqn, own if any(own) else deps)
    if linear is None:
        return None
    if eqn.primitive.name in SUMS:
        return list(eqn.invars[1:] if eqn.primitive.name == "select_n" else eqn.invars)
    return [eqn.invars[i] for i in linear]


def _is_constant(scope: Scope, eqn) -> bool:
    return all(not _is_var(var) or var in scope.body.constvars for var in eqn.invars)


# --- What a term is ----------------------------------------------------------------------------------------------

MOST_PARTS = 4


def _what(scope: Scope, var) -> str:
    """Name the densities and operations that a term is the sum of."""
    makers = {out: (index, eqn) for index, eqn in enumerate(scope.body.eqns) for out in eqn.outvars}
    parts = list(dict.fromkeys(_parts(scope, makers, var, 1, [64])))
    shown = [f"{'- ' if sign < 0 else '+ ' if i else ''}{name}" for i, (sign, name) in enumerate(parts[:MOST_PARTS])]
    more = [f"+ {len(parts) - MOST_PARTS} more"] if len(parts) > MOST_PARTS else []
    return " ".join([*shown, *more]) or "a constant"


def _parts(scope: Scope, makers, var, sign: int, budget: list[int]) -> list[tuple[int, str]]:
    if not _is_var(var) or var in scope.body.constvars:
        return []
    if var not in makers:
        return [(sign, "an input")]
    index, eqn = makers[var]
    budget[0] -= 1
    name = eqn.primitive.name
    if (
        budget[0] > 0
        and eqn.primitive in (jaxprs.jit_p, call_p)
        and (index, 0) in scope.full.inner
        and scope.full.of(var)
    ):
        inner = scope.inside(index, 0, eqn)
        inside = {out: (i, e) for i, e in enumerate(inner.body.eqns) for out in e.outvars}
        result = inner.body.outvars[eqn.outvars.index(var)]
        found = _parts(inner, inside, result, sign, budget)
        return [(s, _name(eqn) if part == "an input" else part) for s, part in found]
    operands = _addends(scope, eqn) if budget[0] > 0 and scope.full.of(var) else None
    if operands is None:
        return [(sign, _name(eqn, scope.prefix))]
    signs = [-sign if name == "neg" or (name == "sub" and i == 1) else sign for i in range(len(operands))]
    pairs = zip(operands, signs, strict=True)
    return [part for operand, own in pairs for part in _parts(scope, makers, operand, own, budget)]


_WORDS = {"integer_pow": "power", "pjit": "jit", "select_n": "where", "cond": "cond", "scan": "scan", "choice": "value"}


def _name(eqn, prefix: Sequence[str] = ()) -> str:
    name, params = eqn.primitive.name, eqn.params
    if eqn.primitive is density_p:
        return f'log p("{"/".join([*prefix, params["label"]])}")'
    if name == "choice":
        return f'value of "{"/".join([*prefix, params["label"]])}"'
    if eqn.primitive is jaxprs.jit_p and params.get("name"):
        return f"`{params['name']}`"
    return f"`{_WORDS.get(name, name)}`"


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


def _states(plan: Plan, deps: Deps) -> int:
    """Count the joint values of enumerated choices, this step's and in a chain the last step's, that a term meets."""
    axes: set[Any] = set()
    for key in deps:
        site = location_of(key)
        past = root(key)
        if plan.modes[site] == "enumerate":
            chained = isinstance(past, Past) and past.scan in plan.chains
            axes.add((site, chained))
    return math.prod(num_states(plan, site) for site, _ in axes)
