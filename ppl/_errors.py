"""Errors of the language: each says what is wrong, where, what was expected and got, and what to do."""

from __future__ import annotations

import contextlib
import functools
import sys
import types
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import TypeVar

import jax

_F = TypeVar("_F", bound=Callable)
_JAX_FOLDER = str(Path(jax.__file__).parent)
_OWN_FOLDERS = (str(Path(__file__).parent), str(Path(__file__).parent.parent / "estimators"))


class PPLError(Exception):
    """Base class of every error that this library raises on purpose.

    Args:
        what: One sentence that says what is wrong.
        where: Address and source line of the choice or call at fault.
        expected: What would have been right.
        got: What was found instead.
        remedy: What to do about it.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        expected: str | None = None,
        got: str | None = None,
        remedy: str | None = None,
    ):
        details = {"where": where, "expected": expected, "got": got, "remedy": remedy}
        self.what, self.details = what, {name: text for name, text in details.items() if text}
        super().__init__("\n".join([what, *(f"  {name}: {text}" for name, text in self.details.items())]))


class AddressError(PPLError, KeyError):
    """A choice is missing, unknown, duplicated, misspelt, never addressed or has the wrong shape."""

    __str__ = Exception.__str__  # KeyError would print the repr of the message.


class UnsoundGradientError(PPLError, ValueError):
    """The requested strategy would give a biased gradient here."""


class StrategyError(PPLError, ValueError):
    """A choice has no strategy, or one that does not apply to it."""


class ControlFlowError(PPLError, ValueError):
    """A random choice stands in a construct in which it has no meaning."""


class SupportError(PPLError, ValueError):
    """A given value lies outside the support of its distribution."""


def closest(name: str, known: Iterable[str]) -> str | None:
    """Return the closest of the known names, if one is close."""
    return next(iter(get_close_matches(name, list(known), n=1, cutoff=0.4)), None)


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """Return a hint that names the closest of the known names, if one is close."""
    close = closest(name, known)
    return f'did you mean "{close}"?' if close else None


def is_own_file(name: str) -> bool:
    """Tell whether a file is one of this library's or of JAX's."""
    return name.startswith((_JAX_FOLDER, *_OWN_FOLDERS)) or name.startswith("<")


def _is_internal(frame: types.FrameType) -> bool:
    file = frame.f_code.co_filename
    return file.startswith((_JAX_FOLDER, *_OWN_FOLDERS)) or file == contextlib.__file__  # JAX decorates with contexts.


def user_source() -> str:
    """Return file and line of the innermost frame outside this package and JAX."""
    frame = sys._getframe(1)
    while frame is not None:
        if not _is_internal(frame) and not frame.f_code.co_filename.startswith("<"):
            return f"{frame.f_code.co_filename}:{frame.f_lineno}"
        frame = frame.f_back
    return "unknown source"


def _user_frames(traceback: types.TracebackType | None) -> types.TracebackType | None:
    """Rebuild a traceback from the frames that are neither JAX's nor ours."""
    frames = []
    while traceback is not None:
        if not _is_internal(traceback.tb_frame):
            frames.append(traceback)
        traceback = traceback.tb_next
    rebuilt = None
    for entry in reversed(frames):
        rebuilt = types.TracebackType(rebuilt, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    return rebuilt


def innermost_user_source(error: BaseException) -> str:
    """Return file and line of the innermost frame of an error outside this package and JAX."""
    traceback = _user_frames(error.__traceback__)
    if traceback is None:
        return "unknown source"
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    return f"{traceback.tb_frame.f_code.co_filename}:{traceback.tb_lineno}"


def boundary(function: _F) -> _F:
    """Raise this library's errors from `function` with the user's own frames only."""

    @functools.wraps(function)
    def guarded(*args, **kwargs):
        try:
            return function(*args, **kwargs)
        except PPLError as error:
            error.__cause__, error.__suppress_context__ = None, True
            error.__notes__ = []
            error.__traceback__ = _user_frames(error.__traceback__)
            raise  # Raised again by name, it would gain this frame.

    return guarded  # type: ignore[return-value]
