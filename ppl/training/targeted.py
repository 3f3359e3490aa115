"""Objectives of the form loss(target(params)), whose gradient is wanted at the target and not at the parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from ppl._errors import PPLError, user_source
from ppl.training.inputs import as_count
from ppl.transforms import expect, seed, value_and_grad


@dataclasses.dataclass(frozen=True)
class Targeted:
    """An objective in two parts: a cheap target, and a dear, stochastic function of it.

    `maximize` and `minimize` differentiate it with respect to the target z = target(params, batch), and hand that to
    the optimizer, with all that it needs to move the parameters by itself:

        updates, state = optimizer.update(gradient at z, state, params, target_fn=, target_value_fn=, target_variance=)

    [`target_surrogate`][estimators.target_surrogate] is such an optimizer. Called, it is the plain objective.

    Args:
        target: Ordinary function `target(params, *batch)` that gives a pytree of inexact arrays.
        objective: Stochastic function `objective(z, *batch)` that gives a scalar.
        prepare: Stochastic function `prepare(params, *batch)`, asked once in a step for what takes the place of the
            batch: data collected under the present parameters. It is not differentiated.
        runs: Number of independent gradients that are averaged. From two on their variance is estimated, too.

    Raises:
        PPLError: If `runs` is no positive int.

    Example:
        >>> import jax.numpy as jnp
        >>> from ppl import normal
        >>> from ppl.training import Targeted
        >>> f = Targeted(lambda params: jnp.tanh(params), lambda z: jnp.sum((normal(z, 0.0).sample() - 1.0) ** 2))
        >>> f.target(jnp.zeros(2)).shape
        (2,)
    """

    target: Callable
    objective: Callable
    prepare: Callable | None = None
    runs: int = 1

    def __post_init__(self):
        as_count("runs", self.runs)

    def __call__(self, params: Any, *batch: Any) -> Any:
        """Return the objective, as a stochastic function of parameters and batch."""
        if self.prepare is not None:
            batch = (self.prepare(jax.lax.stop_gradient(params), *batch),)
        return self.objective(self.target(params, *batch), *batch)

    def gradient(self, key: jax.Array, whole: Callable, params: Any, batch: Any, sign: float) -> tuple:
        """Return the value, the gradient at the target, and what an optimizer is told besides, all to be descended.

        Args:
            key: Of this step.
            whole: Turns the trained leaves into all parameters.
            params: The trained leaves.
            batch: Of this step, or None.
            sign: 1 to climb, -1 to descend.
        """
        prepare_key, run_key = jr.split(key)
        args = () if batch is None else (batch,)
        if self.prepare is not None:
            args = (seed(self.prepare)(prepare_key, whole(params), *args),)
        arrays, static = eqx.partition(args, eqx.is_array)
        objective = lambda z, arrays: self.objective(z, *eqx.combine(arrays, static))
        target_fn = lambda params: self.target(whole(params), *args)
        keys = jr.split(run_key, self.runs)
        z = target_fn(params)
        values, grads = jax.vmap(lambda key: value_and_grad(objective)(key, z, arrays))(keys)
        mean = jax.tree.map(lambda grad: jnp.mean(grad, 0), grads)
        extra = {
            "target_fn": target_fn,
            "target_value_fn": lambda z: (
                -sign * jnp.mean(jax.vmap(lambda key: expect(objective)(key, z, arrays))(keys))
            ),
        }
        if self.runs > 1:
            extra["target_variance"] = jax.tree.map(lambda grad: jnp.var(grad, 0, ddof=1) / self.runs, grads)
        return jnp.mean(values), mean, extra


def check_updates(updates: Any, params: Any) -> None:
    """Refuse updates that are not like the parameters: the optimizer took the target's gradient for theirs."""
    shapes = lambda tree: [jnp.shape(leaf) for leaf in jax.tree.leaves(tree)]
    if jax.tree.structure(updates) != jax.tree.structure(params) or shapes(updates) != shapes(params):
        raise PPLError(
            "The optimizer of a `Targeted` objective gave updates that do not fit the parameters.",
            where=user_source(),
            expected=f"updates of shapes {shapes(params)}",
            got=f"updates of shapes {shapes(updates)}",
            remedy="use `estimators.target_surrogate`, or train a plain function instead of a `Targeted`",
        )
