"""Which random choices each value of a program depends on: the first half of credit assignment.

A *site* is a choice whose strategy needs to know its costs: its score is charged to them ("score"), or they are summed
over its values ("enumerate"). For every variable of a staged program the flow records the sites that it depends on.
Inside the body of a scan a dependency is on *this* step's choice (its location) or on *past* steps' (`Past`);
the carry turns the first into the second, to a fixpoint. Unknown operations depend on all of their operands: always
right, at worst noisier.

A variable is *whole* if it may be charged as one cost term: it is the result of a nonlinear operation, or of a linear
one all of whose terms depend on the very same sites. Other results of linear operations are sums of separate terms.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from ppl import jaxprs
from ppl.primitives import call_p, choice_p

Location = tuple[int, ...]


@dataclasses.dataclass(frozen=True, order=True)  # JAX sorts the keys of dicts.
class Past:
    """A dependency on the choices that a site made in earlier steps of one of the scans around it.

    Attributes:
        location: The site.
        scan: That scan. In nested scans, earlier steps of the inner one are other choices than those of the outer one.
    """

    location: Location
    scan: Location


Deps = frozenset  # of Location | Past
NONE: Deps = frozenset()


@dataclasses.dataclass
class Flow:
    """Dependencies in one body.

    Attributes:
        deps: Sites that each variable depends on.
        whole: Variables that may be charged as one term.
        outs: Dependencies of the results.
        whole_outs: Whether each result is whole.
        inner: Flows of the bodies looked into, by (index of equation, number of body).
        carry: For each scan looked into, the dependencies of its carry inside the body.
        sites: Dependencies of each site's own distribution, in this body's terms.
    """

    deps: dict = dataclasses.field(default_factory=dict)
    whole: dict = dataclasses.field(default_factory=dict)
    outs: list[Deps] = dataclasses.field(default_factory=list)
    whole_outs: list[bool] = dataclasses.field(default_factory=list)
    inner: dict[tuple[int, int], Flow] = dataclasses.field(default_factory=dict)
    carry: dict[int, list[Deps]] = dataclasses.field(default_factory=dict)
    sites: dict[Location, Deps] = dataclasses.field(default_factory=dict)

    def of(self, var) -> Deps:
        """Return the dependencies of a variable or literal."""
        return NONE if isinstance(var, jaxprs.Literal) else self.deps[var]

    def is_whole(self, var) -> bool:
        """Tell whether a variable or literal may be charged as one term."""
        return True if isinstance(var, jaxprs.Literal) else self.whole[var]


def location_of(key) -> Location:
    """Return the site that a dependency is on."""
    return key.location if isinstance(key, Past) else key


def in_order(deps: Deps) -> list:
    """Sort dependencies: a fixed order of evaluation."""
    return sorted(deps, key=lambda key: (location_of(key), isinstance(key, Past)))


def is_inside(key, here: Location) -> bool:
    """Tell whether a dependency is on a choice inside the equation at `here`."""
    return location_of(key)[: len(here)] == here


def to_past(deps: Deps, here: Location) -> Deps:
    """Carry dependencies over to the next step of the scan at `here`."""
    return frozenset(Past(key, here) if not isinstance(key, Past) and is_inside(key, here) else key for key in deps)


def to_outside(deps: Deps, here: Location) -> Deps:
    """Restate dependencies outside the scan at `here`: on all of its steps."""
    return frozenset(key.location if isinstance(key, Past) and key.scan[: len(here)] == here else key for key in deps)


class Dependence:
    """Follow dependencies through a staged program.

    Args:
        modes: The mode ("score" or "enumerate") of each site.
    """

    def __init__(self, modes: Mapping[Location, str]):
        self.modes = modes

    def flow(
        self,
        body: jaxprs.Body,
        args: Sequence[Deps],
        location: Location = (),
        context: Deps = NONE,
        whole: Sequence[bool] | None = None,
    ) -> Flow:
        """Compute the flow of a body, given its arguments' dependencies and the predicates around it."""
        flow = Flow()
        for var in body.constvars:
            flow.deps[var], flow.whole[var] = NONE, True
        for var, deps, one in zip(body.invars, args, whole or [True] * len(args), strict=True):
            flow.deps[var], flow.whole[var] = deps, one
        for index, eqn in enumerate(body.eqns):
            outs, wholes = self._equation(flow, index, eqn, (*location, index), context)
            for var, deps, one in zip(eqn.outvars, outs, wholes, strict=True):
                flow.deps[var], flow.whole[var] = deps, one
        flow.outs = [flow.of(var) for var in body.outvars]
        flow.whole_outs = [flow.is_whole(var) for var in body.outvars]
        return flow

    def _equation(self, flow, index, eqn, here, context):
        args = [flow.of(var) for var in eqn.invars]
        holds = jaxprs.holds_choice(eqn)
        if eqn.primitive is choice_p:
            return self._choice(flow, eqn, here, NONE.union(context, *args))
        if eqn.primitive in (jaxprs.jit_p, call_p) and (holds or any(args)):
            return self._call(flow, index, eqn, here, args, context)
        if not holds:
            deps = NONE.union(*args)
            return [deps] * len(eqn.outvars), [_is_whole(flow, eqn, args, deps)] * len(eqn.outvars)
        if eqn.primitive is jaxprs.remat_p:
            return self._call(flow, index, eqn, here, args, context, opaque=True)
        if eqn.primitive is jaxprs.scan_p:
            return self._scan(flow, index, eqn, here, args, context)
        return self._cond(flow, index, eqn, here, args, context)

    def _choice(self, flow, eqn, here, params):
        deps = params
        if here in self.modes:
            flow.sites[here] = params
            deps = params | {here}
        return [deps] * len(eqn.outvars), [True] * len(eqn.outvars)

    def _call(self, flow, index, eqn, here, args, context, opaque=False):
        whole = None if opaque else [flow.is_whole(var) for var in eqn.invars]
        inner = self.flow(jaxprs.read_call(eqn), args, (*here, 0), context, whole)
        flow.inner[index, 0] = inner
        flow.sites.update(inner.sites)
        return inner.outs, [True] * len(inner.outs) if opaque else inner.whole_outs

    def _scan(self, flow, index, eqn, here, args, context):
        view = jaxprs.read_scan(eqn)
        consts, carry, xs = view.split(args)
        wholes = [True] * len(consts) + [False] * len(carry) + [True] * len(xs)
        while True:
            inner = self.flow(view.body, [*consts, *carry, *xs], (*here, 0), context, wholes)
            outs, _ = view.split_out(inner.outs)
            grown = [old | to_past(new, here) for old, new in zip(carry, outs, strict=True)]
            if grown == carry:
                break
            carry = grown
        flow.inner[index, 0], flow.carry[index] = inner, carry
        flow.sites.update({site: to_outside(deps, here) for site, deps in inner.sites.items()})
        final, ys = view.split_out(inner.outs)
        final = [start | end for start, end in zip(carry, final, strict=True)]
        return [to_outside(deps, here) for deps in (*final, *ys)], [False] * len(inner.outs)

    def _cond(self, flow, index, eqn, here, args, context):
        predicate, *operands = args
        outs = [predicate] * len(eqn.outvars)
        for number, branch in enumerate(jaxprs.read_branches(eqn)):
            inner = self.flow(branch, operands, (*here, number), context | predicate)
            flow.inner[index, number] = inner
            flow.sites.update(inner.sites)
            outs = [old | new for old, new in zip(outs, inner.outs, strict=True)]
        return outs, [True] * len(outs)


# --- Linear operations -------------------------------------------------------------------------------------------

_SUMS = {"add", "sub", "add_any", "concatenate", "stack"}
_UNARY = {
    *("neg", "reduce_sum", "broadcast_in_dim", "reshape", "squeeze", "transpose", "copy", "copy_p", "rev", "slice"),
    *("expand_dims", "cumsum", "real", "assume_continuous"),
}
_BILINEAR = {"mul", "dot_general"}


def linear_operands(eqn, args: Sequence[Deps]) -> tuple[int, ...] | None:
    """Return the operands in which an equation is linear, if these are all that depend on choices; else None."""
    name = eqn.primitive.name
    random = tuple(i for i, deps in enumerate(args) if deps)
    if name in _SUMS:
        return random
    if name in _UNARY:
        return (0,)
    if name in _BILINEAR and len(random) == 1:
        return random
    if name in ("div", "dynamic_slice") and random == (0,):
        return random
    if name == "select_n" and 0 not in random:
        return random
    if name == "convert_element_type" and _inexact(eqn.invars[0]) and _inexact(eqn.outvars[0]):
        return (0,)
    return None


def _inexact(var) -> bool:
    return np.issubdtype(np.dtype(var.aval.dtype), np.inexact) if not _is_extended(var.aval.dtype) else False


def _is_extended(dtype) -> bool:
    return not isinstance(dtype, np.dtype)


def _is_whole(flow: Flow, eqn, args: Sequence[Deps], deps: Deps) -> bool:
    """Tell whether an equation's result may be charged at once rather than term by term."""
    linear = linear_operands(eqn, args) if deps else None
    if linear is None:
        return True
    addends = eqn.primitive.name in _SUMS or eqn.primitive.name == "select_n"
    start = 1 if eqn.primitive.name == "select_n" else 0
    if addends and len(linear) < len(args) - start:
        return False  # A term without randomness must not be charged: it would only add noise.
    return all(args[i] == deps and flow.is_whole(eqn.invars[i]) for i in linear)
