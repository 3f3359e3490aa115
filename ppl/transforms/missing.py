"""Partly missing data under a density over a vector: the missing elements are unknowns, the others stay as given."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.tree_util import register_dataclass

from ppl._errors import AddressError, PPLError
from ppl.choicemap import Masked, Path, show
from ppl.interpreter import Place
from ppl.transforms.layout import trace_shape
from ppl.transforms.records import spread


@register_dataclass
@dataclasses.dataclass(frozen=True)
class Partly:
    """One choice, laid out as in the trace: `free` in unconstrained form, `value` as given where `mask` is True."""

    free: jax.Array
    value: jax.Array
    mask: jax.Array

    def complete(self, constrained: jax.Array) -> jax.Array:
        """Put what is given over values for all elements."""
        return over(self.mask, self.value, constrained)

    def where_missing(self, log_jacobian: jax.Array) -> jax.Array:
        """Leave out what belongs to given elements."""
        return jnp.where(spread(self.mask, log_jacobian.ndim), 0, log_jacobian)


def over(mask: Any, value: Any, other: Any) -> jax.Array:
    """Put a value over another where a mask over leading axes is True."""
    return jnp.where(spread(mask, jnp.ndim(value)), value, other)


@dataclasses.dataclass(frozen=True)
class Missing:
    """Which elements of a choice are missing.

    Attributes:
        value: What is given; anything where it is missing.
        mask: Where it is given, over leading axes; known when the density is built.
    """

    value: jax.Array
    mask: np.ndarray

    def shape(self, free: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the missing elements, from that of all in unconstrained form."""
        return (math.prod(self.mask.shape) - int(self.mask.sum()), *free[self.mask.ndim :])

    def fill(self, part: jax.Array, free: tuple[int, ...]) -> Partly:
        """Put missing elements in unconstrained form into their places; 0 stands for the others."""
        return Partly(
            jnp.zeros(free, part.dtype).at[np.nonzero(~self.mask)].set(part), self.value, jnp.asarray(self.mask)
        )

    def pick(self, free: jax.Array) -> jax.Array:
        """Take the missing elements out of all of them."""
        return free[np.nonzero(~self.mask)]


def partly_missing(path: Path, place: Place, leaf: Masked) -> Missing | jax.Array:
    """Sort out data under a mask: an array if nothing is missing."""
    where = f'"{show(path)}" at {place.eqn.params["source"]}'
    if isinstance(leaf.mask, Tracer):
        raise PPLError(
            f'Which elements are missing at "{show(path)}" is not known where the density is built.',
            where=where,
            expected="a concrete mask: it decides the length of the vector",
            got="a traced one",
            remedy="build the density outside of `jax.jit` and `jax.vmap`",
        )
    mask = np.asarray(leaf.mask)
    if mask.all():
        return leaf.value
    if leaf.value.shape != trace_shape(place):
        raise AddressError(
            f'Data with missing elements is given for all of a subsample at "{show(path)}".',
            where=where,
            expected=f"shape {trace_shape(place)}: the drawn elements",
            got=f"shape {leaf.value.shape}",
            remedy="take the rows of the observed indices",
        )
    return Missing(leaf.value, mask)
