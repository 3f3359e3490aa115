"""Evaluating a program again with other values of one choice: what its cost would be, all else being equal."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jax import lax

from ppl.analysis.dependence import Location
from ppl.draws import OwnKey, StepKeys
from ppl.primitives import View
from ppl.transforms.records import spread


@dataclasses.dataclass(frozen=True)
class Override:
    """What one choice is given in another evaluation.

    Attributes:
        site: The choice.
        value: Its values over steps, lanes, batch and event.
        where: Which of them are given; the others are as they were.
        steps: For each scan around it whose steps share costs: which one is given, and whether the scan runs backwards.
        plain: Choices that depend on it within one step.
        past: Choices that depend on it in later steps only.
    """

    site: Location
    value: Any
    where: Any
    steps: Mapping[Location, tuple[Any, bool]]
    plain: frozenset[Location]
    past: frozenset[Location]


@dataclasses.dataclass
class TailNoise:
    """The noise of another evaluation: as it was, but for a choice that is given and, with `fresh`, those after it.

    `shifts` holds zeros over the elements of some choices that are added to their scores: the derivative of the
    objective with respect to them is the cost charged to each element. `leads` says how many of the first axes of what
    is given, and of the shifts, are the values of enumerated choices.
    """

    base: Any
    fresh: Any
    override: Override | None
    shifts: Mapping[Location, Any]
    leads: Mapping[Location, int]
    equal: Any = True
    after: Any = False
    _scan: Location = ()

    @property
    def given(self) -> frozenset[Location]:
        """Choices whose values may have tangents."""
        return frozenset() if self.override is None else frozenset({self.override.site})

    def shift(self, location: Location):
        """Return what is added to a score, or None."""
        return self.shifts.get(location)

    def draw(self, location: Location, view: View):
        """Draw a choice, or take what is given."""
        value = lax.stop_gradient(self._draw(location, view))
        override = self.override
        if override is None or location != override.site:
            return value
        value = jnp.where(spread(override.where, value.ndim), override.value, value)
        return value if view.mask is None else jnp.where(view.spread_mask(True), value, jnp.zeros_like(value))

    def key_at(self, location: Location):
        """Return the key of a choice."""
        changed = self._changed(location)
        if changed is False:
            return self.base.key_at(location)
        return jnp.where(changed, self.fresh.key_at(location), self.base.key_at(location))

    def source_at(self, location: Location):
        """Return what a choice is drawn with."""
        if self._changed(location) is False:
            return self.base.source_at(location)
        key, steps = self.key_at(location), self.base.draws.steps.get(location)
        return OwnKey(key) if steps is None else StepKeys(key, *steps)

    def _draw(self, location: Location, view: View):
        changed = self._changed(location)
        return self.base.draw(location, view) if changed is False else view.draw(self.source_at(location))

    def _changed(self, location: Location):
        """Say whether a choice depends on what is given, so that its noise is to be fresh."""
        override = self.override
        if override is not None and not self.base.repeatable and location in override.plain | override.past:
            raise self.base.refuse(location)
        if self.fresh is None or override is None:
            return False
        if location in self.override.plain:
            return jnp.logical_or(self.equal, self.after)
        return jnp.asarray(self.after) if location in self.override.past else False

    # Bodies.
    def scan_inputs(self, here: Location, length: int):
        """Hand each step its slices."""
        self._scan = here
        inside = lambda site: site[: len(here)] == here
        override = self.override
        first = lambda site, x: jnp.moveaxis(x, self.leads.get(site, 0), 0)
        given = None
        if override is not None and inside(override.site):
            given = first(override.site, override.value), first(override.site, override.where)
        shifts = {site: first(site, shift) for site, shift in self.shifts.items() if inside(site)}
        fresh = None if self.fresh is None else self.fresh.scan_inputs(here, length)
        return self.base.scan_inputs(here, length), fresh, given, list(shifts.values()), jnp.arange(length)

    def enter(self, extra: Any) -> TailNoise:
        """Return the source for one step."""
        base, fresh, given, shifts, step = extra
        here = self._scan
        sites = [site for site in self.shifts if site[: len(here)] == here]
        outside = {site: shift for site, shift in self.shifts.items() if site not in sites}
        override, equal, after = self.override, self.equal, self.after
        if override is not None and given is not None:
            override = dataclasses.replace(override, value=given[0], where=given[1])
            if here in override.steps:
                at, reverse = override.steps[here]
                after = after | (equal & ((step < at) if reverse else (step > at)))
                equal = equal & (step == at)
        return TailNoise(
            self.base.enter(base),
            None if fresh is None else self.fresh.enter(fresh),
            override,
            {**outside, **dict(zip(sites, shifts, strict=True))},
            self.leads,
            equal,
            after,
        )

    def branch(self) -> TailNoise:
        """Return the source for a branch or a checkpointed body."""
        return dataclasses.replace(self, base=self.base.branch())

    def leave(self) -> Any:
        """Return what a body hands out."""
        return self.base.leave()

    def absorb(self, extra: Any, how: str) -> None:
        """Take in what a body handed out."""
        self.base.absorb(extra, how)

    def skip(self, here: Location, taken: int, count: int) -> None:
        """Account for the choices in branches of a cond that are not taken."""
        self.base.skip(here, taken, count)
