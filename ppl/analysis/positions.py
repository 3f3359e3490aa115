"""Where the lanes of a choice lie in a value: per axis of the choice, an axis of the value, or all lanes at once.

A choice made by `vmap`, with a batch, or in a scan (seen from outside) is many independent choices, one for each index
of its axes. A value is *aligned* with such an axis if its element at index i along one of its own axes depends on no
other choices than those at i ("same"), up to i ("upto", as a cumulative sum does) or from i on ("from").
"""

from __future__ import annotations

from collections.abc import Mapping

SAME, UPTO, FROM = "same", "upto", "from"

Relation = tuple[int, str] | None
"""An axis of the value and how it follows the axis of the choice; None: every element depends on all lanes."""

Position = tuple[Relation, ...]
"""One relation for each axis of the choice."""

AxisMap = Mapping[int, tuple[int, str]]
"""For axes of an operand, the axis of the result that follows it, and how; others are mixed."""


def combined(first: str, second: str) -> str | None:
    """Return the kind of what follows an axis in both ways; None where that is all lanes."""
    kinds = {first, second} - {SAME}
    return None if len(kinds) > 1 else kinds.pop() if kinds else SAME


def _join(first: Relation, second: Relation) -> Relation:
    if first is None or second is None or first[0] != second[0]:
        return None
    kind = combined(first[1], second[1])
    return None if kind is None else (first[0], kind)


def join(first: Position, second: Position) -> Position:
    """Return the position of what depends on a choice in two ways."""
    return tuple(map(_join, first, second))


def _through(relation: Relation, axes: AxisMap) -> Relation:
    if relation is None or relation[0] not in axes:
        return None
    axis, kind = axes[relation[0]]
    both = combined(relation[1], kind)
    return None if both is None else (axis, both)


def through(position: Position, axes: AxisMap) -> Position:
    """Return the position in the result of an operation that maps axes like this."""
    return tuple(_through(relation, axes) for relation in position)


def shifted(position: Position, by: int) -> Position:
    """Return the position where the value has so many more leading axes; one that had the lost axis is mixed."""
    return tuple(
        None if relation is None or relation[0] + by < 0 else (relation[0] + by, relation[1]) for relation in position
    )


def resolution(position: Position) -> int:
    """Count how much a position tells: more is finer."""
    return sum(0 if relation is None else 2 if relation[1] == SAME else 1 for relation in position)
