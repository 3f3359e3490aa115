"""The authors' own scale: all of MNIST, predicted from its lower left quarter or by two levels. One step of each."""

from dataclasses import dataclass
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Key

import ppl
from models import data
from models.posterior_collapse.fits import Kind, Setting, Task
from ppl.reports import costs


@dataclass(frozen=True)
class Scale:
    """One of the authors' programs on MNIST, of images of 28 by 28.

    Args:
        name: What it is called in the report.
        kind: Which program.
        latents: Of each level.
        hidden: Hidden units; None for a linear one.
        setting: Noise and weights.
        batch_size: Of a step.
    """

    name: str
    kind: Kind
    latents: int
    hidden: int | None
    setting: Setting
    batch_size: int = 128

    @property
    def pixels(self) -> tuple[int, int]:
        """Return the numbers of observed pixels and of inputs."""
        return (588, 196) if self.kind == "cvae" else (784, 0)

    @property
    def parameters(self) -> int:
        """Return the number of parameters by the sizes alone, as the authors' code has them."""
        (y, x), d, h = self.pixels, self.latents, self.hidden
        dense = lambda ins, outs: ins * h + h + h * outs + outs if h else ins * outs
        heads = lambda ins: dense(ins, 2 * d) if h else ins * d
        if self.kind == "cvae":
            encoder = heads(x) + heads(y) if h else (x + y) * d + d
            return dense(d, y) + dense(x, y) + encoder
        upper = dense(d, d) + (heads(d) if h else d * d + d)
        return dense(d, y) + heads(y) + upper + (0 if h else d)

    @property
    def task(self) -> Task:
        """Return the program, of an image of zeros."""
        y, x = self.pixels
        return Task(self.kind, self.latents, np.zeros((1, y)), np.zeros((1, x)) if x else None, self.hidden)


SCALES = (
    Scale("mnist_cvae", "cvae", 64, None, Setting(1.0)),
    Scale("mnist_cvae_relu", "cvae", 16, 16, Setting(1.0)),
    Scale("mnist_mhvae", "mhvae", 10, None, Setting(0.5, (1.0, 1.0))),
    Scale("mnist_mhvae_relu", "mhvae", 16, 256, Setting(0.5, (1.0, 1.0))),
)
"""Sizes of the authors' code (section 4 of our notes); each path of a network has one hidden layer here."""


class Step(NamedTuple):
    """Value and gradient of a step: a function, and the shapes of its parameters."""

    run: object
    params: object


def step_of(scale: Scale) -> Step:
    """Return a step as a function of a key, parameters and rows."""
    task, setting = scale.task, scale.setting
    objective = lambda params, rows: task.objective(params, setting.noise, setting.weights, 0.0, rows)
    return Step(ppl.value_and_grad(objective), eqx.filter_eval_shape(task.draw, jr.key(0)))


def rows_of(scale: Scale, images: Float[Array, "n 28 28"]) -> tuple[Array, ...]:
    """Split images into what is observed and what is given."""
    if scale.kind != "cvae":
        return (images.reshape(len(images), -1),)
    grid = np.arange(784).reshape(28, 28)
    given = grid[14:, :14].ravel()
    flat = images.reshape(len(images), -1)
    return flat[:, np.setdiff1d(grid, given)], flat[:, given]


def one_step(scale: Scale, key: Key[Array, ""]) -> dict[str, float]:
    """Count parameters and operations of a step at the authors' batch, and run one at batch 1.

    Raises:
        FloatingPointError: Value or gradient is not finite.
    """
    step, (image, source) = step_of(scale), _image()
    rows = rows_of(scale, image)
    many = tuple(jax.ShapeDtypeStruct((scale.batch_size, row.shape[1]), row.dtype) for row in rows)
    params = scale.task.draw(key)
    weights = sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(params, eqx.is_array)))
    flops = costs(step.run)(key, params, many).flops
    value, gradient = eqx.filter_jit(step.run)(key, params, rows)
    norm = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(eqx.filter(gradient, eqx.is_array))))
    if not np.isfinite([float(value), float(norm)]).all():
        raise FloatingPointError(f"The step's value is {value}, its gradient's norm {norm}.")
    print(
        f"{scale.name}: {weights:,} parameters ({scale.parameters:,} by the authors' sizes), {flops:,} flops in a step "
        f"of {scale.batch_size} (the paper names none); one step at batch 1 on {source}"
    )
    return {
        f"{scale.name}_parameters": float(weights),
        f"{scale.name}_step_flops": float(flops),
        f"{scale.name}_value": float(value),
        f"{scale.name}_gradient_norm": float(norm),
    }


def _image() -> tuple[Float[Array, "1 28 28"], str]:
    try:
        return jnp.asarray(data.mnist().train[:1] / 255, jnp.float32), "MNIST"
    except data.DataError:
        return jr.uniform(jr.key(0), (1, 28, 28)), "noise of the same shape (MNIST was not fetched)"
