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
DRAWS = 2
"""Of each datum."""
INNER = 128
"""Draws of the choices that a choice depends on in the guide, over which its density is averaged."""


@dataclasses.dataclass(frozen=True)
class Information:
    """I(datum; latent) in nats, of a datum picked at random and a draw of its guide.

    Attributes:
        nats: Of all units of an address together: the middle of `low` and `high`.
        error: Its standard error.
        low: Lower bound, up to `error`; below `nats` where the density is an average over draws of other choices.
        high: Upper bound, up to `error`; at most log(data).
        units: Of each unit alone, or None where they cannot be told apart (lanes or steps for one datum).
        data: Number of data it was estimated with.
    """

    nats: float
    error: float
    low: float
    high: float
    units: np.ndarray | None
    data: int

    def __str__(self) -> str:
        between = f" (from {self.low:.3g} to {self.high:.3g})" if self.high - self.low > 0.02 else ""
        told = f"{self.nats:.3g} ± {self.error:.2g}{between}"
        return f"tells {told} of at most {math.log(self.data):.3g} nats of the datum"


def information(
    guide: GenerativeFunction, args: tuple, names: list[str], num_data: int, key: jax.Array
) -> dict[str, Information]:
    """Estimate I = E log q(z | x) - E log mean_m q(z | x_m) of some addresses, over at most `MOST_DATA` data.

    q(z | x) of a choice that depends on others in the guide is an average over `INNER` draws of those. With or without
    the draws that z was made from among them, the mean of its logarithm is above or below the truth (Yin and Zhou
    2018; Sobolev and Vetrov 2019): hence two bounds, which part where a choice says much about those before it.

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
        logs = cross(guide, name, params, data, len(rows), INNER if nested else 0, value_key, inner_key)
        joint, alone = (jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), part) for part in logs)
        found[name] = _summary(joint, alone)
    return found


def _dependent(guide: GenerativeFunction, args: tuple, key: jax.Array) -> dict[str, bool]:
    """Say of each address whether its distribution depends on other choices; what is not told may."""
    drawn = seed(lambda *args: simulate(guide)(*args).choices)(key, *args)
    alone = [show(path) for path in flatten(drawn)] if len(flatten(drawn)) == 1 else []
    return dict.fromkeys(alone, False) | {name: bool(above) for name, above in parents(guide, drawn, args).items()}


def _cross(guide, name: str, params, data, size: int, inner: int, value_key, inner_key) -> tuple:
    """Return log densities of draws z_n: under each datum's guide, shape (m, n, draws), and given what they came from.

    Those of all units together, and of each.
    """
    path = tuple(name.split("/"))

    def draw(key: jax.Array, row: Any) -> dict:
        return flatten(seed(lambda *row: simulate(guide)(params, *row).choices)(key, *row))

    def density(row: Any, context: dict, value: jax.Array) -> tuple:
        choices = nest(context | {path: value})
        record = seed(lambda *row: elements(guide, choices, (params, *row))[name])(inner_key, *row)
        return record.log_prob.sum(), record.log_prob if record.lead == 0 else None

    of_row = lambda keys, row: jax.vmap(lambda key: draw(key, row))(keys)
    many = lambda key, count: jax.vmap(of_row)(jax.random.split(key, (size, count)), data)
    drawn = many(value_key, DRAWS)
    contexts = many(inner_key, inner) if inner else jax.tree.map(lambda leaf: leaf[:, :1], drawn)
    values = drawn[path]

    def against(row_and_context: Any) -> Any:
        row, context = row_and_context
        of_value = lambda value: jax.vmap(lambda one: density(row, one, value))(context)
        logs = jax.vmap(jax.vmap(of_value))(values)  # (n, draws, inner, ...)
        return jax.tree.map(lambda leaf: jax.nn.logsumexp(leaf, axis=2) - math.log(leaf.shape[2]), logs)

    joint, alone = jax.lax.map(against, (data, contexts))
    own = (None, None)
    if inner:
        of_draw = lambda row, context: density(row, context, context[path])
        own = jax.vmap(lambda row, context: jax.vmap(lambda one: of_draw(row, one))(context))(data, drawn)
    return (joint, own[0]), (alone, own[1])


def _summary(joint: tuple, alone: tuple) -> Information:
    low, high = _bounds(*joint)
    nats = (low + high) / 2
    most = math.log(len(nats))
    least = -math.inf if joint[1] is None else 0.0  # an estimate without bias is left as it is
    bounds = [float(np.clip(bound.mean(), least, most)) for bound in (low, high)]
    units = None if alone[0] is None else sum(np.clip(bound.mean(0), least, most) for bound in _bounds(*alone)) / 2
    error = min(most, float(nats.std(ddof=1) / math.sqrt(len(nats))))
    return Information(sum(bounds) / 2, error, *bounds, units, len(nats))


def _bounds(logs: np.ndarray, given: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return bounds of log q(z_n | x_n) - log mean_m q(z_n | x_m), means over draws, by datum."""
    size = len(logs)
    diagonal = np.arange(size)
    without, mixed = logs[diagonal, diagonal], np.logaddexp.reduce(logs, axis=0) - math.log(size)
    if given is None:
        gain = (without - mixed).mean(1)
        return gain, gain
    own = np.logaddexp(without + math.log(INNER), given) - math.log(INNER + 1)
    more = logs.copy()
    more[diagonal, diagonal] = own
    above = np.logaddexp.reduce(more, axis=0) - math.log(size)
    return (without - above).mean(1), (own - mixed).mean(1)
