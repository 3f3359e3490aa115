"""Networks of any width on few digits with wrong labels: a posterior's mixture beside single networks.

All weights have the same standard normal prior, and every layer divides by the root of its inputs, so that a wider
network is another finite view of one class of functions. The posterior is sampled by Langevin steps (Welling and Teh
2011), the mixture is the mean of the sampled predictions.
"""

import functools
from dataclasses import dataclass

import blackjax
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key
from sklearn.datasets import load_digits

import ppl
from ppl import GenerativeFunction, categorical, gen, normal

PIXELS, CLASSES = 64, 10
GAIN = 4.0
"""Of the logits: with it their prior standard deviation is about 2, at any width, so that a network may be sure."""


@dataclass(frozen=True)
class Labelled:
    """Images of 64 pixels around 0, and classes."""

    images: Float[np.ndarray, "n 64"]
    labels: Int[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def observed(self) -> dict[str, Array]:
        """Return what a network has to explain."""
        return {"label": jnp.asarray(self.labels)}


def split(train: int, wrong: float, test: int = 1000, seed: int = 0) -> tuple[Labelled, Labelled]:
    """Return digits to learn from, so many of their labels replaced by random ones, and clean ones to test on.

    Args:
        train: Number of training images.
        wrong: Share of labels drawn at random (a tenth of them is right by chance).
        test: Number of test images.
        seed: Of the split; it is the same for all runs.
    """
    images, labels = load_digits(return_X_y=True)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    images, labels = np.float32(images[order] / 8 - 1), np.int32(labels[order])
    noisy = labels[:train].copy()
    replaced = rng.permutation(train)[: round(wrong * train)]
    noisy[replaced] = rng.integers(0, CLASSES, len(replaced))
    return Labelled(images[:train], noisy), Labelled(images[train : train + test], labels[train : train + test])


def forward(inner: Float[Array, "64 width"], outer: Float[Array, "width 10"], images: Float[Array, "n 64"]) -> Array:
    """Return the logits of the classes, with one hidden layer."""
    hidden = jax.nn.relu(images @ inner / jnp.sqrt(inner.shape[0]))
    return GAIN * hidden @ outer / jnp.sqrt(outer.shape[0])


def network(width: int) -> GenerativeFunction:
    """Return the program: weights, then a class for each image."""

    @gen
    def labels(params: None, images: Float[Array, "n 64"]) -> None:
        """Draw a network, and label all images by it."""
        inner = normal(jnp.zeros((PIXELS, width)), 1.0) @ "inner"
        outer = normal(jnp.zeros((width, CLASSES)), 1.0) @ "outer"
        categorical(logits=forward(inner, outer, images)) @ "label"

    return labels


def log_predictions(weights: dict, images: Float[Array, "n 64"]) -> Float[Array, "n 10"]:
    """Return the log probabilities of the classes under one network."""
    return jax.nn.log_softmax(forward(weights["inner"], weights["outer"], images))


@dataclass(frozen=True)
class Langevin:
    """How a posterior is sampled: theta += (e / 2) grad log p + sqrt(e) noise, full batch.

    Args:
        step: e.
        steps: Number of steps; the first quarter is dropped.
        every: One network is kept each time after so many.
    """

    step: float = 2e-3
    steps: int = 8000
    every: int = 100

    def __post_init__(self):
        if self.step <= 0:
            raise ValueError(f"a Langevin step must be positive, got {self.step}")
        if self.steps < self.every or self.every < 1:
            raise ValueError(f"{self.steps} steps keep no network, one each {self.every}")

    @property
    def kept(self) -> int:
        """Return the number of networks that are kept."""
        return self.steps // self.every - self.dropped

    @property
    def dropped(self) -> int:
        """Return the number of networks that are dropped first."""
        return self.steps // self.every // 4


def sample(program: GenerativeFunction, data: Labelled, how: Langevin, key: Key[Array, ""]) -> dict[str, Array]:
    """Sample networks from the posterior, along a leading axis."""
    log_density, constrain = ppl.log_joint(program, data.observed, None, jnp.asarray(data.images))
    sgld = blackjax.sgld(lambda x, _: jax.grad(log_density)(x))
    start_key, key = jr.split(key)

    @jax.jit
    def run(x):
        def step(x, key):
            return sgld.step(key, x, None, how.step / 2), None  # its step size is e / 2

        def block(x, key):
            x, _ = jax.lax.scan(step, x, jr.split(key, how.every))
            return x, x

        _, kept = jax.lax.scan(block, x, jr.split(key, how.steps // how.every))
        return jax.vmap(constrain)(kept[how.dropped :])

    return run(jr.normal(start_key, (constrain.size,)))


def most_likely(program: GenerativeFunction, data: Labelled, width: int, steps: int, key: Key[Array, ""]) -> dict:
    """Fit one network to the labels alone, without a prior: the point estimate (Adam, rate 0.01)."""
    images, labels = jnp.asarray(data.images), jnp.asarray(data.labels)
    likelihood = lambda weights: jnp.sum(log_predictions(weights, images)[jnp.arange(len(labels)), labels])
    first, second = jr.split(key)
    start = {"inner": jr.normal(first, (PIXELS, width)), "outer": jr.normal(second, (width, CLASSES))}
    return ppl.maximize(likelihood, start, None, optax.adam(0.01), steps=steps, key=key).params


@functools.partial(jax.jit, static_argnames="batch")
def all_predictions(networks: dict, images: Float[Array, "n 64"], batch: int = 16) -> Float[Array, "m n 10"]:
    """Return the log probabilities of the classes under each of several networks."""
    return jax.lax.map(lambda weights: log_predictions(weights, images), networks, batch_size=batch)


@dataclass(frozen=True)
class Losses:
    """Mean nats for each label, of the mixture and of single networks, and the mixture's share of right classes."""

    mixture: float
    single: float
    accuracy: float


def losses(predictions: Float[Array, "m n 10"], labels: Int[np.ndarray, " n"]) -> Losses:
    """Compare predictions with labels; the mixture averages probabilities, not logits."""
    predictions = np.asarray(predictions, np.float64)
    mixture = np.logaddexp.reduce(predictions, axis=0) - np.log(len(predictions))
    rows = np.arange(len(labels))
    single = -predictions[:, rows, labels].mean()
    return Losses(float(-mixture[rows, labels].mean()), float(single), float((mixture.argmax(-1) == labels).mean()))


def prior(program: GenerativeFunction, number: int, key: Key[Array, ""]) -> dict[str, Array]:
    """Draw networks from the prior, along a leading axis."""
    image = jnp.zeros((1, PIXELS))
    return jax.vmap(lambda key: program.simulate(key, None, image).choices)(jr.split(key, number))


def prequential(program: GenerativeFunction, data: Labelled, how: Langevin, block: int, key: Key[Array, ""]) -> float:
    """Return the nats of a code that predicts block by block, by the mixture sampled from all blocks before.

    The first block is predicted by networks of the prior. Labels of a block are coded one by one without learning from
    one another, so the code is a valid one, and longer than the mixture's own.
    """
    total = 0.0
    for number, start in enumerate(range(0, len(data), block)):
        now = jr.fold_in(key, number)
        seen = Labelled(data.images[:start], data.labels[:start])
        if start:
            networks = sample(program, seen, how, now)
        else:
            networks = prior(program, how.kept, now)
        rest = data.images[start : start + block], data.labels[start : start + block]
        total += losses(all_predictions(networks, jnp.asarray(rest[0])), rest[1]).mixture * len(rest[1])
    return total
