"""Messages along a chain of states: factors of all of its steps, summed over the states.

T k^2 work in a program whose size does not depend on T (forward recursion: Rabiner 1989). Where nothing outside needs
the last state the message goes backwards, and what the chain started from is summed outside; else it goes forwards.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ppl.analysis.dependence import Location, Past, in_order, location_of
from ppl.summation.factors import Dim, LogFactor, Scene
from ppl.summation.matrices import as_matrices
from ppl.summation.refusals import lanes_cross
from ppl.transforms.axes import Axes

MATRIX_ELEMENTS = 4096
"""Smallest table for which a message is passed by a matrix product: below, checking for underflow costs more."""


@dataclasses.dataclass(frozen=True)
class Course:
    """One way along a chain.

    Attributes:
        enters: What a message is over before a step: choices outside, and the states on one side of the step.
        leaves: The same after the step: the states on its other side.
        gone: The states on the first side, over which the step sums.
        rests: What a message is over between steps: the states on the second side, by the names of the first.
        reverse: Whether the last step comes first.
    """

    enters: Axes
    leaves: Axes
    gone: frozenset
    rests: Axes
    reverse: bool


@dataclasses.dataclass(frozen=True)
class Chain:
    """The states that a scan hands on.

    Attributes:
        scene: What is known of choices.
        sites: The choices whose last values are the state.
        past: For each, its name in the next step.
        length: Number of steps.
        reverse: Whether the scan goes from the last index to the first.
    """

    scene: Scene
    sites: tuple[Location, ...]
    past: Mapping[Location, Past]
    length: int
    reverse: bool

    @property
    def states(self) -> set:
        """The states before and after a step."""
        return {*self.sites, *self.past.values()}

    def sum(self, first: list[LogFactor], steps: list[LogFactor], leaves: bool) -> list[LogFactor]:
        """Sum over the states.

        Args:
            first: Factors of the first step.
            steps: Factors of all others, with an axis of steps where they vary.
            leaves: Whether the last state is used outside.

        Returns:
            Factors for the program outside.
        """
        aside = [self._over_steps(factor) for factor in steps if self.states.isdisjoint(factor.axes)]
        chain = [factor for factor in steps if not self.states.isdisjoint(factor.axes)]
        along = first if not self.sites else (self._forwards if leaves else self._backwards)(first, chain)
        return [dataclasses.replace(factor, varies=False, powers=None) for factor in [*aside, *along]]

    def _over_steps(self, factor: LogFactor) -> LogFactor:
        """Multiply a factor over all steps but the first."""
        raw = factor.raw.sum(0) if factor.varies else (self.length - 1) * factor.raw
        return dataclasses.replace(factor, raw=raw, varies=False)

    def _backwards(self, first: list[LogFactor], steps: list[LogFactor]) -> list[LogFactor]:
        found, aside = list(first), []
        if steps:
            outside = self._outside(steps)
            here = tuple(in_order((*outside, *self.sites)))
            before = tuple(self.past.get(axis, axis) for axis in here)
            course = Course(here, before, frozenset(self.sites), here, not self.reverse)
            message, aside = self._loop(course, steps, jnp.zeros(self.scene.shape(here, self._dims())))
            found.append(message)
        keep = {axis for factor in found for axis in factor.axes if axis not in self.sites}
        return [*self.scene.eliminate(found, keep), *aside]

    def _forwards(self, first: list[LogFactor], steps: list[LogFactor]) -> list[LogFactor]:
        if not steps:
            return first
        start = [factor for factor in first if not self.states.isdisjoint(factor.axes)]
        outside = self._outside([*start, *steps])
        here = tuple(in_order((*outside, *self.sites)))
        before = tuple(self.past.get(axis, axis) for axis in here)
        course = Course(before, here, frozenset(self.past.values()), here, self.reverse)
        message, aside = self._loop(course, steps, self._table(start, here))
        return [factor for factor in first if self.states.isdisjoint(factor.axes)] + [message, *aside]

    def _outside(self, factors: Iterable[LogFactor]) -> set:
        return {axis for factor in factors for axis in factor.axes} - self.states

    def _loop(self, course: Course, steps: list[LogFactor], init: Any) -> tuple[LogFactor, list[LogFactor]]:
        """Pass a message from step to step; return it, and factors over choices outside alone."""
        matrices = as_matrices(self.scene, course, steps, self._dims(), self.length - 1)
        if matrices is None:
            return self._by_logs(course, steps, init)
        self.scene.num_states(course.rests)
        exact = lambda: self._by_logs(course, steps, init)[0].raw
        init = init.astype(jnp.result_type(init, *(factor.raw.dtype for factor in steps)))
        return LogFactor(course.rests, self._dims(), matrices.message(init, self.scene.parallel, exact)), []

    def _by_logs(self, course: Course, steps: list[LogFactor], init: Any) -> tuple[LogFactor, list[LogFactor]]:
        """Pass a message in logarithms."""
        dtype = jnp.result_type(init, *(factor.raw.dtype for factor in steps))
        self.scene.num_states(course.rests)
        varying = [factor for factor in steps if factor.varies]
        fixed = [self._prepared(factor, course) for factor in steps if not factor.varies]
        aside: list[LogFactor] = []

        def step(message, raws):
            now = [dataclasses.replace(f, raw=raw, varies=False) for f, raw in zip(varying, raws, strict=True)]
            found = [*fixed, *now, LogFactor(course.enters, self._dims(), message)]
            keep = {axis for factor in found for axis in factor.axes} - course.gone
            left = self.scene.eliminate(found, keep)
            aside[:] = self.scene.merged([factor for factor in left if self.states.isdisjoint(factor.axes)])
            table = self._table([f for f in left if not self.states.isdisjoint(f.axes)], course.leaves)
            return table.astype(dtype), [factor.raw for factor in aside]

        body = jax.checkpoint(step, prevent_cse=False)  # Else its k^2 numbers would be kept for every step.
        raws = [factor.raw for factor in varying]
        message, emitted = lax.scan(body, init.astype(dtype), raws, self.length - 1, reverse=course.reverse)
        outside = [dataclasses.replace(f, raw=raw.sum(0)) for f, raw in zip(aside, emitted, strict=True)]
        return LogFactor(course.rests, self._dims(), message), outside

    @staticmethod
    def _prepared(factor: LogFactor, course: Course) -> LogFactor:
        large = len(course.gone) == 1 and factor.raw.size >= MATRIX_ELEMENTS
        return factor.prepared(next(iter(course.gone))) if large else factor

    def _dims(self) -> tuple[Dim, ...]:
        found = {self.scene.dims_of(site) for site in self.sites}
        if len(found) > 1:
            raise lanes_cross(self.scene.places[location_of(self.sites[0])])
        return found.pop()

    def _table(self, factors: Sequence[LogFactor], axes: Axes) -> Any:
        """Multiply factors into one table over some choices, and the lanes of the states."""
        dims = self._dims()
        reduced = [self.scene.reduced(self.scene.ordered(factor), dims) for factor in factors]
        if any(factor is None for factor in reduced):
            raise lanes_cross(self.scene.places[location_of(self.sites[0])])
        if not reduced:
            return jnp.zeros(self.scene.shape(axes, dims))
        order = tuple(in_order(axes))
        table = jnp.broadcast_to(self.scene.product(reduced, order, dims), self.scene.shape(order, dims))
        return jnp.moveaxis(table, range(len(order)), [axes.index(axis) for axis in order])
