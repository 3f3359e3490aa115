"""The user's word that a value is a continuous function of the choices it was computed from."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from ppl._errors import PPLError, boundary, user_source
from ppl.primitives import continuous_p


@boundary
def assume_continuous(value: Any) -> Any:
    """Mark a value as a continuous function of the choices that it was computed from, whatever lies between.

    A pathwise gradient is unbiased only through continuous operations; comparisons on such values are refused. That the
    branches of a selection meet, as in `jnp.where(x > 0, x**2, 0.0)`, the analysis cannot see: this says so. It is the
    identity, also for derivatives, and leaves nothing in compiled code.

    Args:
        value: A pytree of float or complex arrays, of any shapes; or a function, all of whose results are marked.

    Returns:
        The same value, or the function with marked results.

    Raises:
        PPLError: A leaf is not of inexact type: integers and booleans are continuous only where they are constant.

    Example:
        >>> import jax, jax.numpy as jnp, ppl
        >>> def cost(loc):
        ...     x = ppl.normal(loc, 1.0).sample()
        ...     return ppl.assume_continuous(jnp.where(x > 0, x**2, 0.0))
        >>> bool(jnp.isfinite(ppl.grad(cost)(jax.random.key(0), 0.5)))
        True
    """
    if callable(value) and not isinstance(value, jax.Array):
        return _marked(value)
    return jax.tree.map(_mark, value)


def _marked(function):
    @functools.wraps(function, updated=())
    def marked(*args, **kwargs):
        return assume_continuous(function(*args, **kwargs))

    return marked


def _mark(leaf):
    leaf = jnp.asarray(leaf)
    if jnp.issubdtype(leaf.dtype, jnp.inexact):
        return continuous_p.bind(leaf)
    raise PPLError(
        "A value that is not of inexact type is marked as continuous.",
        where=user_source(),
        expected="float or complex arrays",
        got=f"{leaf.dtype} of shape {leaf.shape}",
        remedy="mark the float that is computed from it: `ppl.assume_continuous(jnp.where(x > 0, a, b))`",
    )
