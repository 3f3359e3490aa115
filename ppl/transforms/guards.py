"""Identity functions that refuse to be differentiated: errors that fire where a nonzero tangent meets a choice."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from ppl._errors import PPLError, boundary

_found: list[list[PPLError]] = []


@contextlib.contextmanager
def refusals() -> Iterator[list[PPLError]]:
    """Collect the errors of derivatives that are refused, in place of raising them: for reports, which trace once."""
    _found.append([])
    try:
        yield _found[-1]
    finally:
        _found.pop()


def forbid_tangents(values: Sequence, error: Callable[[], PPLError]) -> list:
    """Return the values; a derivative taken with respect to any of them raises `error()`."""
    return [_forbid(value, error) if jnp.issubdtype(jnp.result_type(value), jnp.inexact) else value for value in values]


def _forbid(value, error):
    @jax.custom_jvp
    def identity(x):
        return x

    @boundary
    def rule(primals, tangents):
        if not isinstance(tangents[0], SymbolicZero):
            if not _found:
                raise error()
            _found[-1].append(error())
        return primals[0], tangents[0]

    identity.defjvp(rule, symbolic_zeros=True)
    return identity(value)
