"""The size of a setting, and one step of it where its fits would take days."""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Key

import ppl
from models import data
from models.air.canvases import paste
from models.air.networks import Networks
from models.air.objectives import objective_of, of_batch

if TYPE_CHECKING:
    from models.air.program import Config


def initial(config: "Config", key: Key[Array, ""]) -> Networks:
    """Draw the initial weights."""
    return Networks(config.side, config.window, config.code, config.recurrent, config.hidden, key)


def sizes(config: "Config") -> dict[str, float]:
    """Return the number of weights, and operations of a step's matrix products; nothing is run.

    A step is value and gradient of the first strategy's objective for a batch.
    """
    params = jax.eval_shape(lambda: initial(config, jr.key(0)))
    images = jax.ShapeDtypeStruct((config.batch_size, config.side, config.side), jnp.float32)
    step = ppl.value_and_grad(of_batch(objective_of(config.strategies[0], config.steps_of_guide)))
    counted = ppl.reports.costs(step)(jr.key(0), params, images)
    weights = sum(leaf.size for leaf in jax.tree.leaves(params))
    return {"parameters": float(weights), "step_matmul_gflop": counted.matmul_flops / 1e9}


def one_step(config: "Config", key: Key[Array, ""]) -> dict[str, float]:
    """Make one value and gradient for one canvas, by the first strategy.

    Returns:
        The value, the gradient's norm, and whether the canvas is of real digits: where those of the setting were not
        fetched, it is noise of the same shape.

    Raises:
        FloatingPointError: Value or gradient is not finite.
    """
    images, real = _canvas(config)
    step = jax.jit(ppl.value_and_grad(of_batch(objective_of(config.strategies[0], config.steps_of_guide))))
    value, gradient = step(key, initial(config, key), images)
    norm = float(jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradient))))
    if not np.isfinite([float(value), norm]).all():
        raise FloatingPointError(f"The step's value is {value}, its gradient's norm {norm}.")
    return {"step_value": float(value), "step_gradient_norm": norm, "real_canvas": float(real)}


def _canvas(config: "Config") -> tuple[Float[Array, "1 side side"], bool]:
    try:
        digits = data.DIGITS[config.dataset]().train
    except data.DataError:
        return jr.uniform(jr.key(0), (1, config.side, config.side)), False
    made = paste(digits, 1, side=config.side, shrink=config.shrink, most=config.digits, seed=0)
    return jnp.asarray(made.images), True
