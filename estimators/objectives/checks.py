"""Checks of what objectives are made from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

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


def require_particles(usage: str, particles: Any, least: int = 1) -> None:
    """Refuse a number of particles that is not an int of at least `least`."""
    if not isinstance(particles, int) or isinstance(particles, bool) or particles < least:
        raise PPLError(
            f"`{usage}` takes a {'positive number' if least == 1 else f'number of at least {least}'} of particles.",
            where=user_source(),
            got=repr(particles),
            remedy=f"give an int of at least {least}",
        )


def require_number(usage: str, name: str, number: Any, expected: str, fits: Callable[[float], bool]) -> None:
    """Refuse what is not one real number, and a concrete one that does not fit; traced ones are not looked at."""
    traced = isinstance(number, jax.core.Tracer)
    plain = isinstance(number, int | float) and not isinstance(number, bool)
    scalar = plain or (hasattr(number, "dtype") and np.shape(number) == () and jnp.issubdtype(number.dtype, jnp.number))
    if not scalar or not (traced or fits(float(number))):
        raise PPLError(
            f"`{usage}` takes another `{name}`.",
            where=user_source(),
            expected=expected,
            got=repr(number),
            remedy=f"give {name} as {expected}",
        )
