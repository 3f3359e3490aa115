"""Rows that are equal but for the numbers in them are shown as one: "z0 ... z99"."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

GROUP = 4
"""Smallest number of rows that are shown as one."""

_Row = TypeVar("_Row")
_NUMBER = re.compile(r"\d+")


def pattern(text: str) -> str:
    """Return a text with its numbers left out."""
    return _NUMBER.sub("#", text)


def grouped(rows: Sequence[_Row], signature: Callable[[_Row], Hashable]) -> list[list[_Row]]:
    """Put rows of one signature together, at least `GROUP` of them; others stay alone. The order is that of the first.

    Args:
        rows: The rows.
        signature: What is equal in a group.
    """
    by_signature: dict[Hashable, list[_Row]] = {}
    for row in rows:
        by_signature.setdefault(signature(row), []).append(row)
    found, seen = [], set()
    for row in rows:
        group = by_signature[signature(row)]
        if len(group) < GROUP:
            found.append([row])
        elif signature(row) not in seen:
            seen.add(signature(row))
            found.append(group)
    return found


def span(texts: Sequence[str]) -> str:
    """Write several names as one: the only one, or the first and the last with dots between."""
    unique = list(dict.fromkeys(texts))
    return unique[0] if len(unique) == 1 else f"{unique[0]} ... {unique[-1]}"
