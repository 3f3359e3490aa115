"""Jumps at random places: derivatives with respect to what moves a jump, where a continuous choice decides.

The mean of 1[x > t] over a continuous x is smooth in t, but its derivative is the density of x at t, and no derivative
of the sampled value shows it: under any strategy of x the gradient in t would be 0. So a value that carries a
derivative may not enter a comparison, a rounding, an order or an edge of a support together with a continuous choice.
Alone it may (a jump at one point has no weight), and with discrete choices, whose sums are differentiated term by term.
The floats that a program draws from a fresh key are continuous choices, too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from ppl import jaxprs
from ppl._errors import PPLError, UnsoundGradientError
from ppl.analysis.dependence import Location
from ppl.analysis.smoothness.flow import Walk
from ppl.analysis.smoothness.frames import NOTHING, Break, Fact, Frame, Sites, is_inexact, union
from ppl.analysis.smoothness.paths import Path, make_path
from ppl.interpreter import Interpreter, Place
from ppl.primitives import choice_p, density_p, guard_p
from ppl.specs import FreshKey

_ROUNDINGS = {"floor", "ceil", "round", "sign", "rem", "nextafter", "atan2", "tan"}
_ORDERS = {"argmax", "argmin", "sort", "top_k", "approx_top_k"}
_COMPARISONS = {"lt", "le", "gt", "ge", "eq", "ne", "lt_to", "le_to", "eq_to"}
_BODIES = {jaxprs.jit_p, jaxprs.scan_p, jaxprs.cond_p, jaxprs.remat_p}


@dataclasses.dataclass(frozen=True)
class Jump:
    """An equation that compares a continuous choice with its other operands.

    Attributes:
        path: The way from the choice to it.
        operands: Which operands must not carry a derivative.
    """

    path: Path
    operands: tuple[int, ...]

    def error(self) -> PPLError:
        """Build the error for a derivative that meets the equation."""
        path = self.path
        return UnsoundGradientError(
            f"A derivative moves a jump at a random place: `{path.steps[-1].name}` depends on {path.family} "
            f"{path.label!r}, and {path.reason}.",
            where=f"{path.label!r} at {path.source}",
            expected="no derivative through a discontinuity whose place is a continuous random choice",
            got=str(path),
            remedy="wrap what is computed in `ppl.assume_continuous(...)` if it is continuous after all, or detach the "
            "operand by `jax.lax.stop_gradient`; or write the probability of the event in closed form",
        )


def find_jumps(body: jaxprs.Body, places: Mapping[Location, Place], aux: Sequence[bool]) -> dict[Location, Jump]:
    """List the equations whose jumps reach a result, by location."""
    if not any(_is_continuous(place.eqn) or _is_key(place.eqn) for place in places.values()) or not _may_jump(body):
        return {}
    walk = _Jumps()
    outs = walk.body(Frame(body, ()), [NOTHING] * len(body.invars))
    reached: dict[Location, tuple[Location, Break]] = {}
    for var, fact, is_aux in zip(body.outvars, outs, aux, strict=True):
        if not is_aux and is_inexact(var):
            for (site, location), found in fact.broken.items():
                reached.setdefault(location, (site, found))
    return {
        location: Jump(make_path(places[site], _label(places[site]), found), walk.operands[location])
        for location, (site, found) in reached.items()
    }


def _label(place: Place) -> str:
    return "/".join([*place.prefix, place.eqn.params["label"]])


def _is_continuous(eqn) -> bool:
    spec, strategy = eqn.params["spec"], eqn.params["strategy"]
    return not (spec.silent or spec.family.discrete or (strategy is not None and strategy.unchecked))


def _is_key(eqn) -> bool:
    return isinstance(eqn.params["spec"], FreshKey)


def _may_jump(body: jaxprs.Body) -> bool:
    """Tell whether there is an equation that could be one: most programs have none, and need no walk."""
    return any(_is_suspect(eqn) or any(map(_may_jump, jaxprs.inner_bodies(eqn))) for eqn in body.eqns)


def _is_suspect(eqn) -> bool:
    name = eqn.primitive.name
    if eqn.primitive is density_p:
        return bool(eqn.params["spec"].family.support.moving) and not eqn.params["inside"]
    if name == "convert_element_type":
        return is_inexact(eqn.invars[0]) and eqn.outvars[0].aval.dtype.kind in "iu"
    return name in _ROUNDINGS | _ORDERS | _COMPARISONS and is_inexact(eqn.invars[0])


def _is_bits(var) -> bool:
    """Tell keys and unsigned numbers; signed ones and truth values made from them are discrete noise."""
    dtype = var.aval.dtype
    return jnp.issubdtype(dtype, jax.dtypes.prng_key) or jnp.issubdtype(dtype, jnp.unsignedinteger)


class _Jumps(Walk):
    """Follow all continuous choices; every jump has an entry of its own, named by choice and location."""

    def __init__(self):
        super().__init__()
        self.operands: dict[Location, tuple[int, ...]] = {}
        self.calls: dict[int, Location] = {}  # By identity of the equation.
        self.keys: set[Location] = set()

    def _plain(self, frame: Frame, eqn, args) -> list[Fact]:
        """A result that is no float moves by jumps only, but keys and their bits become noise of floats."""
        outs = super()._plain(frame, eqn, args)
        smooth = union(args).smooth if self.keys else Sites()
        noise = smooth & self.keys if eqn.primitive.name != "sort" else Sites()
        return [self._kept(var, out, noise) for var, out in zip(eqn.outvars, outs, strict=True)]

    def _kept(self, var, out: Fact, noise: Sites) -> Fact:
        if is_inexact(var):
            lost = (out.smooth & self.keys) - noise
            return Fact(out.smooth - lost, out.broken) if lost else out
        kept = noise if _is_bits(var) else Sites()
        return Fact(kept, out.broken) if kept or out.smooth else out

    def _broken(self, frame: Frame, eqn, found: tuple[str, list[int]], fact: Fact) -> Fact:
        """A value that has jumped goes on moving with the choice in between."""
        reason, operands = found
        if not _is_suspect(eqn):  # A pole: means over what is beyond all bounds are for the user to judge.
            return fact
        location = self._location(frame, eqn)
        self.operands[location] = tuple(operands if frame.blamed is None else range(len(frame.blamed.invars)))
        broken = dict(fact.broken)
        for i in operands:
            for site in frame.fact(eqn.invars[i]).smooth:
                broken.setdefault((site, location), Break(frame, frame.blamed or eqn, eqn.invars[i], reason))
        return Fact(fact.smooth, broken)

    def _location(self, frame: Frame, eqn) -> Location:
        """Return where an equation stands; of what is inside of a function of JAX, where that is called."""
        if frame.blamed is not None:
            return self.calls[id(frame.blamed)]
        return (*frame.location, next(i for i, other in enumerate(frame.body.eqns) if other is eqn))

    def _call(self, frame: Frame, index: int, eqn, body, args) -> list[Fact]:
        self.calls[id(eqn)] = (*frame.location, index)
        return super()._call(frame, index, eqn, body, args)

    def _choice(self, frame: Frame, index: int, eqn, args) -> Fact:
        site = (*frame.location, index)
        if _is_key(eqn):
            self.keys.add(site)
        own = Sites([site]) if _is_continuous(eqn) or _is_key(eqn) else Sites()
        strategy, fact = eqn.params["strategy"], union(args)
        if strategy is None or strategy.mode != "path":  # Its law jumps where its parameters do.
            return Fact(own, fact.broken) if own or fact.broken else NOTHING
        return Fact(fact.smooth | own, fact.broken)


class Guarded(Interpreter):
    """Rewrite a program: what must not carry a derivative into a jump says so."""

    def __init__(self, jumps: Mapping[Location, Jump], location: Location = ()):
        super().__init__(location)
        self.jumps = jumps

    def enter(self, location, extra):
        """Rewrite inside as outside."""
        return Guarded(self.jumps, location)

    def special(self, eqn, values):
        """Bind as it is."""
        return eqn.primitive.bind(*values, **eqn.params)

    def equation(self, eqn, values):
        """Guard operands; go inside where there is a jump."""
        depth = len(self.here)
        inside = [location for location in self.jumps if location[:depth] == self.here]
        if not inside:
            return self.special(eqn, values) if eqn.primitive is choice_p else super().equation(eqn, values)
        if inside != [self.here] and eqn.primitive in _BODIES:
            return self.handlers[eqn.primitive](eqn, values)
        jump = self.jumps[inside[0]]
        guarded = jump.operands if inside == [self.here] else range(len(values))
        values = [guard_p.bind(v, jump=jump) if _guards(v, i, guarded) else v for i, v in enumerate(values)]
        return super().equation(eqn, values)


def _guards(value, number: int, guarded: Sequence[int]) -> bool:
    return number in guarded and jnp.issubdtype(jnp.result_type(value), jnp.inexact)


def guard_jumps(body: jaxprs.Body, places: Mapping[Location, Place], aux: Sequence[bool]) -> jaxprs.Body:
    """Return the program with guards in front of its jumps; one that has none is returned as it is."""
    jumps = find_jumps(body, places, aux)
    if not jumps:
        return body
    return jaxprs.restage(lambda *leaves: Guarded(jumps).run(body, leaves), jaxprs.in_shapes(body))
