"""Factors of a sum, and their elimination: one choice at a time, the cheapest first, lanes apart.

A factor is a table of logarithms over the values of some choices, and over *dimensions*: lanes along which these
choices are many independent ones. Lanes of two choices that meet element by element in some factor are one dimension.
A choice is summed within each of its lanes; then what remains is multiplied over the lanes that no choice in it has any
more (plates: Obermeyer et al. 2019, section 3). With that, n points with k values cost n k.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from ppl.analysis.dependence import Deps, Location, in_order, location_of, site_shape
from ppl.analysis.positions import SAME
from ppl.interpreter import Place
from ppl.summation.logs import log_product, log_sum_exp, powers
from ppl.summation.refusals import lanes_cross, too_large
from ppl.transforms.axes import Axes, Val

Dim = tuple[Location, int]
"""An axis of a choice: its location, and the number of the axis of lanes and batch, counted from the last."""


@dataclasses.dataclass(frozen=True)
class LogFactor:
    """A table of logarithms.

    Attributes:
        axes: The choices over whose values it has one leading axis each, in order.
        dims: Dimensions, one axis each, in order; every choice has all of its own among them.
        raw: The numbers.
        varies: Within a scan: whether it differs from step to step.
        powers: Its exponentials, prepared for sums over one of its choices: that choice, the table, its shift.
    """

    axes: Axes
    dims: tuple[Dim, ...]
    raw: Any
    varies: bool = False
    powers: tuple[Any, Any, Any] | None = None

    def prepared(self, axis: Any) -> LogFactor:
        """Return the same factor with its exponentials, for sums over one of its choices that are made repeatedly."""
        if self.dims or axis not in self.axes or len(self.axes) == 1:
            return self
        return dataclasses.replace(self, powers=(axis, *powers(self.raw, self.axes.index(axis))))


class Scene:
    """What is known of choices that are summed: their numbers of values, and which of their lanes are one dimension.

    Args:
        places: The choices.
        joint: For each, the axes over whose elements it is summed jointly: they are no dimensions.
        sizes: The number of joint values of each, by choice; filled while the program is evaluated.
        max_states: Largest number of joint values that are summed at once.
        parallel: Whether chains are multiplied as trees; None: as the device likes it.
    """

    def __init__(
        self, places: Mapping[Location, Place], joint: Mapping, sizes: dict, max_states: int, parallel: bool | None
    ):
        self.places, self.joint, self.sizes, self.max_states = places, joint, sizes, max_states
        self.parallel = parallel
        self._parents: dict[Dim, Dim] = {}
        self._lengths: dict[Dim, int] = {}

    # Dimensions.
    def find(self, dim: Dim) -> Dim:
        """Return what stands for all that are one dimension with this."""
        while dim in self._parents:
            dim = self._parents[dim]
        return dim

    def dims_of(self, axis: Any) -> tuple[Dim, ...]:
        """Return the dimensions of a choice."""
        return tuple(sorted(self.find(dim) for dim in self._own(location_of(axis))))

    def _own(self, site: Location) -> list[Dim]:
        shape = site_shape(self.places[site].eqn)
        own = [(site, i - len(shape)) for i, size in enumerate(shape) if size > 1 and i not in self.joint[site]]
        self._lengths.update((dim, shape[dim[1]]) for dim in own)
        return own

    def length(self, dim: Dim) -> int:
        """Return the number of lanes of a dimension."""
        return self._lengths[dim]

    def factor(self, val: Val, deps: Deps) -> LogFactor:
        """Make a factor of an array of log densities, given where the lanes of choices lie in it.

        Elements along an axis that no choice follows are multiplied.
        """
        lead, raw = len(val.axes), jnp.asarray(val.raw)
        links: dict[int, Dim] = {}
        for axis in val.axes:
            position = deps[axis]
            for dim in self._own(location_of(axis)):
                at, window = position[dim[1]]
                assert window == SAME, "A lane that some factor mixes is summed jointly."
                links[at] = self._unite(links[at], dim) if at in links else self.find(dim)
        links = {at: self.find(dim) for at, dim in links.items()}
        if len({*links.values()}) < len(links):
            raise lanes_cross(self.places[location_of(val.axes[-1])])
        free = [lead + at for at in range(raw.ndim - lead) if at not in links]
        raw = raw.sum(free) if free else raw
        return self.ordered(LogFactor(val.axes, tuple(links[at] for at in sorted(links)), raw))

    def _unite(self, first: Dim, second: Dim) -> Dim:
        first, second = sorted((self.find(first), self.find(second)))
        if first != second:
            self._parents[second] = first
        return first

    def ordered(self, factor: LogFactor) -> LogFactor:
        """Sort the axes and dimensions of a factor, under the names that they have by now."""
        dims = [self.find(dim) for dim in factor.dims]
        if len({*dims}) < len(dims):
            raise lanes_cross(self.places[location_of(factor.axes[-1])])
        axes, lead = in_order(factor.axes), len(factor.axes)
        order = [factor.axes.index(axis) for axis in axes] + [lead + dims.index(dim) for dim in sorted(dims)]
        if order == sorted(order) and tuple(dims) == factor.dims:
            return factor
        raw = factor.raw if order == sorted(order) else jnp.transpose(factor.raw, order)
        return dataclasses.replace(factor, axes=tuple(axes), dims=tuple(sorted(dims)), raw=raw)

    # Sums.
    def num_states(self, axes: Iterable[Any]) -> float:
        """Return the number of joint values of some choices; refuse too many."""
        axes = list(axes)
        states = math.prod(float(self.sizes[axis]) for axis in axes)
        if states > self.max_states:
            raise too_large([self.places[location_of(axis)] for axis in axes], states, self.max_states)
        return states

    def reduced(self, factor: LogFactor, dims: Sequence[Dim]) -> LogFactor | None:
        """Multiply a factor over its other dimensions; None, if one of its choices has one of them."""
        extra = [dim for dim in factor.dims if dim not in dims]
        if not extra:
            return factor
        if any(dim in self.dims_of(axis) for axis in factor.axes for dim in extra):
            return None
        raw = factor.raw.sum([len(factor.axes) + factor.dims.index(dim) for dim in extra])
        return dataclasses.replace(factor, dims=tuple(dim for dim in factor.dims if dim in dims), raw=raw)

    def product(self, factors: Sequence[LogFactor], axes: Axes, dims: tuple[Dim, ...]) -> Any:
        """Add logarithms up over these choices and dimensions; small tables first. The result broadcasts to both."""
        raws = []
        for factor in factors:
            lead = len(factor.axes)
            missing = [i for i, axis in enumerate(axes) if axis not in factor.axes]
            missing += [len(axes) + i for i, dim in enumerate(dims) if dim not in factor.dims]
            assert factor.raw.ndim == lead + len(factor.dims)
            raws.append(jnp.expand_dims(factor.raw, missing) if missing else factor.raw)
        return functools.reduce(jnp.add, sorted(raws, key=lambda raw: raw.size))

    def shape(self, axes: Axes, dims: Sequence[Dim]) -> tuple[int, ...]:
        """Return the shape of a table over choices and dimensions."""
        return (*(int(self.sizes[axis]) for axis in axes), *(self.length(dim) for dim in dims))

    def eliminate(self, factors: Sequence[LogFactor], keep: Iterable[Any] = ()) -> list[LogFactor]:
        """Sum a product of factors over all choices but those to keep."""
        left, keep = [self.ordered(factor) for factor in factors], {*keep}
        while gone := dict.fromkeys(axis for factor in left for axis in factor.axes if axis not in keep):
            options = [option for axis in gone if (option := self._option(axis, left)) is not None]
            if not options:
                raise lanes_cross(self.places[location_of(next(iter(gone)))])
            _, axis, group, others, joint = min(options, key=lambda option: option[0])
            self.num_states(joint)
            left = [*others, self._summed(axis, group, joint)]
        return left

    def _option(self, axis: Any, left: Sequence[LogFactor]):
        """Say what summing over a choice would cost and meet; None, if lanes of other choices have to go before."""
        dims = self.dims_of(axis)
        group = [self.reduced(factor, dims) for factor in left if axis in factor.axes]
        if any(factor is None for factor in group):
            return None
        joint = tuple(in_order({other for factor in group for other in factor.axes}))
        others = [factor for factor in left if axis not in factor.axes]
        return math.prod(float(self.sizes[other]) for other in joint), axis, group, others, joint

    def _summed(self, axis: Any, group: Sequence[LogFactor], joint: Axes) -> LogFactor:
        dims, at = self.dims_of(axis), joint.index(axis)
        raw = self._by_powers(axis, group, joint)
        raw = log_sum_exp(self.product(group, joint, dims), at) if raw is None else raw
        rest = (*joint[:at], *joint[at + 1 :])
        return LogFactor(rest, dims, raw, any(factor.varies for factor in group))

    def _by_powers(self, axis: Any, group: Sequence[LogFactor], joint: Axes) -> Any:
        """Sum by a matrix product, if the exponentials of the largest factor are at hand; else return None."""
        ready = [factor for factor in group if factor.powers is not None and factor.powers[0] == axis]
        others = [factor for factor in group if all(factor is not one for one in ready)]
        if len(ready) != 1 or not others or ready[0].axes != joint or {*joint} == {a for f in others for a in f.axes}:
            return None
        at, exact = joint.index(axis), lambda: log_sum_exp(self.product(group, joint, ()), joint.index(axis))
        return log_product(ready[0].powers[1:], self.product(others, joint, ()), at, exact)

    def merged(self, factors: Sequence[LogFactor]) -> list[LogFactor]:
        """Add up factors over the same choices and dimensions."""
        groups: dict[Any, list[LogFactor]] = {}
        for factor in factors:
            groups.setdefault((factor.axes, factor.dims, factor.varies), []).append(factor)
        return [
            group[0]
            if len(group) == 1
            else dataclasses.replace(group[0], raw=functools.reduce(jnp.add, [one.raw for one in group]))
            for group in groups.values()
        ]

    def total(self, factors: Sequence[LogFactor]) -> Any:
        """Multiply factors that are over no choice any more."""
        return functools.reduce(jnp.add, [jnp.sum(factor.raw) for factor in factors]) if factors else jnp.zeros(())
