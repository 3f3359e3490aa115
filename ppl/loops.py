"""Loops with a random number of steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ppl._errors import ControlFlowError, boundary, user_source


@boundary
def while_loop(cond: Callable[[Any], Any], body: Callable[[Any], Any], init: Any, max_steps: int) -> Any:
    """Run `body` while `cond` holds, at most `max_steps` times; both may make random choices of their own.

    Choices inside have a leading axis of `max_steps` and are `Masked` where the loop has ended. A loop that is cut off
    at `max_steps` is a different program, so choose it large: the mass that is cut off is the probability that `cond`
    still holds of the result, which `while_loop(...)` lets the caller see (`cond(carry)`).

    Args:
        cond: Maps the carry to a boolean.
        body: Maps the carry to the next one, of the same structure.
        init: The first carry.
        max_steps: A static bound.

    Returns:
        The last carry.

    Raises:
        ControlFlowError: `max_steps` is not a non-negative int.

    Example:
        >>> import jax, ppl
        >>> def trials(p):  # the number of failures before the first success
        ...     def step(state):
        ...         return state[0] + 1.0, ppl.bernoulli(p).sample()
        ...     return ppl.while_loop(lambda state: state[1] == 0, step, (0.0, 0), max_steps=50)[0]
        >>> ppl.seed(trials)(jax.random.key(0), 0.5).shape
        ()
    """
    if not isinstance(max_steps, int) or isinstance(max_steps, bool) or max_steps < 0:
        raise ControlFlowError(
            "`while_loop` needs a static bound on its steps.",
            where=user_source(),
            expected="`max_steps`, a non-negative int",
            got=repr(max_steps),
        )
    init = jax.tree.map(jnp.asarray, init)
    init = jax.tree.map(_promoted, init, jax.eval_shape(body, init))

    def step(state, _):
        carry, alive = state
        alive = alive & cond(carry)
        carry = jax.lax.cond(alive, body, lambda same: same, carry)
        return (carry, alive), None

    (carry, _), _ = jax.lax.scan(step, (init, jnp.asarray(True)), None, length=max_steps)
    return carry


def _promoted(start: jax.Array, after: jax.ShapeDtypeStruct) -> jax.Array:
    """Give a Python number in the first carry the type that the body returns, as `lax.while_loop` does."""
    return start.astype(after.dtype) if jax.typeof(start).weak_type else start
