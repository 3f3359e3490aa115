"""What linear theory says of a Gaussian program from second moments of its data, or why it says nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from estimators.diagnostics.linear_theory import (
    linear_hierarchy,
    linear_optimum,
    residual_moment,
    second_moment,
    spectrum,
)
from ppl import GenerativeFunction, Masked, merge, seed, simulate
from ppl.choicemap import flatten, show
from ppl.primitives import View
from ppl.transforms.traits import specs
from ppl.transforms.views import parents, views

CONSTANT = 1e-4
"""Relative range within which a scale counts as constant: rounding in float32."""
CLASSES = 100
"""Most distinct values of a column of integers, each of which becomes an input of its own."""


class Untold(Exception):
    """Say why linear theory does not apply."""


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The optimum of a linear program with the same noise and numbers of latents.

    Attributes:
        moments: Second moments of the observations, centred, divided by their noise, and without what the inputs
            explain linearly: a mode is active where its moment exceeds the weight of the divergence.
        active: Number of active modes by address; of several independent addresses under all their names together.
        modes: Nats that each mode tells of the datum, by address.
        nats: Nats of an address for each datum, its share of the divergence.
        by_noise: Number of modes that the noise alone leaves active, at weight 1; None in hierarchies.
    """

    moments: np.ndarray
    active: dict[str, int]
    modes: dict[str, np.ndarray]
    nats: dict[str, float]
    by_noise: int | None

    @property
    def information(self) -> dict[str, float]:
        """Return the nats that each address tells of the datum."""
        return {name: float(modes.sum()) for name, modes in self.modes.items()}


@dataclasses.dataclass(frozen=True)
class Facts:
    """What the programs of all data look like at two draws.

    Attributes:
        families: Name of the family of each choice of the model.
        above: Choices of the model that each one's distribution depends on.
        scales: Scales of the normal choices of model and guide, by role and address: (draws, data, elements).
        sizes: Number of elements of each choice for one datum.
    """

    families: dict[str, str]
    above: dict[str, set[str]]
    scales: dict[tuple[str, str], np.ndarray]
    sizes: dict[str, int]


def predict(
    model: GenerativeFunction, guide: GenerativeFunction, args: tuple, beta: float | Mapping[str, float], key: jax.Array
) -> Prediction:
    """Apply linear theory to programs of one datum.

    Args:
        model: The model.
        guide: The guide.
        args: Parameters, then observed choices and inputs of all data along the leading axes of their leaves.
        beta: Weight of the divergence in training, for all latents or by address.
        key: A key.

    Raises:
        Untold: The theory does not apply; the message says why.
    """
    _, observed, *inputs = args
    facts = _facts(model, guide, args, key)
    seen = [show(path) for path in flatten(observed)]
    unseen = [name for name in facts.families if name not in seen]
    _require_gaussian(facts, seen, unseen)
    noise = np.concatenate([_constant(facts, "model", name) for name in seen])
    moments = _moments(observed, inputs, noise)
    levels = [name for name in unseen if facts.above[name]]
    weights = {name: _weight(beta, name) for name in unseen}
    if not levels:
        return _one_level(facts, unseen, moments, weights)
    return _two_levels(facts, seen, unseen, levels, moments, weights)


def _one_level(facts: Facts, unseen: Sequence[str], moments: np.ndarray, weights: dict[str, float]) -> Prediction:
    for name in unseen:
        _constant(facts, "model", name)
    if len(set(weights.values())) > 1:
        raise Untold(f"latents of one level have different weights of the divergence: {weights}")
    size, names, weight = sum(facts.sizes[name] for name in unseen), " + ".join(unseen), weights[unseen[0]]
    padded = np.pad(moments, (0, max(0, size - len(moments))))
    found, plain = (linear_optimum(padded, size, beta=w) for w in (weight, 1.0))
    # All nats are information: at the optimum the guides of all data mix to the prior.
    return Prediction(moments, {names: found.active}, {names: found.kl}, {names: found.rate}, plain.active)


def _two_levels(facts, seen, unseen, levels, moments: np.ndarray, weights: dict[str, float]) -> Prediction:
    first, second = levels[0], next((name for name in unseen if name not in levels), "")
    markov = len(unseen) == 2 and all(facts.above[name] <= {first} for name in seen)
    if not markov:
        raise Untold(f"the latents {', '.join(unseen)} are more than a hierarchy of two levels, one after the other")
    if facts.sizes[first] != facts.sizes[second]:
        raise Untold(f"the two levels have {facts.sizes[first]} and {facts.sizes[second]} units, not the same number")
    spread, own = _constant(facts, "model", first), _constant(facts, "guide", first)
    _constant(facts, "model", second)
    ratio = own / spread
    if np.ptp(ratio) > CONSTANT * ratio.mean():
        raise Untold(f'the guide\'s scales of "{first}" differ: the theory of hierarchies has one that is fixed')
    size = facts.sizes[first]
    padded = np.pad(moments, (0, max(0, size - len(moments))))
    found = linear_hierarchy(padded, size, float(ratio.mean()), betas=(weights[first], weights[second]))
    told = {first: found.information[0], second: found.information[1]}
    return Prediction(
        moments,
        {name: int(np.sum(nats > 0)) for name, nats in told.items()},
        told,
        {first: float(found.terms[0].sum()), second: float(found.terms[1].sum())},
        None,
    )


def _facts(model: GenerativeFunction, guide: GenerativeFunction, args: tuple, key: jax.Array) -> Facts:
    """Draw twice for every datum, and look at distributions."""
    params, *data = args
    one = jax.tree.map(lambda leaf: leaf[0], data)
    families = _families(model, (params, *one[1:]))
    above: dict[str, set[str]] = {}
    sizes: dict[str, int] = {}

    def scales(key: jax.Array, params: Any, row: Any) -> dict:
        def run(*row: Any) -> dict:
            observed, *inputs = row
            drawn = simulate(guide)(params, *row).choices
            choices = merge(drawn, observed)
            theirs = views(model, choices, (params, *inputs))
            above.update(parents(model, choices, (params, *inputs)))
            sizes.update({show(path): int(np.size(leaf)) for path, leaf in flatten(choices).items()})
            found = {("model", name): _scale(view) for name, view in theirs.items()}
            found |= {("guide", name): _scale(view) for name, view in views(guide, drawn, (params, *row)).items()}
            return {name: scale for name, scale in found.items() if scale is not None}

        return seed(run)(key, *row)

    @eqx.filter_jit
    def all_scales(keys: jax.Array, params: Any, data: Any) -> dict:
        return jax.vmap(lambda keys: jax.vmap(lambda key, row: scales(key, params, row))(keys, data))(keys)

    num_data = jax.tree.leaves(data)[0].shape[0]
    found = all_scales(jax.random.split(key, (2, num_data)), params, data)
    flat = {name: np.asarray(leaf, np.float64).reshape(2, num_data, -1) for name, leaf in found.items()}
    return Facts(families, above, flat, sizes)


def _families(model: GenerativeFunction, args: tuple) -> dict[str, str]:
    names = lambda found: {str(getattr(spec, "family", type(spec).__name__)) for spec in found}
    return {name: " or ".join(sorted(names(found))) for name, found in specs(model, args).items()}


def _scale(view: View) -> Any:
    if str(view.spec.family) != "normal" or view.mask is not None:
        return None
    scale = dict(zip(view.spec.names, view.params, strict=True))["scale"]
    return jnp.broadcast_to(scale, view.shape)


def _require_gaussian(facts: Facts, seen: Sequence[str], unseen: Sequence[str]) -> None:
    for name in [*seen, *unseen]:
        role = "observed" if name in seen else "latent"
        if facts.families.get(name) != "normal":
            raise Untold(f'the {role} "{name}" is {facts.families.get(name)}, not normal')
        if ("model", name) not in facts.scales:
            raise Untold(f'the {role} "{name}" is made in a scan, a branch or a subsample')
    if not unseen:
        raise Untold("there are no latents")


def _constant(facts: Facts, role: str, name: str) -> np.ndarray:
    """Return the scale of each element, which no draw and no datum may change."""
    if (role, name) not in facts.scales:
        raise Untold(f'the {role} makes "{name}" by another family than a normal, or in a scan, branch or subsample')
    scales = facts.scales[role, name]
    if (np.ptp(scales, axis=(0, 1)) > CONSTANT * scales.mean((0, 1))).any():
        raise Untold(f'the {role}\'s scale of "{name}" changes with the latents or the data')
    return scales[0, 0]


def _weight(beta: float | Mapping[str, float], name: str) -> float:
    weight = float(beta.get(name, 1.0)) if isinstance(beta, Mapping) else float(beta)
    if weight <= 0:
        raise Untold(f'the divergence of "{name}" has the weight {weight}: nothing collapses')
    return weight


def _moments(observed: Any, inputs: Sequence[Any], noise: np.ndarray) -> np.ndarray:
    leaves = flatten(observed).values()
    if any(isinstance(leaf, Masked) for leaf in leaves):
        raise Untold("observations are missing in part")
    y = _columns([np.asarray(leaf, np.float64) for leaf in leaves]) / noise
    given = [np.asarray(leaf) for leaf in jax.tree.leaves(inputs) if np.size(leaf)]
    if not given:
        return spectrum(second_moment(y))
    return spectrum(residual_moment(y, _columns([_numbers(leaf) for leaf in given])))


def _columns(leaves: Sequence[np.ndarray]) -> np.ndarray:
    rows = np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1)
    return rows - rows.mean(0)


def _numbers(leaf: np.ndarray) -> np.ndarray:
    """Return floats; each value of integers is a class, with an indicator of its own."""
    if np.issubdtype(leaf.dtype, np.floating):
        return leaf.astype(np.float64)
    values = np.unique(leaf)
    if len(values) > CLASSES:
        raise Untold(f"an input of {len(values)} different integers is neither a number nor a class")
    flat = leaf.reshape(len(leaf), -1)
    return (flat[..., None] == values).reshape(len(leaf), -1).astype(np.float64)
