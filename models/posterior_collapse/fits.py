"""Training many settings of one program at once: they are lanes of one objective, so they are compiled once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array, Float, Key

import ppl
from models.posterior_collapse import networks, programs
from models.posterior_collapse.networks import Networks

Kind = Literal["vae", "cvae", "mhvae"]
NAMES = {"vae": ("z",), "cvae": ("z",), "mhvae": ("z1", "z2")}
"""Latents of each program, in the order of a setting's weights."""


@dataclass(frozen=True)
class Setting:
    """What is varied.

    Args:
        noise: eta_dec.
        weights: Weight of log q - log p of each latent: beta, or b1 and b2 of a hierarchy.
    """

    noise: float
    weights: tuple[float, ...] = (1.0,)


@dataclass(frozen=True)
class Training:
    """How it is trained: Adam, its rate falling to 0 along a cosine.

    Args:
        steps: Number of steps.
        rate: Rate at the start.
        batch_size: Rows of each step; None for all.
        warm_up: Share of steps over which the weights of the divergence rise from 0 in a straight line.
        free_bits: Nats that each latent has free; 0 for the plain objective.
    """

    steps: int
    rate: float = 1e-2
    batch_size: int | None = None
    warm_up: float = 0.0
    free_bits: float = 0.0


@dataclass(frozen=True)
class Task:
    """A program on data.

    Args:
        kind: Which program.
        latents: Of each level.
        y: Observations.
        x: Inputs of a conditional program, else None.
        hidden: Hidden units of its networks; None for a linear program.
        fixed: Scale of the first latents in the guide of a linear program at the start; in a hierarchy, to the end.
    """

    kind: Kind
    latents: int
    y: Float[np.ndarray, "n pixels"]
    x: Float[np.ndarray, "n inputs"] | None = None
    hidden: int | None = None
    fixed: float = 0.5

    @property
    def data(self) -> tuple[Array, ...]:
        """Return observations and inputs."""
        return tuple(jnp.asarray(part, jnp.result_type(float)) for part in (self.y, self.x) if part is not None)

    def pair(self, noise: Any) -> programs.Pair:
        """Return model and guide of one datum."""
        return getattr(programs, self.kind)(self.latents, noise)

    def draw(self, key: Key[Array, ""]) -> Networks:
        """Draw initial parameters."""
        inputs, hierarchy = 0 if self.x is None else self.x.shape[1], self.kind == "mhvae"
        sizes = (self.y.shape[1], self.latents)
        if self.hidden is None:
            return networks.linear(*sizes, key, inputs=inputs, hierarchy=hierarchy, fixed=self.fixed)
        return networks.nonlinear(*sizes, self.hidden, key, inputs=inputs, hierarchy=hierarchy)

    def objective(self, params: Networks, noise: Any, weights: Sequence[Any], free_bits: float, rows: tuple) -> Array:
        """Return the objective of one setting, a mean over rows."""
        shared = dict(zip(NAMES[self.kind], weights, strict=True))
        if free_bits:
            return programs.with_free_bits(self.pair(noise), shared, free_bits)(params, *rows)
        return programs.of_rows(programs.weighed(self.pair(noise), shared), *rows)(params)


def fit(
    task: Task,
    settings: Sequence[Setting],
    training: Training,
    key: Key[Array, ""],
    *,
    files: Path | None = None,
    resume: bool = False,
) -> list[Networks]:
    """Train one program for each setting."""
    init_key, fit_key = jr.split(key)
    start = eqx.filter_vmap(task.draw)(jr.split(init_key, len(settings)))
    found = ppl.maximize(
        _of_settings(task, settings, training),
        start,
        task.data,
        optax.adam(optax.cosine_decay_schedule(training.rate, training.steps)),
        steps=training.steps,
        batch_size=training.batch_size or len(task.y),
        key=fit_key,
        state=jnp.zeros(()),
        trainable=networks.trainable(start) if task.hidden is None else None,
        checkpoint=files,
        resume=resume,
        chunk=min(1 + training.steps // 10, 500),
    ).params
    return [one(found, number) for number in range(len(settings))]


def one(stacked: Networks, number: int) -> Networks:
    """Return the parameters of one setting."""
    return jax.tree.map(lambda leaf: leaf[number] if eqx.is_array(leaf) else leaf, stacked)


def _of_settings(task: Task, settings: Sequence[Setting], training: Training) -> Callable:
    noises = jnp.array([setting.noise for setting in settings])
    weights = jnp.array([setting.weights for setting in settings])

    def objective(params: Networks, step: Array, rows: tuple) -> tuple[Array, Array]:
        share = jnp.minimum(1.0, step / (training.warm_up * training.steps)) if training.warm_up else 1.0
        of_one = lambda params, noise, weight: task.objective(params, noise, share * weight, training.free_bits, rows)
        return jnp.sum(eqx.filter_vmap(of_one)(params, noises, weights)), step + 1

    return objective
