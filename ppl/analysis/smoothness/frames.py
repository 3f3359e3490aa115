"""Bodies as the analysis has walked them: what each value depends on, and where it comes from."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp

from ppl import jaxprs
from ppl.analysis.dependence import Location

Sites = frozenset  # of Location


@dataclasses.dataclass(frozen=True)
class Break:
    """A discontinuity that the value of a pathwise choice passes through.

    Attributes:
        frame: The body of the offending equation.
        eqn: That equation.
        var: Its operand.
        reason: What is wrong with it, in words.
    """

    frame: Frame
    eqn: Any
    var: Any
    reason: str


@dataclasses.dataclass(frozen=True)
class Fact:
    """What is known of a value.

    Attributes:
        smooth: Pathwise choices of which it is a continuous function.
        broken: Pathwise choices of which it is perhaps not, each with the discontinuity.
    """

    smooth: Sites = Sites()
    broken: Mapping[Location, Break] = dataclasses.field(default_factory=dict)

    @property
    def sites(self) -> Sites:
        """All choices that it depends on."""
        return self.smooth.union(self.broken)


NOTHING = Fact()


def union(facts: list[Fact]) -> Fact:
    """Unite what is known of several values."""
    facts = [fact for fact in facts if fact is not NOTHING]
    if len(facts) < 2:
        return facts[0] if facts else NOTHING
    broken: dict[Location, Break] = {}
    for fact in facts:
        for site, found in fact.broken.items():
            broken.setdefault(site, found)
    return Fact(Sites().union(*(fact.smooth for fact in facts)), broken)


@dataclasses.dataclass(eq=False)
class Frame:
    """One body.

    Attributes:
        body: The body.
        location: Where it stands.
        trusted: Whether its selections and roundings are known to be harmless.
        blamed: The call of a function of JAX that jumps by purpose, if this body is inside of one.
        strict: Whether the packages that are trusted elsewhere are not: samplers of theirs may pick a component.
        facts: What is known of its variables, where they depend on pathwise choices.
        definitions: For each variable the index of its equation and its number among the results.
        sources: For each argument where it comes from: (frame, variable) pairs.
        children: The bodies inside, by index of equation.
        ranges: What has been found out about the size of values.
    """

    body: jaxprs.Body
    location: Location
    trusted: bool = False
    blamed: Any = None
    strict: bool = False
    facts: dict = dataclasses.field(default_factory=dict)
    definitions: dict = dataclasses.field(default_factory=dict)
    sources: dict = dataclasses.field(default_factory=dict)
    children: dict[int, list[Frame]] = dataclasses.field(default_factory=dict)
    ranges: dict = dataclasses.field(default_factory=dict)

    def fact(self, var) -> Fact:
        """Return what is known of a variable or literal."""
        return NOTHING if isinstance(var, jaxprs.Literal) else self.facts.get(var, NOTHING)

    def define(self, index: int, eqn) -> None:
        """Note which equation makes which variables."""
        for number, var in enumerate(eqn.outvars):
            self.definitions[var] = (index, number)

    def maker(self, var):
        """Return the equation that makes a variable, its index and the variable's number; None for arguments."""
        if isinstance(var, jaxprs.Literal) or var not in self.definitions:
            return None
        index, number = self.definitions[var]
        return self.body.eqns[index], index, number

    def behind(self, index: int, number: int) -> tuple[Frame, Any] | None:
        """Return the variable inside a call that is this result of it; None unless it is a call."""
        children = self.children.get(index, ())
        if len(children) != 1 or self.body.eqns[index].primitive in (jaxprs.scan_p, jaxprs.while_p):
            return None
        return children[0], children[0].body.outvars[number]

    def origins(self, var) -> list[tuple[Frame, Any]]:
        """Return the variables outside that an argument of this body comes from."""
        return self.sources.get(var, []) if not isinstance(var, jaxprs.Literal) else []


_SAME = {"copy", "copy_p", "assume_continuous", "jump_guard", "stop_gradient"}
_RESHAPED = {"reshape", "broadcast_in_dim", "squeeze", "expand_dims"}


def canonical(frame: Frame, var) -> tuple[Frame, Any]:
    """Follow a value back through calls and operations that leave all of its elements where they are."""
    while not isinstance(var, jaxprs.Literal):
        made = frame.maker(var)
        if made is None:
            if len(frame.origins(var)) != 1:
                return frame, var
            ((frame, var),) = frame.origins(var)
            continue
        eqn, index, number = made
        step = frame.behind(index, number)
        if step is not None:
            frame, var = step
        elif eqn.primitive.name in _SAME or _is_float_conversion(eqn) or _is_spread_scalar(eqn):
            var = eqn.invars[0]
        else:
            return frame, var
    return frame, var


def _is_spread_scalar(eqn) -> bool:
    return eqn.primitive.name in _RESHAPED and math.prod(eqn.invars[0].aval.shape) == 1


def _is_float_conversion(eqn) -> bool:
    return eqn.primitive.name == "convert_element_type" and is_inexact(eqn.invars[0]) and is_inexact(eqn.outvars[0])


def is_inexact(var) -> bool:
    """Tell whether a variable is of a float or complex type."""
    return _inexact(var.aval.dtype)


@functools.lru_cache(maxsize=256)
def _inexact(dtype) -> bool:
    return bool(jnp.issubdtype(dtype, jnp.inexact))


def steps_back(frame: Frame, var, site: Location) -> Iterator[Any]:
    """List equations on one way from a value back to the choice that it depends on, last one first."""
    seen = set()
    while var is not None and (frame, var) not in seen:
        seen.add((frame, var))
        made = frame.maker(var)
        if made is None:
            ways = [way for way in frame.origins(var) if site in way[0].fact(way[1]).sites and way not in seen]
            if not ways:
                return
            frame, var = ways[0]
            continue
        eqn, index, number = made
        yield frame, eqn
        if (*frame.location, index) == site:
            return
        frame, var = _before(frame, eqn, index, number, site)


def _before(frame: Frame, eqn, index: int, number: int, site: Location) -> tuple[Frame, Any]:
    for child in frame.children.get(index, ()):
        if not child.trusted and number < len(child.body.outvars):
            var = child.body.outvars[number]
            if site in child.fact(var).sites:
                return child, var
    return frame, next((var for var in eqn.invars if site in frame.fact(var).sites), None)
