"""Steps within a step: plain descent of one fixed, cheap function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def descend(
    f: Callable, params: Any, optimizer: Any, opt_state: Any, steps: int, stop: Callable | None = None
) -> tuple[Any, Any, jax.Array]:
    """Make steps of an optax transformation on an ordinary function: no noise, no data, no record.

    The transformation is also told `value`, `grad` and `value_fn`, which line searches need.

    Args:
        f: Function of the parameters, to be descended.
        params: Where to start.
        optimizer: Descending optax transformation.
        opt_state: Its state.
        steps: Number of steps.
        stop: Asked after each step whether to end, as `stop(before, after)` with parameters. It makes the loop one of
            unknown length.

    Returns:
        Parameters, state, and the number of steps made.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from ppl.training import descend
        >>> halve = optax.sgd(0.25)
        >>> x, _, made = descend(lambda x: x**2, jnp.array(8.0), halve, halve.init(jnp.array(8.0)), 3)
        >>> float(x), int(made)
        (1.0, 3)
    """
    import optax

    optimizer = optax.with_extra_args_support(optimizer)

    def step(carry):
        params, opt_state, made, _ = carry
        value, grad = jax.value_and_grad(f)(params)
        updates, opt_state = optimizer.update(grad, opt_state, params, value=value, grad=grad, value_fn=f)
        moved = optax.apply_updates(params, updates)
        return moved, opt_state, made + 1, jnp.asarray(stop is not None and stop(params, moved))

    start = (params, opt_state, jnp.zeros((), jnp.int32), jnp.zeros((), bool))
    if steps == 1:  # no loop to be compiled
        return step(start)[:3]
    if stop is None:
        return jax.lax.fori_loop(0, steps, lambda _, carry: step(carry), start)[:3]
    return jax.lax.while_loop(lambda carry: (carry[2] < steps) & ~carry[3], step, start)[:3]
