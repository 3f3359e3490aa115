"""Steps of an optimizer inside another program: online inference, inner loops of nested optimisation."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Key

from ppl.training.step import as_arrays

if TYPE_CHECKING:
    import optax


def ascend(gradient: Callable, optimizer: optax.GradientTransformation, steps: int = 1) -> Callable:
    """Return `climb(key, params, opt_state) -> (params, opt_state)`: some steps uphill, traceable and vmappable.

    `ppl.maximize` is for training at the top of a program: it compiles, shows progress, skips what is not finite, saves
    and resumes. `ascend` is for training in the middle of one, under `jit`, `vmap` or in a `scan`, and does none of
    that.

    Args:
        gradient: `gradient(key, params)`, such as `ppl.grad(objective)`: a pytree like `params`, pointing uphill.
        optimizer: An optax transformation, whose `init` makes the first `opt_state` of the floating leaves of the
            parameters; other leaves, of an `equinox.Module` for instance, pass through.
        steps: How many. The key of step i of several is `fold_in(key, i)`; of a single one it is the key itself.

    Example:
        >>> import jax, optax
        >>> import jax.random as jr
        >>> import ppl
        >>> optimizer = optax.sgd(0.25)
        >>> climb = ascend(ppl.grad(lambda x: -((x - 3.0) ** 2)), optimizer, steps=20)
        >>> x, _ = jax.jit(climb)(jr.key(0), 0.0, optimizer.init(0.0))
        >>> round(float(x), 3)
        3.0
    """
    import optax

    def step(key: Key[Array, ""], params: Any, opt_state: Any) -> tuple[Any, Any]:
        moved, fixed = eqx.partition(params, eqx.is_inexact_array)
        downhill = jax.tree.map(jnp.negative, eqx.filter(gradient(key, params), eqx.is_inexact_array))
        updates, opt_state = optimizer.update(downhill, opt_state, moved)
        return eqx.combine(optax.apply_updates(moved, updates), fixed), opt_state

    def climb(key: Key[Array, ""], params: Any, opt_state: Any) -> tuple[Any, Any]:
        old = as_arrays((params, opt_state))
        if steps == 1:
            return step(key, *old)
        arrays, static = eqx.partition(old, eqx.is_array)

        def body(i, arrays):
            new = step(jr.fold_in(key, i), *eqx.combine(arrays, static))
            return eqx.filter(new, eqx.is_array)

        return eqx.combine(jax.lax.fori_loop(0, steps, body, arrays), static)

    return climb
