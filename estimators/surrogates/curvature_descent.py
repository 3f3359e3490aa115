"""Descent with steps of 1 / (largest curvature), found anew for each function."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ppl import PPLError
from ppl._errors import user_source


class CurvatureState(NamedTuple):
    """Number of steps made, and the largest curvature at the first of them."""

    count: jax.Array
    curvature: jax.Array


def curvature_descent(iterations: int = 20, safety: float = 1.0) -> optax.GradientTransformationExtraArgs:
    """Make an inner optimiser that needs no learning rate: gradient steps of 1 / (safety * largest curvature).

    The largest eigenvalue in size of the second derivative is found once, where the descent starts, by power
    iteration from the gradient: one product of second derivative and vector for each iteration. For a model that is
    linear in its parameters it holds everywhere, and the surrogate never rises; power iteration finds too little
    rather than too much, and steps below 2 / curvature descend.

    Args:
        iterations: Number of power iterations.
        safety: By how much the curvature is overstated, for models that are not linear.

    Returns:
        The transformation; its `update` needs `value_fn`, which `target_surrogate` gives it.

    Raises:
        PPLError: `iterations` is no positive int, or `update` is called without `value_fn`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from estimators import curvature_descent
        >>> inner, f, x = curvature_descent(), lambda x: 3 * x**2, jnp.array(1.0)
        >>> updates, _ = inner.update(jax.grad(f)(x), inner.init(x), x, value_fn=f)
        >>> round(float(updates), 6)
        -1.0
    """
    if not isinstance(iterations, int) or isinstance(iterations, bool) or iterations < 1:
        raise PPLError("`curvature_descent` takes a positive number of iterations.", got=repr(iterations))

    def init(params: Any) -> CurvatureState:
        dtype = jnp.result_type(*jax.tree.leaves(params))
        return CurvatureState(jnp.zeros((), jnp.int32), jnp.ones((), dtype))

    def update(updates: Any, state: CurvatureState, params: Any = None, *, value_fn: Any = None, **_: Any) -> tuple:
        if value_fn is None or params is None:
            raise PPLError(
                "`curvature_descent` needs the function that it descends.",
                where=user_source(),
                remedy="call `update(grad, state, params, value_fn=f)`",
            )
        found = lambda: _largest(value_fn, params, updates, iterations).astype(state.curvature.dtype)
        curvature = jax.lax.cond(state.count == 0, found, lambda: state.curvature)
        steps = jax.tree.map(lambda g: -g / (safety * curvature).astype(g.dtype), updates)
        return steps, CurvatureState(state.count + 1, curvature)

    return optax.GradientTransformationExtraArgs(init, update)


def _largest(f: Any, params: Any, start: Any, iterations: int) -> jax.Array:
    tiny = jnp.finfo(jnp.result_type(*jax.tree.leaves(params))).tiny

    def product(_: Any, carry: tuple) -> tuple:
        vector, _ = carry
        image = jax.jvp(jax.grad(f), (params,), (vector,))[1]
        size = jnp.maximum(optax.tree.norm(image), tiny)
        return jax.tree.map(lambda x: x / size, image), size

    size = optax.tree.norm(start)
    unit = jax.tree.map(lambda g: g / jnp.maximum(size, tiny), start)
    return jax.lax.fori_loop(0, iterations, product, (unit, jnp.ones_like(size)))[1]
