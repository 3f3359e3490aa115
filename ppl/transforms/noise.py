"""Sources of noise: a key, or (for the exact oracle) a table that says which value each choice takes."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from ppl._errors import StrategyError
from ppl.analysis.dependence import Location
from ppl.draws import Group, LaneKeys, Member, OwnKey, Roots, StepKeys, is_counter_based
from ppl.interpreter import Place
from ppl.passes.draws import Draws, plan_draws
from ppl.primitives import View


class Noise:
    """What all sources share: no choice is given, and no score is shifted (see `ppl.transforms.tails`)."""

    given: ClassVar[frozenset[Location]] = frozenset()
    repeatable: ClassVar[bool] = False  # Whether a choice may be drawn again from other parameters.

    def shift(self, location: Location) -> Any:
        """Return what is added to the score of a choice, or None."""
        return None

    def moved(self, moved: Mapping[Location, Location], body: Any) -> Noise:
        """Return the same noise for a program, of this body, whose choices stand elsewhere."""
        raise self.refuse(next(iter(moved)))

    def named(self, location: Location) -> str:
        """Say which choice stands at a location."""
        return f"the choice at {location}"

    def refuse(self, location: Location) -> StrategyError:
        """Build the error for a choice that would have to be drawn again."""
        return StrategyError(
            "A strategy evaluates its costs for several values, and a choice that depends on them draws noise.",
            expected="an oracle of finite noise, which lists every draw once",
            got=f"{self.named(location)} drawn anew for each value",
            remedy="use `enum()` for the later choice, or estimate with `ppl.grad` over many keys",
        )


@dataclasses.dataclass
class KeyNoise(Noise):
    """Draw from keys folded from one key, the choice's name, and the steps of the scans around it.

    Attributes:
        key: The program's key.
        digests: The names of the choices, as numbers.
        draws: Which choices are drawn together, and which have left their loops.
        steps: The current step of each scan around this body, outermost first.
        groups: The groups drawn so far in this body.
        roots: The keys of choices, where they have been folded at once.
    """

    repeatable: ClassVar[bool] = True

    key: Any
    digests: Mapping[Location, int]
    draws: Draws = dataclasses.field(default_factory=Draws)
    steps: tuple[Any, ...] = ()
    groups: dict[tuple[Location, ...], Group] = dataclasses.field(default_factory=dict)
    roots: Roots | None = None

    def moved(self, moved: Mapping[Location, Location], body: Any) -> KeyNoise:
        """Return the same noise for a program, of this body, whose choices stand elsewhere."""
        return KeyNoise(self.key, {moved[at]: digest for at, digest in self.digests.items()}, plan_draws(body))

    def key_at(self, location: Location):
        """Return the key of a choice."""
        return self._key(self.digests[location])

    def _key(self, digest):
        found = self.roots is not None and self.roots.holds(digest)
        root = self.roots.one(digest) if found else jax.random.fold_in(self.key, digest)
        return functools.reduce(jax.random.fold_in, self.steps, root)

    def _keys(self, digests):
        """Return the keys of several choices, stacked."""
        if self.roots is None or not all(map(self.roots.holds, digests)):
            roots = jax.vmap(jax.random.fold_in, (None, 0))(self.key, np.array(digests, np.uint32))
        else:
            roots = self.roots.some(digests)
        return functools.reduce(
            lambda keys, step: jax.vmap(jax.random.fold_in, (0, None))(keys, step), self.steps, roots
        )

    def group_keys(self, members: tuple[Location, ...]):
        """Return the keys of choices that are drawn together, stacked."""
        return self._keys([self.digests[member] for member in members])

    def rooted(self, drawn: Iterable[Location]) -> KeyNoise:
        """Fold the keys of all choices that are drawn at once, those that are drawn together side by side."""
        order: dict[Location, None] = {}
        for location in drawn:
            order.update(dict.fromkeys(self.draws.groups.get(location, (location,))))
        names = [self.digests[location] for location in order]
        digests = [one for name in names for one in (name if isinstance(name, tuple) else (name,))]
        if len(digests) < 2 or not is_counter_based(self.key):
            return self
        return dataclasses.replace(self, roots=Roots(self.key, digests))

    def source_at(self, location: Location):
        """Return what a choice is drawn with: its key, or something that gives the same numbers."""
        if location in self.draws.steps:
            return StepKeys(self.key_at(location), *self.draws.steps[location])
        if isinstance(self.digests[location], tuple):  # Choices that a pass has packed.
            return LaneKeys(self._keys(self.digests[location]))
        members = self.draws.groups.get(location)
        if members is None or not is_counter_based(self.key):
            return OwnKey(self.key_at(location))
        if members not in self.groups:
            self.groups[members] = Group(lambda: self.group_keys(members))
        return Member(self.groups[members], members.index(location), lambda: self.key_at(location))

    def draw(self, location: Location, view: View):
        """Draw a choice."""
        return view.draw(self.source_at(location))

    def scan_inputs(self, here: Location, length: int):
        """Return what a scan hands to `enter` in each step."""
        return jnp.arange(length, dtype=jnp.uint32)

    def enter(self, extra: Any) -> KeyNoise:
        """Return the source for one step."""
        return KeyNoise(self.key, self.digests, self.draws, (*self.steps, extra), roots=self.roots)

    def branch(self) -> KeyNoise:
        """Return the source for a branch or a checkpointed body, which draws its groups inside."""
        return KeyNoise(self.key, self.digests, self.draws, self.steps, roots=self.roots)

    def leave(self) -> Any:
        """Return what a body hands out."""
        return ()

    def absorb(self, extra: Any, how: str) -> None:
        """Take in what a body handed out."""

    def skip(self, here: Location, taken: int, count: int) -> None:
        """Account for the choices in branches of a cond that are not taken."""


class FiniteNoise(Noise):
    """What sources of finite noise share: they know the choices of the program."""

    places: Mapping[Location, Place]

    def named(self, location: Location) -> str:
        """Say which choice stands at a location."""
        place = self.places.get(location)
        if place is None:
            return super().named(location)
        path = "/".join([*place.prefix, place.eqn.params["label"]])
        return f"{path!r} at {place.eqn.params['source']}"


@dataclasses.dataclass
class ShapeNoise(FiniteNoise):
    """Record which choices draw noise, and of which shape, without drawing any."""

    places: Mapping[Location, Place]
    sites: dict[Location, Site] = dataclasses.field(default_factory=dict)

    def key_at(self, location: Location):
        """Refuse choices that draw continuous noise."""
        raise _infinite(self.places[location])

    source_at = key_at

    def draw(self, location: Location, view: View):
        """Record a choice."""
        place = self.places[location]
        if not view.spec.family.enumerable:
            raise _infinite(place)
        lengths = tuple(length for _, length in place.scans)
        num_values = view.spec.num_values([param.shape for param in view.params])
        self.sites[location] = Site(lengths + view.shape, num_values)
        return jnp.zeros(view.shape, jnp.int32)

    def scan_inputs(self, here: Location, length: int):
        """Hand nothing to the steps."""
        return ()

    def enter(self, extra: Any) -> ShapeNoise:
        """Record inside as outside."""
        return self

    branch = lambda self: self
    leave = lambda self: ()
    absorb = lambda self, extra, how: None
    skip = lambda self, here, taken, count: None


@dataclasses.dataclass(frozen=True)
class Site:
    """A choice that draws finite noise: shape of its draws over all steps, and number of values of each."""

    shape: tuple[int, ...]
    num_values: int


@dataclasses.dataclass
class TableNoise(FiniteNoise):
    """Read every choice's value from a table, and add up the log probability of these values."""

    tables: Mapping[Location, Any]
    num_values: Mapping[Location, int]
    log_prob: Any = 0.0
    places: Mapping[Location, Place] = dataclasses.field(default_factory=dict)

    def key_at(self, location: Location):
        """Never reached: `ShapeNoise` has refused such programs."""
        raise AssertionError(location)

    source_at = key_at

    def draw(self, location: Location, view: View):
        """Read a choice; where it is not made, all entries of the table count alike."""
        value = self.tables[location] + view.spec.first_value()
        if view.mask is not None:
            value = jnp.where(view.spread_mask(False), value, 0)
        log_prob = jnp.broadcast_to(view.log_prob(value), view.shape)
        if view.mask is not None:
            log_prob = jnp.where(view.spread_mask(False), log_prob, -math.log(self.num_values[location]))
        self.log_prob = self.log_prob + jax.lax.stop_gradient(log_prob).sum()
        return value

    def scan_inputs(self, here: Location, length: int):
        """Hand each step its rows of the tables."""
        return {site: table for site, table in self.tables.items() if site[: len(here)] == here}

    def enter(self, extra: Any) -> TableNoise:
        """Return the source for one step."""
        return TableNoise(extra, self.num_values, jnp.zeros(()), self.places)

    def branch(self) -> TableNoise:
        """Return the source for a branch or a checkpointed body."""
        return TableNoise(self.tables, self.num_values, jnp.zeros(()), self.places)

    def leave(self) -> Any:
        """Return the log probability of what was read."""
        return self.log_prob

    def absorb(self, extra: Any, how: str) -> None:
        """Add the log probability of what a body read."""
        self.log_prob = self.log_prob + jnp.sum(extra)

    def skip(self, here: Location, taken: int, count: int) -> None:
        """Count all entries alike for choices in branches that are not taken."""
        for site, table in self.tables.items():
            if site[: len(here)] == here and site[len(here)] != taken:
                self.log_prob = self.log_prob - table.size * math.log(self.num_values[site])


def _infinite(place: Place) -> StrategyError:
    params = place.eqn.params
    return StrategyError(
        f"The noise of {params['spec'].family} {params['label']!r} cannot be enumerated.",
        where=f"{params['label']!r} at {params['source']}",
        expected="choices with a finite support",
        got=str(params["spec"].family),
        remedy="estimate with `ppl.grad` over many keys instead",
    )
