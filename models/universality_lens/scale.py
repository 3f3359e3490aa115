"""The largest scale: networks of width 4,096 on all of MNIST, twenty chains on an accelerator. One step of it."""

from dataclasses import dataclass

import blackjax
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, Key

import ppl
from models.universality_lens.width import forward
from ppl import GenerativeFunction, categorical, gen, normal
from ppl.reports import costs


@dataclass(frozen=True)
class Scale:
    """Widths 64 to 4,096 and up to 60,000 images; the paper names no sizes.

    Args:
        width: Of the widest network.
        pixels: Of an image.
        images: Number of training images, by which a batch's log likelihood is scaled.
        chains: Number of Langevin chains.
        step: e of a Langevin step.
    """

    width: int = 4096
    pixels: int = 784
    images: int = 60_000
    chains: int = 20
    step: float = 1e-5

    @property
    def parameters(self) -> int:
        """Return the number of weights of one network."""
        return self.width * (self.pixels + 10)


def network(settings: Scale) -> GenerativeFunction:
    """Return the program of a batch of labels."""

    @gen
    def labels(params: None, images: Float[Array, "n pixels"]) -> None:
        inner = normal(jnp.zeros((settings.pixels, settings.width)), 1.0) @ "inner"
        outer = normal(jnp.zeros((settings.width, 10)), 1.0) @ "outer"
        categorical(logits=forward(inner, outer, images)) @ "label"

    return labels


def step_of(settings: Scale, images: Float[Array, "n pixels"], labels: Int[Array, " n"]):
    """Return a Langevin step of one chain, as a function of a key and a vector of weights, and the vector's length.

    The labels of a batch count for all images.
    """
    program = ppl.scale(network(settings), {"label": settings.images / len(images)})
    log_density, constrain = ppl.log_joint(program, {"label": labels}, None, images)
    kernel = blackjax.sgld(lambda x, _: jax.grad(log_density)(x))
    return lambda key, x: kernel.step(key, x, None, settings.step / 2), constrain.size


def one_step(settings: Scale, key: Key[Array, ""], batch: int = 1) -> dict[str, float]:
    """Run one step of one chain on images drawn at random, of MNIST's shape; report its size and work."""
    image_key, label_key, start_key, step_key = jr.split(key, 4)
    images = jr.uniform(image_key, (batch, settings.pixels), minval=-1.0)
    step, size = step_of(settings, images, jr.randint(label_key, (batch,), 0, 10))
    start = jr.normal(start_key, (size,))
    moved = jax.jit(step)(step_key, start)
    work = costs(step)(step_key, start).flops
    print(f"{size:,} weights, {work:,} flops a step at batch {batch}; images at random, of MNIST's shape")
    return {"weights": float(size), "step_flops": float(work), "moved": float(jnp.linalg.norm(moved - start))}
