"""Which random choices each value depends on, and where their lanes lie: the first half of credit assignment.

A *site* is a choice whose strategy needs to know its costs: its score is charged to them ("score"), or they are summed
over its values ("enumerate"). For every variable of a staged program the flow records the sites that it depends on,
each with the position of its lanes (`ppl.analysis.positions`). Inside the body of a scan a dependency is on *this*
step's choice (its location), on *past* steps' (`Past`), or on the lanes of an outer choice that a scanned input hands
to this step (`Slice`); the carry turns the first into the second, to a fixpoint. Unknown operations depend on all lanes
of all of their operands: always right, at worst noisier.

A variable is *whole* if it may be charged as one cost term: it is the result of a nonlinear operation, or of a linear
one all of whose terms depend on the very same lanes of the same sites. Other results of linear operations are sums of
separate terms.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ppl import jaxprs
from ppl.analysis.positions import (
    AFTER,
    BEFORE,
    INF,
    SAME,
    Position,
    Window,
    hull,
    join,
    resolution,
    shifted,
    through,
)
from ppl.analysis.rules import axis_maps
from ppl.primitives import call_p, choice_p, factor_p, lane_shapes

Location = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Past:
    """A dependency on the choices that a site made in earlier steps of one of the scans around it.

    Its axes are those of the site inside that scan: steps of scans further in, then lanes and batch.

    Attributes:
        location: The site.
        scan: That scan. In nested scans, earlier steps of the inner one are other choices than those of the outer one.
    """

    location: Location
    scan: Location


@dataclasses.dataclass(frozen=True)
class Together:
    """All joint values of the lanes that some cost mixes of an enumerated choice: an axis, where its site is in step.

    Attributes:
        location: The site.
    """

    location: Location


@dataclasses.dataclass(frozen=True)
class Slice:
    """A dependency of a scan's step on those lanes of an outer choice that a scanned input hands to it.

    Attributes:
        outer: What the input depends on outside of the scan; this has the same axes but one.
        axis: That axis, which runs along the steps.
        window: On which lanes, relative to this step.
        scan: The scan.
    """

    outer: Any
    axis: int
    window: Window
    scan: Location


Key = Location | Past | Slice
Deps = Mapping[Key, Position]
NONE: Deps = {}


def root(key: Key) -> Location | Past:
    """Return what a dependency is on, before any scan sliced it."""
    while isinstance(key, Slice):
        key = key.outer
    return key


def location_of(key: Key) -> Location:
    """Return the site that a dependency is on."""
    found = root(key)
    return found.location if isinstance(found, Past | Together) else found


def in_order(keys) -> list:
    """Sort dependencies: a fixed order of evaluation, the past before the present."""
    return sorted(keys, key=lambda key: (location_of(key), not isinstance(root(key), Past), repr(key)))


def is_inside(key: Key, here: Location) -> bool:
    """Tell whether a dependency is on a choice inside the equation at `here`."""
    return location_of(key)[: len(here)] == here


def union(*dependencies: Deps) -> Deps:
    """Depend on everything that any of these depends on."""
    found: dict[Key, Position] = {}
    for deps in dependencies:
        for key, position in deps.items():
            found[key] = join(found[key], position) if key in found else position
    return _disjoint(found)


def _disjoint(deps: dict[Key, Position]) -> Deps:
    """Widen dependencies that overlap into one, lest a score count twice: on some lanes of a site, and on all."""
    while (pair := _overlap(deps)) is not None:
        for key, position in _merged([(key, deps.pop(key)) for key in pair]):
            deps[key] = join(deps[key], position) if key in deps else position
    return deps


def _overlap(deps) -> tuple[Key, Key] | None:
    """Find two dependencies on lanes of one site of which one is a slice."""
    first_of: dict[Any, Key] = {}
    for key in sorted(deps, key=lambda key: isinstance(key, Slice)) if any_slice(deps) else ():
        if isinstance(key, Slice) and root(key) in first_of:
            return first_of[root(key)], key
        first_of[root(key)] = key
    return None


def any_slice(deps: Deps) -> bool:
    """Tell whether a dependency is on a slice."""
    return any(isinstance(key, Slice) for key in deps)


def _merged(pair: list) -> list[tuple[Key, Position]]:
    (first, _), (second, _) = pair
    depths = _depth(first), _depth(second)
    if depths[0] == depths[1] and (first.outer, first.axis, first.scan) == (second.outer, second.axis, second.scan):
        window = hull(first.window, second.window)
        if window is not None:
            return [(dataclasses.replace(first, window=window), position) for _, position in pair]
    return [lifted(*item) if depth == max(depths) else item for item, depth in zip(pair, depths, strict=True)]


def _depth(key: Key) -> int:
    return 1 + _depth(key.outer) if isinstance(key, Slice) else 0


def lifted(key: Slice, position: Position) -> tuple[Key, Position]:
    """Restate a slice as a dependency on the whole axis."""
    return key.outer, (*position[: key.axis], None, *position[key.axis :])


def mixed(deps: Deps) -> Deps:
    """Depend on all lanes."""
    return {key: (None,) * len(position) for key, position in deps.items()}


@dataclasses.dataclass
class Flow:
    """Dependencies in one body.

    Attributes:
        deps: What each variable depends on.
        whole: Variables that may be charged as one term.
        outs: Dependencies of the results.
        whole_outs: Whether each result is whole.
        inner: Flows of the bodies looked into, by (index of equation, number of body).
        carry: For each scan looked into, the dependencies of its carry inside the body.
        sites: Dependencies of each site's own distribution, in this body's terms.
        choices: The same of every choice, in the terms of its own body.
        values: The flow of values alone (see [`Dependence`][]), where that has been computed, too.
    """

    deps: dict = dataclasses.field(default_factory=dict)
    whole: dict = dataclasses.field(default_factory=dict)
    outs: list[Deps] = dataclasses.field(default_factory=list)
    whole_outs: list[bool] = dataclasses.field(default_factory=list)
    inner: dict[tuple[int, int], Flow] = dataclasses.field(default_factory=dict)
    carry: dict[int, list[Deps]] = dataclasses.field(default_factory=dict)
    sites: dict[Location, Deps] = dataclasses.field(default_factory=dict)
    choices: dict[Location, Deps] = dataclasses.field(default_factory=dict)
    values: Flow | None = None

    def attach(self, values: Flow) -> None:
        """Keep the flow of values alone beside this one, in the bodies inside as well."""
        self.values = values
        for key, inner in self.inner.items():
            inner.attach(values.inner[key])

    def of(self, var) -> Deps:
        """Return the dependencies of a variable or literal."""
        return NONE if isinstance(var, jaxprs.Literal) else self.deps[var]

    def take_sites(self, inner: Flow) -> None:
        """Take in what is known of the choices of a body inside."""
        self.sites.update(inner.sites)
        self.choices.update(inner.choices)

    def is_whole(self, var) -> bool:
        """Tell whether a variable or literal may be charged as one term."""
        return True if isinstance(var, jaxprs.Literal) else self.whole[var]


# --- Into and out of scans ---------------------------------------------------------------------------------------


def to_past(deps: Deps, here: Location, reverse: bool) -> Deps:
    """Carry dependencies over to the next step of the scan at `here`."""
    return union(*(dict([_to_past(key, position, here, reverse)]) for key, position in deps.items()))


def _to_past(key: Key, position: Position, here: Location, reverse: bool) -> tuple[Key, Position]:
    if isinstance(key, Slice):
        if key.scan != here:
            return key, position
        window = _one_step_later(key.window, reverse)
        return lifted(key, position) if window is None else (dataclasses.replace(key, window=window), position)
    return (Past(key, here), position) if not isinstance(key, Past) and is_inside(key, here) else (key, position)


def _one_step_later(window: Window, reverse: bool) -> Window | None:
    """Restate a window of lanes for the next step; one that has been carried before reaches back to the first."""
    first, last, exact = window
    if reverse:
        first, last = first + 1, last + 1 if last <= 0 else INF
    else:
        first, last = first - 1 if first >= 0 else -INF, last - 1
    return hull((first, last, exact), (first, last, exact))


def to_slices(deps: Deps, here: Location) -> Deps:
    """Restate the dependencies of a scanned input within one step of the scan at `here`."""
    return union(*(dict([_to_slice(key, position, here)]) for key, position in deps.items()))


def _to_slice(key: Key, position: Position, here: Location) -> tuple[Key, Position]:
    along = [(axis, relation[1]) for axis, relation in enumerate(position) if relation and relation[0] == 0]
    if not along:
        return key, shifted(position, -1)
    ((axis, window),) = along
    return Slice(key, axis, window, here), shifted((*position[:axis], *position[axis + 1 :]), -1)


def to_outside(deps: Deps, here: Location, reverse: bool, stacked: bool) -> Deps:
    """Restate dependencies of a result of the scan at `here` outside of it; `stacked` results have an axis of steps."""
    return union(*(dict([_to_outside(key, pos, here, reverse, stacked)]) for key, pos in deps.items()))


def _to_outside(key: Key, position: Position, here: Location, reverse: bool, stacked: bool) -> tuple[Key, Position]:
    position = shifted(position, int(stacked))
    along = lambda window: (0, window) if stacked else None
    if isinstance(key, Slice):
        if key.scan != here:
            return key, position
        return key.outer, (*position[: key.axis], along(key.window), *position[key.axis :])
    if isinstance(key, Past):
        return (key.location, (along(AFTER if reverse else BEFORE), *position)) if key.scan == here else (key, position)
    return (key, (along(SAME), *position)) if is_inside(key, here) else (key, position)


class Dependence:
    """Follow dependencies through a staged program.

    Args:
        modes: The mode ("score" or "enumerate") of each site.
        values: Whether to follow values alone: that of an enumerated choice depends on nothing but the choice, as all
            of its values are looked at whatever its parameters are.
    """

    def __init__(self, modes: Mapping[Location, str], values: bool = False):
        self.modes, self.values = modes, values

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
        if eqn.primitive is choice_p:
            return self._choice(flow, eqn, here, args, context)
        if eqn.primitive is factor_p:  # A mark on a density: it has no results.
            return [], []
        holds = jaxprs.holds_choice(eqn)
        if not holds and not any(args):
            return [NONE] * len(eqn.outvars), [True] * len(eqn.outvars)
        if eqn.primitive in (jaxprs.jit_p, call_p):
            return self._call(flow, index, eqn, here, args, context)
        if eqn.primitive is jaxprs.scan_p:
            return self._scan(flow, index, eqn, here, args, context, holds)
        if holds and eqn.primitive is jaxprs.remat_p:
            return self._call(flow, index, eqn, here, args, context, opaque=True)
        if holds:
            return self._cond(flow, index, eqn, here, args, context)
        return self._plain(flow, index, eqn, here, args, context)

    def _choice(self, flow, eqn, here, args, context):
        """A choice depends on what its parameters do, lane by lane, and on itself."""
        maps = axis_maps(eqn)
        moved = [_through(deps, axes) for deps, axes in zip(args, maps, strict=True)]
        self._drop_baseline(eqn, moved)
        params = union(mixed(context), *moved)
        flow.choices[here] = deps = params
        if here in self.modes:
            flow.sites[here] = params
            shape = site_shape(eqn)
            free = self.values and self.modes[here] == "enumerate" and not eqn.params["masked"] and not context
            deps = {
                **(NONE if free else params),
                here: tuple((i, SAME) if size > 1 else None for i, size in enumerate(shape)),
            }
        return [deps] * len(eqn.outvars), [True] * len(eqn.outvars)

    def _drop_baseline(self, eqn, moved: list) -> None:
        """Forget what a baseline depends on, which the value does not: but a sum over its values is one over both."""
        if eqn.params["baseline"]:
            at = len(eqn.params["spec"].names)
            moved[at] = {key: pos for key, pos in moved[at].items() if self.modes[location_of(key)] == "enumerate"}

    def _plain(self, flow, index, eqn, here, args, context):
        """Follow axes through an equation that makes no choice and is evaluated as it stands."""
        inner = jaxprs.read_function(eqn)
        if inner is not None:
            return self.flow(inner, args, (*here, 0), context).outs, [True] * len(eqn.outvars)
        if eqn.primitive is jaxprs.cond_p:
            return self._cond(Flow(), index, eqn, here, args, context)
        deps = union(*(_through(deps, axes) for deps, axes in zip(args, axis_maps(eqn), strict=True)))
        return [deps] * len(eqn.outvars), [_is_whole(flow, eqn, args, deps)] * len(eqn.outvars)

    def _call(self, flow, index, eqn, here, args, context, opaque=False):
        whole = None if opaque else [flow.is_whole(var) for var in eqn.invars]
        inner = self.flow(jaxprs.read_call(eqn), args, (*here, 0), context, whole)
        flow.inner[index, 0] = inner
        flow.take_sites(inner)
        return inner.outs, [True] * len(inner.outs) if opaque else inner.whole_outs

    def _scan(self, flow, index, eqn, here, args, context, holds):
        view = jaxprs.read_scan(eqn)
        consts, carry, xs = view.split(args)
        xs = [to_slices(deps, here) for deps in xs]
        wholes = [True] * len(consts) + [False] * len(carry) + [True] * len(xs)
        while True:
            inner = self.flow(view.body, [*consts, *carry, *xs], (*here, 0), context, wholes)
            outs, _ = view.split_out(inner.outs)
            grown = [union(old, to_past(new, here, view.reverse)) for old, new in zip(carry, outs, strict=True)]
            if grown == carry:
                break
            carry = grown
        final, ys = view.split_out(inner.outs)
        final = [to_outside(union(*both), here, view.reverse, False) for both in zip(carry, final, strict=True)]
        ys = [to_outside(deps, here, view.reverse, True) for deps in ys]
        if not holds and all(one or not deps for one, deps in zip(inner.whole_outs, inner.outs, strict=True)):
            return [*final, *ys], [True] * len(inner.outs)  # Nothing is added up inside: it is evaluated as it stands.
        flow.inner[index, 0], flow.carry[index] = inner, carry
        flow.choices.update(inner.choices)
        for site, deps in inner.sites.items():
            flow.sites[site] = to_outside(deps, here, view.reverse, True)
        return [*final, *ys], [False] * len(inner.outs)

    def _cond(self, flow, index, eqn, here, args, context):
        predicate, *operands = args
        outs = [mixed(predicate)] * len(eqn.outvars)
        for number, branch in enumerate(jaxprs.read_branches(eqn)):
            inner = self.flow(branch, operands, (*here, number), union(context, mixed(predicate)))
            flow.inner[index, number] = inner
            flow.take_sites(inner)
            outs = [union(old, new) for old, new in zip(outs, inner.outs, strict=True)]
        return outs, [True] * len(outs)


def _through(deps: Deps, axes) -> Deps:
    return {key: through(position, axes) for key, position in deps.items()} if deps else deps


def site_shape(eqn) -> tuple[int, ...]:
    """Return the shape of a choice's density: lanes, then batch; for one step."""
    spec, lanes = eqn.params["spec"], eqn.params["lanes"]
    shapes = lane_shapes([var.aval.shape for var in eqn.invars], lanes)[: len(spec.names)]
    return tuple(lane.size for lane in lanes) + tuple(spec.batch_shape(shapes))


# --- Linear operations -------------------------------------------------------------------------------------------

_SUMS = {"add", "sub", "add_any", "concatenate", "stack"}
_UNARY = {
    *("neg", "reduce_sum", "broadcast_in_dim", "reshape", "squeeze", "transpose", "copy", "copy_p", "rev", "slice"),
    *("expand_dims", "cumsum", "real", "split", "unstack", "tile", "assume_continuous", "jump_guard"),
    "sharding_constraint",
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
    if name in ("div", "dynamic_slice", "gather") and random == (0,):
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
    return all(resolution_of(args[i]) == resolution_of(deps) and flow.is_whole(eqn.invars[i]) for i in linear)


def resolution_of(deps: Deps) -> dict[Key, tuple]:
    """Say of each dependency how finely its lanes are kept apart."""
    return {key: resolution(position) for key, position in deps.items()}
