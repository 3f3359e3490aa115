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
