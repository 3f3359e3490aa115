"""Identity functions that refuse to be differentiated: errors that fire where a nonzero tangent meets a choice."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from ppl._errors import PPLError, boundary
from ppl.refusals import refusals as refusals
from ppl.refusals import refuse_or_collect


def forbid_tangents(values: Sequence, error: Callable[[], PPLError | None]) -> list:
    """Return the values; a derivative taken with respect to any of them raises `error()`, unless that is None."""
    return [_forbid(value, error) if jnp.issubdtype(jnp.result_type(value), jnp.inexact) else value for value in values]


def _forbid(value, error):
    @jax.custom_jvp
    def identity(x):
        return x

    @boundary
    def rule(primals, tangents):
        found = None if isinstance(tangents[0], SymbolicZero) else error()
        if found is not None:
            refuse_or_collect(lambda: found)
        return primals[0], tangents[0]

    identity.defjvp(rule, symbolic_zeros=True)
    return identity(value)
