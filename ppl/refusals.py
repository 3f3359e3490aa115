"""Derivatives that are refused: raised where they are met, or collected for a report."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from ppl._errors import PPLError

_found: list[list[PPLError]] = []


@contextlib.contextmanager
def refusals() -> Iterator[list[PPLError]]:
    """Collect the errors of derivatives that are refused, in place of raising them: for reports, which trace once."""
    _found.append([])
    try:
        yield _found[-1]
    finally:
        _found.pop()


def refuse_or_collect(error: Callable[[], PPLError]) -> None:
    """Raise an error; while a report is made, only note it."""
    if not _found:
        raise error()
    _found[-1].append(error())
