"""The paper's own scale: a network of 784, 512, 256 and 10 units, and an auto-encoder of paths. One step of each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Key, PyTree

import ppl
from estimators import curvature_descent, elbo, target_surrogate
from models.target_surrogates.fits import surrogate
from models.target_surrogates.supervised import digit_labels
from ppl import gen, normal
from ppl.reports import costs
from ppl.training import Targeted

PAPER_PARAMETERS = 784 * 512 + 512 + 512 * 256 + 256 + 256 * 10 + 10
"""Of the paper's network for MNIST, from the sizes of its layers."""


@dataclass(frozen=True)
class Scale:
    """Sizes of the network for MNIST, and of the auto-encoder whose decoder solves a stochastic equation.

    Args:
        layers: Units of each layer, of the paper's network.
        eta: Step in target space.
        num_inner: Number of inner steps: the paper's are 1, 10 and 100.
        frames: Number of observations of a path.
        pixels: Of a frame.
        latents: Dimension of the equation.
        hidden: Width of the auto-encoder's networks.
        substeps: Number of Euler steps between two frames.
    """

    layers: tuple[int, ...] = (784, 512, 256, 10)
    eta: float = 1.0
    num_inner: int = 100
    frames: int = 16
    pixels: int = 784
    latents: int = 10
    hidden: int = 512
    substeps: int = 5


def network(key: Key[Array, ""], sizes: tuple[int, ...]) -> list[eqx.nn.Linear]:
    """Return the layers of a network."""
    keys = jr.split(key, len(sizes) - 1)
    pairs = zip(sizes[:-1], sizes[1:], keys, strict=True)
    return [eqx.nn.Linear(before, after, key=key) for before, after, key in pairs]


def forward(layers: list[eqx.nn.Linear], inputs: Array) -> Array:
    """Return the last layer's output for one input."""
    for layer in layers[:-1]:
        inputs = jax.nn.relu(layer(inputs))
    return layers[-1](inputs)


def mnist(settings: Scale, key: Key[Array, ""]) -> tuple[Targeted, PyTree, Any]:
    """Return objective, parameters and optimiser of `sso_mnist_mlp`; batches are dicts of images and labels."""

    def loss(logits: Array, batch: dict[str, Array]) -> Array:
        return -digit_labels.log_density({"label": batch["label"]}, logits) / len(batch["label"])

    target = lambda layers, batch: jax.vmap(lambda x: forward(layers, x))(batch["x"])
    return Targeted(target, loss), network(key, settings.layers), surrogate(settings.eta, settings.num_inner)


def paths(settings: Scale, key: Key[Array, ""]) -> tuple[Targeted, PyTree, Any]:
    """Return objective, parameters and optimiser of `sso_vae_sde`; batches are films.

    The target is what the encoder says of a film (the start's mean and log scale, and a control for each frame), and
    the decoder itself, which so makes plain steps. The dear part solves the equation and decodes every frame.
    """
    k, frames = settings.latents, settings.frames
    encode_key, drift_key, decode_key = jr.split(key, 3)
    params = {
        "encoder": network(encode_key, (frames * settings.pixels, settings.hidden, k * (2 + frames))),
        "model": {
            "drift": network(drift_key, (k, settings.hidden, k)),
            "decoder": network(decode_key, (k, settings.hidden, settings.pixels)),
        },
    }
    bound = elbo(*path_programs(settings))

    def target(params: PyTree, films: Array) -> PyTree:
        codes = jax.vmap(lambda film: forward(params["encoder"], film.reshape(-1)))(films)
        return {"codes": codes, "model": eqx.filter(params["model"], eqx.is_inexact_array)}

    def loss(z: PyTree, films: Array) -> Array:
        model = eqx.combine(z["model"], params["model"])
        one = lambda code, film: bound({"code": code, "model": model}, {"x": film})
        return -jnp.mean(jax.vmap(one)(z["codes"], films))

    return Targeted(target, loss), params, target_surrogate(curvature_descent(), 1e-4, settings.num_inner)


def path_programs(settings: Scale) -> tuple:
    """Return model and guide of one film; params are its code and the model's networks."""
    k, steps, h = settings.latents, settings.frames * settings.substeps, 1 / settings.substeps

    def solve(params: PyTree, start: Array, control: Array) -> None:
        def step(z: Array, control: Array) -> tuple[Array, Array]:
            z = normal(z + h * (forward(params["model"]["drift"], z) + control), h**0.5) @ "z"
            return z, z

        return jax.lax.scan(step, start, control)[1]

    @gen
    def model(params: PyTree) -> None:
        start = normal(jnp.zeros(k), 1.0) @ "start"
        path = solve(params, start, jnp.zeros((steps, k)))[settings.substeps - 1 :: settings.substeps]
        normal(jax.vmap(lambda z: forward(params["model"]["decoder"], z))(path), 0.1) @ "x"

    @gen
    def guide(params: PyTree, observed: dict) -> None:
        mean, log_scale, control = jnp.split(params["code"], [k, 2 * k])
        start = normal(mean, jnp.exp(log_scale)) @ "start"
        solve(params, start, jnp.repeat(control.reshape(-1, k), settings.substeps, axis=0))

    return model, guide


def batches(settings: Scale, batch: int, key: Key[Array, ""]) -> dict[str, Any]:
    """Return arrays of the shapes of real batches, drawn at random."""
    image_key, film_key = jr.split(key)
    images = jr.uniform(image_key, (batch, settings.layers[0]))
    films = jr.uniform(film_key, (batch, settings.frames, settings.pixels))
    return {"mnist": {"x": images, "label": jnp.zeros(batch, jnp.int32)}, "paths": films}


def step_of(objective: Targeted, params: PyTree, transform: Any) -> tuple[Callable, PyTree]:
    """Return one outer step as a function of a key, trained leaves and a batch, and these leaves."""
    trained, fixed = eqx.partition(params, eqx.is_inexact_array)

    def outer(key: Key[Array, ""], trained: PyTree, batch: Any) -> PyTree:
        whole = lambda trained: eqx.combine(trained, fixed)
        _, grad, extra = objective.gradient(key, whole, trained, batch, -1.0)
        return transform.update(grad, transform.init(trained), trained, **extra)[0]

    return outer, trained


def one_step(settings: Scale, key: Key[Array, ""], batch: int = 1) -> dict[str, float]:
    """Run one outer step of both programs on arrays of real batches' shapes; report their sizes and work."""
    metrics, data = {}, batches(settings, batch, key)
    for name, build in (("mnist", mnist), ("paths", paths)):
        objective, params, optimizer = build(settings, key)
        fit = ppl.minimize(objective, params, data[name], optimizer, steps=1, key=key, progress=False)
        step, trained = step_of(objective, params, optimizer)
        work = costs(step)(key, trained, data[name]).flops
        count = sum(leaf.size for leaf in jax.tree.leaves(trained))
        beside = f" (the paper's: {PAPER_PARAMETERS:,}; it names no flops)" if name == "mnist" else ""
        print(f"{name}: {count:,} parameters{beside}, {work:,} flops a step of {settings.num_inner} at batch {batch}")
        metrics |= {
            f"{name}_parameters": float(count),
            f"{name}_step_flops": float(work),
            f"{name}_loss": float(fit.history["value"][0]),
        }
    return metrics
