"""Where the lanes of a choice lie in a value: per axis of the choice, an axis of the value, or all lanes at once.

A choice made by `vmap`, with a batch, or in a scan (seen from outside) is many independent choices, one for each index
of its axes. A value *follows* such an axis if its element at index i along one of its own axes depends on no other
choices than those in a window around i: on lane i alone ("same"), on lane i - 1 (values shifted by one step), on all
lanes up to i (a cumulative sum). Or all of it depends on the same few lanes *at* fixed places, as x[3] does.
"""

from __future__ import annotations

from collections.abc import Mapping

INF = 2**40
"""Further than any lane."""

Window = tuple[int, int, bool]
"""First and last lane, relative to the index, and whether the value has exactly one element for each lane."""

SAME: Window = (0, 0, True)
UPTO: Window = (-INF, 0, True)
FROM: Window = (0, INF, True)
BEFORE: Window = (-INF, -1, True)
AFTER: Window = (1, INF, True)

MAX_WIDTH = 8
"""Widest window that is kept: wider ones reach to the end."""

Relation = tuple[int | None, Window] | None
"""An axis of the value and the window of lanes around its index; None: every element depends on all lanes.

Where there is no axis, the window says which lanes, counted from the first, every element depends on.
"""

Position = tuple[Relation, ...]
"""One relation for each axis of the choice."""

AxisMap = Mapping[int, tuple[int | None, Window]]
"""For axes of an operand, the axis of the result that follows it, and how; others are mixed.

No axis: every element of the result looks at the same window of places along the operand's axis.
"""

FIRST: tuple[None, Window] = (None, (0, 0, False))
"""How an axis of size 1 reaches a result that has no such axis: every element looks at its first place."""


def shift(by: int) -> Window:
    """Return the window of a value whose element i is the operand's element i + by."""
    return (by, by, False)


def _bounded(first: int, last: int, exact: bool) -> Window | None:
    first, last = max(first, -INF), min(last, INF)
    if last - first > MAX_WIDTH:  # One that reaches to one end keeps its other side, be it finite.
        first, last = (-INF if first < 0 else first), (INF if last > 0 else last)
    return None if (first, last) == (-INF, INF) else (first, last, exact)


def hull(first: Window, second: Window) -> Window | None:
    """Return the window of what depends on lanes in two ways; None where that is all lanes."""
    return _bounded(min(first[0], second[0]), max(first[1], second[1]), first[2] and second[2])


def composed(inner: Window, outer: Window) -> Window | None:
    """Return the window of a value that looks at a window of what looks at a window of lanes."""
    return _bounded(inner[0] + outer[0], inner[1] + outer[1], inner[2] and outer[2])


def _relation(axis: int, window: Window | None) -> Relation:
    return None if window is None else (axis, window)


def _join(first: Relation, second: Relation) -> Relation:
    if first is None or second is None or first[0] != second[0]:
        return None
    return _relation(first[0], hull(first[1], second[1]))


def join(first: Position, second: Position) -> Position:
    """Return the position of what depends on a choice in two ways."""
    return tuple(map(_join, first, second))


def _through(relation: Relation, axes: AxisMap) -> Relation:
    if relation is not None and relation[0] is None:
        return relation
    if relation is None or relation[0] not in axes:
        return None
    axis, window = axes[relation[0]]
    return _relation(axis, composed(relation[1], window))


def through(position: Position, axes: AxisMap) -> Position:
    """Return the position in the result of an operation that maps axes like this."""
    return tuple(_through(relation, axes) for relation in position)


def shifted(position: Position, by: int) -> Position:
    """Return the position where the value has so many more leading axes; one that had the lost axis is mixed."""
    return tuple(_shifted(relation, by) for relation in position)


def _shifted(relation: Relation, by: int) -> Relation:
    if relation is None or relation[0] is None:
        return relation
    return None if relation[0] + by < 0 else (relation[0] + by, relation[1])


def resolution(position: Position) -> tuple:
    """Say how much a position tells: the window of each axis, wherever it lies, and whether it is at a fixed place."""
    return tuple(None if relation is None else (relation[0] is None, *relation[1][:2]) for relation in position)
