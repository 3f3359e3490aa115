"""What a program may do besides choosing: weigh a run, and ask for a key."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from ppl._errors import boundary, user_source
from ppl.choice import Pending, as_path, note_pending
from ppl.choicemap import show
from ppl.primitives import bind_choice, factor_p
from ppl.specs import fresh_key_spec
from ppl.strategies import pathwise


class Factor(Pending):
    """An unnormalised factor about to be put under an address."""

    noun = "factor"

    def __init__(self, log_weight: Any):
        self.log_weight, self.source, self.used = jnp.asarray(log_weight), user_source(), False
        note_pending(self)

    def __repr__(self) -> str:
        return "factor(...)"

    @boundary
    def __matmul__(self, address: Any) -> None:
        """Multiply the density of the program by exp(log_weight)."""
        self.used = True
        path = as_path(address)
        weight = self.log_weight
        weight = weight if jnp.issubdtype(weight.dtype, jnp.inexact) else weight.astype(jnp.result_type(float))
        factor_p.bind(weight, address=path, label=show(path), source=self.source)


def factor(log_weight: Any) -> Factor:
    """Make an unnormalised factor: `factor(w) @ "a"` adds w to the log density of the program.

    Args:
        log_weight: The log weight; an array is summed. In a `vmap` or `scan` it counts once per lane and step.

    Returns:
        The factor, to be put under an address with `@`. It has no entry in the choices. A generative function that has
        one is unnormalised: `simulate` refuses it.

    Example:
        >>> import ppl
        >>> @ppl.gen
        ... def tilted():
        ...     z = ppl.normal(0.0, 1.0) @ "z"
        ...     ppl.factor(3.0 * z) @ "tilt"
        >>> round(float(tilted.log_density({"z": 1.0})), 4)
        1.5811
    """
    return Factor(log_weight)


def fresh_key() -> jax.Array:
    """Return a key inside a program: without density, without a place in the trace, new in every lane and step.

    For randomness that is not a choice: Brownian trees, dropout, sampled matrix products.

    Example:
        >>> import jax, ppl
        >>> noisy = ppl.seed(lambda x: x + jax.random.normal(ppl.fresh_key()))
        >>> noisy(jax.random.key(0), 1.0).shape
        ()
    """
    source = user_source()
    (key,) = bind_choice([], spec=fresh_key_spec(), address=None, label="fresh_key", strategy=pathwise(), source=source)
    return key
