"""The paper's own scale: how large it is, and one step of it, which shows that it fits and runs."""

import time
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float

import ppl
from models import data
from models.fractional_sde.video import Video, VideoConfig, movies_of, of_batch, task_of
from models.registry import Context
from models.report import Outcome


def parameters_of(params: Video) -> int:
    """Count what is trained."""
    return sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(params, eqx.is_inexact_array)))


def step_of(config: VideoConfig, *, memory: bool) -> Callable:
    """Return the step's value and gradient, of `(key, params, movies)`."""
    return ppl.value_and_grad(of_batch(task_of(config, config.frames, memory=memory)))


def abstract(config: VideoConfig, batch: int, *, memory: bool) -> tuple:
    """Return the shapes of a step's arguments."""
    params = eqx.filter_eval_shape(lambda: Video(config, memory, jr.key(0)))
    shape = batch, config.frames, config.side, config.side
    movies = jax.ShapeDtypeStruct(shape, jnp.result_type(float))
    return jr.key(0), params, movies


def one_movie(config: VideoConfig) -> tuple[Float[Array, "1 t side side"], str]:
    """Return one movie of MNIST digits if they were fetched, or else noise of the same shape; and which."""
    try:
        few = VideoConfig(**{**config.__dict__, "movies": 1, "held_out": 1})
        return jnp.asarray(movies_of(few)[0], jnp.result_type(float)), "MNIST"
    except data.DataError:
        random = np.random.default_rng(0)
        shape = 1, config.frames, config.side, config.side
        return jnp.asarray(
            random.random(shape), jnp.result_type(float)
        ), "arrays of the same shape (MNIST was not fetched)"


def one_step(config: VideoConfig, context: Context) -> Outcome:
    """Print parameters and operations of a step at the paper's batch, and run one at batch 1; with both noises."""
    movies, source = one_movie(config)
    metrics = {}
    for name, memory in (("fractional", True), ("brownian", False)):
        context.announce(f"one step at full scale, {name} noise")
        params = Video(config, memory, context.key)
        step = step_of(config, memory=memory)
        costs = ppl.reports.costs(step)(*abstract(config, config.batch_size, memory=memory))
        begin = time.perf_counter()
        value, gradient = eqx.filter_jit(step)(context.key, params, movies)
        norm = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(eqx.filter(gradient, eqx.is_inexact_array))))
        metrics |= {
            f"full_{name}_parameters": parameters_of(params),
            f"full_{name}_step_gflops": costs.flops / 1e9,
            f"full_{name}_elbo_of_one_movie": float(value),
            f"full_{name}_gradient_norm": float(norm),
        }
        size = f"{parameters_of(params):,} parameters, {costs.flops / 1e9:,.1f} Gflop in a step of {config.batch_size}"
        took = f"first step at batch 1, compiled and run in {time.perf_counter() - begin:.1f} s, on {source}"
        print(f"{name}: {size} movies (the paper's numbers are not known); {took}")
    return Outcome(metrics)
