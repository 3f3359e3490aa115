"""Nats of every latent, element by element, for any model and guide."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from estimators.objectives.closed_divergence import closed_divergences
from ppl import GenerativeFunction, merge, seed, simulate
from ppl.specs import Subset
from ppl.transforms.records import Record
from ppl.transforms.traits import elements, specs


@dataclasses.dataclass(frozen=True)
class Axes:
    """What the axes of a choice are.

    Attributes:
        lead: Number of lanes and steps, whose elements are repetitions; the others are units.
        exact: Whether the divergence is in closed form.
        masked: Whether the choice is made conditionally.
    """

    lead: int
    exact: bool
    masked: bool


@dataclasses.dataclass(frozen=True)
class Measured:
    """Draws of log q - log p at one address, or of its mean in closed form.

    Attributes:
        nats: Mean over draws, by repetition and unit.
        by_draw: Mean over repetitions, by draw and unit.
        made: Share of draws and repetitions in which the choice is made.
        axes: What the axes are.
    """

    nats: np.ndarray
    by_draw: np.ndarray
    made: float
    axes: Axes

    @property
    def repetitions(self) -> int:
        """Return the number of lanes and steps."""
        return math.prod(self.nats.shape[: self.axes.lead])

    @property
    def units(self) -> np.ndarray:
        """Return the mean nats of each unit."""
        return self.by_draw.mean(0)

    @property
    def error(self) -> np.ndarray:
        """Return standard errors of `units`."""
        return _error(self.by_draw)

    def total(self, data: int) -> tuple[float, float]:
        """Return the nats for each of so many data, with the standard error."""
        draws = self.by_draw.reshape(len(self.by_draw), -1).sum(1) * self.repetitions / data
        return float(draws.mean()), float(_error(draws))


def _error(draws: np.ndarray) -> np.ndarray:
    """Return the standard error of the mean over draws; that of an infinite mean is not known."""
    with np.errstate(invalid="ignore"):
        return draws.std(0, ddof=1) / math.sqrt(len(draws))


def measure(
    model: GenerativeFunction, guide: GenerativeFunction, args: tuple, key: jax.Array, samples: int
) -> dict[str, Measured]:
    """Average log q - log p of every choice of the guide over draws, which are made one after another."""
    axes: dict[str, Axes] = {}
    names = latents(guide, args)

    @eqx.filter_jit
    def run(keys: jax.Array, *args: Any) -> Any:
        one = lambda key: seed(lambda *args: _terms(model, guide, args, names, axes))(key, *args)

        def step(sums: Any, key: jax.Array) -> Any:
            terms, made = one(key)
            by_draw = {name: term.mean(range(axes[name].lead)) for name, term in terms.items()}
            return jax.tree.map(jnp.add, sums, terms), (by_draw, made)

        shapes, _ = jax.eval_shape(one, keys[0])
        return jax.lax.scan(step, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes), keys)

    sums, (by_draw, made) = jax.tree.map(
        lambda leaf: np.asarray(leaf, np.float64), run(jax.random.split(key, samples), *args)
    )
    return {name: Measured(sums[name] / samples, by_draw[name], float(made[name].mean()), axes[name]) for name in sums}


def latents(guide: GenerativeFunction, args: tuple) -> list[str]:
    """List the guide's addresses, but for the indices of subsamples."""
    return [name for name, found in specs(guide, args).items() if not any(isinstance(s, Subset) for s in found)]


def _terms(model, guide, args: tuple, names: list[str], axes: dict[str, Axes]) -> tuple[dict, dict]:
    """Draw from the guide; return log q - log p, and how often each choice is made."""
    params, observed, *inputs = args
    drawn = simulate(guide)(*args).choices
    choices, model_args = merge(drawn, observed), (params, *inputs)
    ours, theirs = elements(guide, drawn, args), elements(model, choices, model_args)
    exact = closed_divergences(model, guide, drawn, choices, model_args, args)
    terms, made = {}, {}
    for name in names:
        pair = ours[name], theirs[name]
        axes[name] = Axes(max(record.lead for record in pair), name in exact, ours[name].mask is not None)
        terms[name] = exact[name] if name in exact else _difference(*pair, axes[name].lead)
        made[name] = jnp.mean(ours[name].made())
    return terms, made


def _difference(ours: Record, theirs: Record, lead: int) -> jax.Array:
    """Return log q - log p; where one family's events are larger than the other's, over lanes and steps only."""
    one, other = ours.log_prob, theirs.log_prob
    if one.shape != other.shape:
        one, other = (x.sum(range(lead, x.ndim)) for x in (one, other))
    return one - other
