"""Joint values of enumerated choices that a value cannot tell apart are evaluated once.

A coin that is tossed only if all before it said yes has 2**n joint values, of which n + 1 differ. What is computed from
such coins is kept for each class of joint values that agree on everything it was computed from: on predicates, known
when the program is traced, and on the classes of what it was computed from before.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ppl.analysis.demand import Known, States
from ppl.analysis.dependence import in_order
from ppl.transforms.axes import Val

LEAST = 256
"""Fewest elements of a value, for one joint value of the choices, for which classes are worth while."""


@dataclasses.dataclass(frozen=True, eq=False)
class Classes:
    """The one leading axis of a value that is kept by class.

    Attributes:
        sites: Enumerated choices, sorted.
        index: The class of each of their joint values, one axis for each of them.
    """

    sites: tuple[Any, ...]
    index: np.ndarray

    @property
    def first(self) -> np.ndarray:
        """Return one joint value of each class: an array of shape (classes, sites)."""
        _, places = np.unique(self.index.ravel(), return_index=True)
        return np.stack(np.unravel_index(places, self.index.shape), axis=-1)


def classes_of(val: Val) -> Classes | None:
    """Return the classes by which a value is kept, if it is."""
    return val.axes[0] if val.axes and isinstance(val.axes[0], Classes) else None


def at(val: Val, states: States) -> Val:
    """Return a value kept by classes, at given states of some of the choices."""
    classes = classes_of(val)
    if classes is None or not any(site in states for site in classes.sites):
        return val
    index = classes.index[tuple(states.get(site, slice(None)) for site in classes.sites)]
    kept, inverse = np.unique(index, return_inverse=True)
    sites = tuple(site for site in classes.sites if site not in states)
    raw = _rows(val.raw, [(int(row),) for row in kept])
    if not sites or len(kept) == 1:
        return dataclasses.replace(val, raw=raw[0], axes=())
    return dataclasses.replace(val, raw=raw, axes=(Classes(sites, inverse.reshape(index.shape)),))


def by_choice(val: Val) -> Val:
    """Give a value kept by classes an axis for each choice again."""
    classes = classes_of(val)
    if classes is None:
        return val
    return dataclasses.replace(val, raw=jnp.take(val.raw, classes.index, axis=0), axes=classes.sites)


def evaluate_by_class(
    function: Callable, vals: Sequence[Val], known: Sequence[Known | None], sizes: Mapping, elements: int, selects: bool
) -> tuple[list, Classes] | None:
    """Evaluate a function of raw values once for each class of joint values; None, where there is nothing to gain.

    Args:
        function: Takes raw values, returns a list of arrays.
        vals: Its operands.
        known: What is known of them when the program is traced.
        sizes: Number of values of each enumerated choice.
        elements: Of the largest result, for one joint value.
        selects: Whether the first operand says which of the others is the result.
    """
    sites = tuple(in_order({site for val in vals for site in _sites(val)}))
    is_kept = any(classes_of(val) is not None for val in vals)
    selects = selects and known[0] is not None and known[0].sites == _sites(vals[0]) != ()
    if not is_kept and (len(sites) < 2 - selects or elements < LEAST or not _are_locations(sites)):
        return None
    shape = tuple(sizes[site] for site in sites)
    parts = [_part(val, table, sites, sizes) for val, table in zip(vals, known, strict=True)]
    if selects:
        which = np.broadcast_to(known[0].over(sites), shape)
        parts = [which, *(np.where(which == case, part, 0) for case, part in enumerate(parts[1:]))]
    index = np.zeros(shape, int)
    for part in parts:
        index = np.unique(index * (part.max() + 1) + part, return_inverse=True)[1].reshape(shape)
    classes = Classes(sites, index)
    if not (is_kept or selects) and index.max() + 1 > math.prod(shape) / 2 + 1:
        return None
    if selects:
        cases = [int(which[tuple(row)]) for row in classes.first]
        return [_picked(vals[1:], cases, classes)], classes
    gathered = [_gathered(val, classes) for val in vals]
    in_axes = [0 if val.axes else None for val in vals]
    return jax.vmap(function, in_axes=in_axes)(*gathered), classes


def _are_locations(sites: Sequence) -> bool:
    return all(isinstance(site, tuple) for site in sites)


def _sites(val: Val) -> tuple:
    classes = classes_of(val)
    return val.axes if classes is None else classes.sites


def _part(val: Val, known: Known | None, sites: Sequence, sizes: Mapping) -> np.ndarray:
    """Say which joint values of some choices a value tells apart: an array with an axis for each choice."""
    own, classes = _sites(val), classes_of(val)
    shape = [sizes[site] if site in own else 1 for site in sites]
    if classes is not None:
        return classes.index.reshape(shape)
    if known is not None and known.sites == own:
        return np.unique(known.table, return_inverse=True)[1].reshape(shape)
    return np.arange(math.prod(shape)).reshape(shape)


def _gathered(val: Val, classes: Classes):
    """Return a value for one joint value of each class."""
    return _rows(val.raw, _places(val, classes)) if val.axes else val.raw


def _places(val: Val, classes: Classes) -> list[tuple[int, ...]]:
    """Say where a value has what belongs to each class."""
    own = classes_of(val)
    columns = [classes.sites.index(site) for site in _sites(val)]
    states = [tuple(int(row[column]) for column in columns) for row in classes.first]
    return states if own is None else [(int(own.index[state]),) for state in states]


def _picked(vals: Sequence[Val], cases: Sequence[int], classes: Classes):
    """Stack what a predicate that is known selects for each class."""
    places = [_places(val, classes) for val in vals]
    if len({*cases}) == 1:
        return _rows(vals[cases[0]].raw, places[cases[0]])
    rows = [vals[case].raw[places[case][row]] if vals[case].axes else vals[case].raw for row, case in enumerate(cases)]
    return jnp.stack(rows)


def _rows(raw, places: Sequence[tuple[int, ...]]):
    """Stack what lies at some places of the leading axes; all of them in order are the array as it is."""
    lead = len(places[0])
    if lead == 1 and [place[0] for place in places] == list(range(raw.shape[0])):
        return raw
    return (np if isinstance(raw, np.ndarray) else jnp).stack([raw[place] for place in places])
