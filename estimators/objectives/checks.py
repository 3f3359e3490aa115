"""Checks of what objectives are made from."""

from __future__ import annotations

from typing import Any

from ppl import GenerativeFunction, PPLError
from ppl._errors import user_source


def require_programs(usage: str, **programs: Any) -> None:
    """Refuse a model or guide that is not a generative function."""
    for role, program in programs.items():
        if not isinstance(program, GenerativeFunction):
            raise PPLError(
                f"`{usage}` takes generative functions.",
                where=user_source(),
                expected=f"a `{role}` made by `@gen`",
                got=f"{program!r}",
                remedy=f"decorate the {role} with `@gen`",
            )


def require_particles(usage: str, particles: Any) -> None:
    """Refuse a number of particles that is not a positive int."""
    if not isinstance(particles, int) or isinstance(particles, bool) or particles < 1:
        raise PPLError(
            f"`{usage}` takes a positive number of particles.",
            where=user_source(),
            got=repr(particles),
            remedy="give an int of at least 1",
        )
