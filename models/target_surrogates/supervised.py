"""Linear classifiers of real data: the target is the table of logits."""

from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key
from sklearn.datasets import load_breast_cancer, load_digits

from models.target_surrogates.fits import fit, surrogate
from ppl import GenerativeFunction, bernoulli, categorical, gen
from ppl.training import Targeted


@gen
def digit_labels(logits: Float[Array, "n 10"]) -> None:
    """Draw a class for each image."""
    categorical(logits=logits) @ "label"


@gen
def cancer_labels(logits: Float[Array, " n"]) -> None:
    """Draw a diagnosis for each patient."""
    bernoulli(logits=logits) @ "label"


@dataclass(frozen=True)
class Task:
    """Inputs with a bias, labels, the program of the labels, and where training starts."""

    inputs: Float[Array, "n d"]
    labels: Int[Array, " n"]
    program: GenerativeFunction
    start: Array

    def loss(self, logits: Array, batch: dict[str, Array]) -> Float[Array, ""]:
        """Return the mean negative log density of a batch's labels: the dear part."""
        return -self.program.log_density({"label": batch["label"]}, logits) / len(batch["label"])

    def all_loss(self, weights: Array) -> Float[Array, ""]:
        """Return the loss of all data."""
        return self.loss(self.inputs @ weights, {"label": self.labels})

    @property
    def data(self) -> dict[str, Array]:
        """Return what batches are taken from."""
        return {"x": self.inputs, "label": self.labels}


def task(name: str) -> Task:
    """Return a task by name: "digits" or "cancer"."""
    if name == "digits":
        inputs, labels = load_digits(return_X_y=True)
        inputs, program, start = inputs / 16, digit_labels, jnp.zeros((65, 10))
    else:
        inputs, labels = load_breast_cancer(return_X_y=True)
        inputs, program, start = (inputs - inputs.mean(0)) / inputs.std(0), cancer_labels, jnp.zeros(31)
    inputs = np.c_[inputs, np.ones(len(inputs))]
    return Task(jnp.asarray(inputs, jnp.float32), jnp.asarray(labels, jnp.int32), program, start)


def train(
    found: Task, optimizer: optax.GradientTransformation, steps: int, key: Key[Array, ""], *, plain: bool = False
) -> dict[int, float]:
    """Return the loss of all data after every ten steps on batches of 125; `plain`: without targets."""
    logits: Callable = lambda weights, batch: batch["x"] @ weights
    objective = Targeted(logits, found.loss)
    f = (lambda weights, batch: objective(weights, batch)) if plain else objective
    return fit(f, found.start, found.data, optimizer, found.all_loss, steps=steps, every=10, key=key, batch_size=125)


def grid(
    name: str, etas: tuple[float, ...], inner: tuple[int, ...], steps: int, key: Key[Array, ""]
) -> dict[tuple[float, int], dict[int, float]]:
    """Return the curves of all step sizes and all numbers of inner steps, on the same batches."""
    found = task(name)
    return {(eta, m): train(found, surrogate(eta, m), steps, key) for eta in etas for m in inner}


def adam(name: str, rates: tuple[float, ...], steps: int, key: Key[Array, ""]) -> dict[float, dict[int, float]]:
    """Return the curves of Adam, which sees the gradient of the weights only."""
    found = task(name)
    return {rate: train(found, optax.adam(rate), steps, key, plain=True) for rate in rates}
