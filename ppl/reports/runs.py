"""Runs of a gradient estimator over pairs of keys, and what is computed from them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ppl import jaxprs
from ppl._errors import StrategyError
from ppl.analysis.dependence import Location
from ppl.analysis.plan import make_plan, num_states
from ppl.passes.draws import Draws, plan_draws
from ppl.reports.pick_freeze import ALL, SwappedNoise
from ppl.transforms.expect import estimator, prepare
from ppl.transforms.grad import Selected
from ppl.transforms.noise import KeyNoise
from ppl.transforms.programs import Program, label_of, list_places

CHUNK = 250
"""Largest number of pairs of runs that are evaluated at once."""
MOST_NUMBERS = 2**24
"""Largest number of elements of all gradients that are evaluated at once."""
MOST_STATES = 2**10
"""Largest number of joint values with which another strategy is tried."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number estimated by sampling, with its standard error."""

    value: float
    error: float

    def __str__(self) -> str:
        if self.error == 0:
            return f"{self.value:.4g}"
        if not 1e-3 < self.error <= abs(self.value) < 1e6:
            return f"{self.value:.3g} ± {self.error:.1g}"
        digits = max(0, 1 - math.floor(math.log10(self.error)))
        return f"{self.value:.{digits}f} ± {self.error:.{digits}f}"


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Pairs of keys in chunks of one size.

    Attributes:
        chunks: Arrays of keys of shape (chunk, 2).
        count: Number of pairs.
    """

    chunks: Sequence[jax.Array]
    count: int

    @classmethod
    def of(cls, key: jax.Array, samples: int, size: int) -> Pairs:
        """Make at least `samples` pairs, for gradients of this many elements."""
        count = math.ceil(samples / max(1, min(CHUNK, MOST_NUMBERS // max(size, 1))))
        chunk = math.ceil(samples / count)
        keys = jax.random.split(key, (count * chunk, 2))
        return cls([keys[i * chunk : (i + 1) * chunk] for i in range(count)], count * chunk)


class Bar:
    """A progress bar on stderr: chunks of runs."""

    def __init__(self, total: int, show: bool | None):
        from tqdm import tqdm

        self._bar = tqdm(total=total, unit="chunk", delay=1.0, disable=None if show is None else not show)

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def advance(self, chunks: int = 1) -> None:
        """Count chunks."""
        self._bar.update(chunks)


@dataclasses.dataclass(frozen=True)
class Moments:
    """What is kept of the runs of one estimator.

    Attributes:
        halves: For each pair, |g(A) - g(B)|**2 / 2: its mean is the variance.
        mean: Mean of the gradient, all elements in one vector.
        elementwise: Variance of each element.
    """

    halves: np.ndarray
    mean: np.ndarray
    elementwise: np.ndarray

    @property
    def variance(self) -> Estimate:
        """Variance of one run, summed over the elements."""
        return Estimate(float(self.halves.mean()), float(self.halves.std(ddof=1) / math.sqrt(len(self.halves))))


@dataclasses.dataclass(frozen=True)
class Runs:
    """A program's gradient as a function of noise."""

    program: Program
    selected: Selected

    @property
    def size(self) -> int:
        """Number of elements of the gradient."""
        return sum(value.size for value in self.selected.values)

    def restore(self, vector: np.ndarray) -> Any:
        """Return a vector of all elements in the structure of the argument."""
        sizes = [value.size for value in self.selected.values]
        parts = np.split(vector, np.cumsum(sizes)[:-1])
        return self.selected.restore(
            [part.reshape(value.shape) for part, value in zip(parts, self.selected.values, strict=True)]
        )

    def with_strategy(self, sites: Sequence[Location], strategy: Any) -> Runs:
        """Return the runs of the program in which some choices have another strategy."""
        body = jaxprs.with_params(self.program.staged.body, {site: {"strategy": strategy} for site in sites})
        staged = dataclasses.replace(self.program.staged, body=body)
        changed = Program(self.program.name, staged, self.program.leaves, *list_places(body))
        plan = make_plan(body, changed.places, [False])
        for site in sites:
            if plan.modes.get(site) == "enumerate" and num_states(plan, site) > MOST_STATES:
                raise StrategyError(f"{label_of(plan.places[site])!r} has more than {MOST_STATES} joint values.")
        return dataclasses.replace(self, program=prepare(changed, [False], MOST_STATES))

    def gradient(self) -> Callable[[Any], jax.Array]:
        """Return the gradient of one run as a function of the source of noise."""
        program, selected = self.program, self.selected
        estimate = estimator(program, [False])

        def gradient(noise):
            def run(values):
                leaves, _ = jaxprs.split((tuple(selected.fill(values)), {}))
                return estimate(noise, leaves)[0]

            return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.grad(run)(selected.values)])

        return gradient

    def moments(self, pairs: Pairs, bar: Bar) -> Moments:
        """Run every pair."""
        gradient, digests = self.gradient(), self.program.digests
        draws = plan_draws(self.program.staged.body)

        def chunk(keys):
            gradients = jax.vmap(jax.vmap(lambda key: gradient(KeyNoise(key, digests, draws))))(keys)
            return _reduced(gradients[:, 0], gradients[:, 1])

        return _moments(_run(jax.jit(chunk), pairs, bar))


def _reduced(first, second):
    """Return what is kept of a chunk of pairs."""
    return _half(first - second), (first + second).mean(0) / 2, ((first - second) ** 2).mean(0) / 2


def _half(difference):
    return (difference**2).sum(-1) / 2


def _run(compiled: Callable, pairs: Pairs, bar: Bar) -> list:
    found = []
    for keys in pairs.chunks:
        found.append([np.asarray(part, np.float64) for part in compiled(keys)])
        bar.advance()
    return found


def _moments(found: Sequence) -> Moments:
    halves, means, variances = zip(*(parts[:3] for parts in found), strict=True)
    return Moments(np.concatenate(halves), np.mean(means, 0), np.mean(variances, 0))


def shares(runs: Runs, group: Mapping[Location, int], count: int, pairs: Pairs, bar: Bar):
    """Return the moments of a program, and the total and own share of each group of its choices.

    Args:
        runs: The program as it was staged.
        group: The number of each choice's group.
        count: The number of groups.
        pairs: Pairs of keys.
        bar: Counts the chunks.
    """
    prepared = dataclasses.replace(runs, program=prepare(runs.program, [False]))
    gradient, digests = prepared.gradient(), prepared.program.digests
    same = prepared.program.staged.body is runs.program.staged.body
    by_site = group if same else _groups_after(runs.program, prepared.program, group)

    draws = Draws({}, plan_draws(prepared.program.staged.body).steps)  # Each choice by itself: their keys differ.

    def one(pair):  # All runs in one loop: the program is traced and compiled once.
        swap = lambda swapped: gradient(
            SwappedNoise(pair[0], digests, draws, other=pair[1], group=by_site, swapped=swapped)
        )
        return lax.map(swap, jnp.arange(ALL, count))

    def chunk(keys):
        gradients = jax.vmap(one)(keys)
        second, first, mixed = gradients[:, 0], gradients[:, 1], gradients[:, 2:]
        return *_reduced(first, second), _half(first[:, None] - mixed), _half(second[:, None] - mixed)

    found = _run(jax.jit(chunk), pairs, bar)
    now = _moments(found)
    without, alone = (np.concatenate([parts[i] for parts in found]) for i in (3, 4))
    return now, [(_ratio(without[:, i], now.halves), _one_minus(_ratio(alone[:, i], now.halves))) for i in range(count)]


def _groups_after(before: Program, after: Program, group: Mapping[Location, int]) -> dict[Location, int]:
    """Find the groups of choices again where scans have been written out: by label and source."""
    name = lambda place: (label_of(place), place.eqn.params["source"])
    named = {name(before.places[site]): number for site, number in group.items()}
    return {
        site: group.get(site, named[name(place)]) if after is before else named[name(place)]
        for site, place in after.places.items()
    }


def _ratio(above: np.ndarray, below: np.ndarray) -> Estimate:
    """Estimate the ratio of two means from pairs (delta method)."""
    if below.mean() == 0:
        return Estimate(0.0, 0.0)
    ratio = above.mean() / below.mean()
    return Estimate(float(ratio), float((above - ratio * below).std(ddof=1) / math.sqrt(len(above)) / below.mean()))


def _one_minus(estimate: Estimate) -> Estimate:
    return Estimate(1 - estimate.value, estimate.error)


def compare(other: Moments, now: Moments) -> tuple[Estimate | None, float]:
    """Return the ratio of two variances, and how many standard errors the means are apart at least."""
    ratio = None if now.halves.mean() == 0 else _ratio(other.halves, now.halves)
    difference = np.abs(other.mean - now.mean)
    spread = (np.sqrt(other.elementwise) + np.sqrt(now.elementwise)) / math.sqrt(2 * len(now.halves))
    rounding = 1e-5 * (np.abs(other.mean) + np.abs(now.mean) + np.abs(now.mean).max(initial=0)) + 1e-30
    return ratio, float((difference / (spread + rounding)).max(initial=0))
