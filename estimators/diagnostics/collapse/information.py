"""What latents tell which datum it is: mutual information with the data at hand, by the mixture of all guides."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ppl import GenerativeFunction, seed, simulate
from ppl.choicemap import flatten, nest, show
from ppl.transforms.traits import elements
from ppl.transforms.views import parents

MOST_DATA = 128
DRAWS = 4
"""Of each datum."""
INNER = 64
"""Draws of the choices that a choice depends on in the guide, over which its density is averaged."""


@dataclasses.dataclass(frozen=True)
class Information:
    """I(datum; latent) in nats, of a datum picked at random and a draw of its guide.

    Attributes:
        nats: Of all units of an address together.
        error: Its standard error.
        units: Of each unit alone, or None where they cannot be told apart (lanes or steps for one datum).
        data: Number of data it was estimated with: no estimate exceeds log(data).
        nested: Whether the density is an average over draws of other choices; then the estimate is low by a little.
    """

    nats: float
    error: float
    units: np.ndarray | None
    data: int
    nested: bool


def information(
    guide: GenerativeFunction, args: tuple, names: list[str], num_data: int, key: jax.Array
) -> dict[str, Information]:
    """Estimate I = E log q(z | x) - E log mean_m q(z | x_m) of some addresses, over at most `MOST_DATA` data.

    q(z | x) of a choice that depends on others in the guide is an average over `INNER` draws of those.

    Args:
        guide: The guide of one datum.
        args: Parameters, then observed choices and inputs of all data along the leading axes of their leaves.
        names: Addresses of choices that are always made.
        num_data: Number of data.
        key: A key.
    """
    params, *data = args
    pick_key, value_key, inner_key = jax.random.split(key, 3)
    rows = jax.random.permutation(pick_key, num_data)[:MOST_DATA]
    data = jax.tree.map(lambda leaf: jnp.asarray(leaf)[rows], data)
    depends = _dependent(guide, (params, *jax.tree.map(lambda leaf: leaf[0], data)), value_key)
    cross = eqx.filter_jit(_cross)
    found = {}
    for name in names:
        nested = depends.get(name, True)
        logs = cross(guide, name, params, data, len(rows), INNER if nested else 1, value_key, inner_key)
        found[name] = _summary(*(None if part is None else np.asarray(part, np.float64) for part in logs), nested)
    return found


def _dependent(guide: GenerativeFunction, args: tuple, key: jax.Array) -> dict[str, bool]:
    """Say of each address whether its distribution depends on other choices; what is not told may."""
    drawn = seed(lambda *args: simulate(guide)(*args).choices)(key, *args)
    alone = [show(path) for path in flatten(drawn)] if len(flatten(drawn)) == 1 else []
    return dict.fromkeys(alone, False) | {name: bool(above) for name, above in parents(guide, drawn, args).items()}


def _cross(guide, name: str, params, data, size: int, inner: int, value_key, inner_key) -> tuple:
    """Return log q(z_n | x_m), of shape (m, n, draws): of all units together, and of each."""

    def draw(key: jax.Array, row: Any) -> dict:
        return flatten(seed(lambda *row: simulate(guide)(params, *row).choices)(key, *row))

    of_row = lambda keys, row: jax.vmap(lambda key: draw(key, row))(keys)
    many = lambda key, count: jax.vmap(of_row)(jax.random.split(key, (size, count)), data)
    path = tuple(name.split("/"))
    values, contexts = many(value_key, DRAWS)[path], many(inner_key, inner)

    def density(row: Any, context: dict, value: jax.Array) -> Any:
        choices = nest(context | {path: value})
        run = lambda *row: elements(guide, choices, (params, *row))[name]
        record = seed(run)(inner_key, *row)
        return record.log_prob.sum(), record.log_prob if record.lead == 0 else None

    def against(row_and_context: Any) -> Any:
        row, context = row_and_context
        of_value = lambda value: jax.vmap(lambda one: density(row, one, value))(context)
        logs = jax.vmap(jax.vmap(of_value))(values)  # (n, draws, inner, ...)
        return jax.tree.map(lambda leaf: jax.nn.logsumexp(leaf, axis=2) - math.log(inner), logs)

    return jax.lax.map(against, (data, contexts))


def _summary(joint: np.ndarray, units: np.ndarray | None, nested: bool) -> Information:
    nats = _gain(joint)
    alone = None if units is None else _gain(units).mean(0)
    return Information(float(nats.mean()), float(nats.std(ddof=1) / math.sqrt(len(nats))), alone, len(nats), nested)


def _gain(logs: np.ndarray) -> np.ndarray:
    """Return log q(z_n | x_n) - log mean_m q(z_n | x_m), means over draws, by datum."""
    size = len(logs)
    own = logs[np.arange(size), np.arange(size)]
    mixed = np.logaddexp.reduce(logs, axis=0) - math.log(size)
    return (own - mixed).mean(1)
