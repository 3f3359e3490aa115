"""Noise of which one choice's part comes from another key: what a choice adds to the variance of an estimator."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ppl.analysis.dependence import Location
from ppl.transforms.noise import KeyNoise

ALL, NONE = -2, -1


@dataclasses.dataclass
class SwappedNoise(KeyNoise):
    """Draw from one key, but the choices of one group from another.

    Attributes:
        other: The other key.
        group: For each choice, the number of its group.
        swapped: The group that is drawn from the other key; or `NONE`, or `ALL`.
    """

    other: Any = None
    group: Mapping[Location, int] = dataclasses.field(default_factory=dict)
    swapped: Any = NONE

    def key_at(self, location: Location):
        """Return the key of a choice."""
        from_other = (self.swapped == self.group[location]) | (self.swapped == ALL)
        own = jax.random.fold_in(jnp.where(from_other, self.other, self.key), self.digests[location])
        return functools.reduce(jax.random.fold_in, self.steps, own)

    def group_keys(self, members: tuple[Location, ...]):
        """Return the keys of choices that are drawn together, stacked: each from its own side."""
        return jnp.stack([self.key_at(member) for member in members])

    def enter(self, extra: Any) -> SwappedNoise:
        """Return the source for one step."""
        return dataclasses.replace(self, steps=(*self.steps, extra), groups={})

    def branch(self) -> SwappedNoise:
        """Return the source for a branch or a checkpointed body."""
        return dataclasses.replace(self, groups={})
