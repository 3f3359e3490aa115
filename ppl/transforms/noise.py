"""Sources of noise: a key, or (for the exact oracle) a table that says which value each choice takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ppl.analysis.dependence import Location
from ppl.choice import View


@dataclasses.dataclass
class KeyNoise:
    """Draw from keys folded from one key, the steps of the scans around a choice, and the choice's name."""

    key: Any
    digests: Mapping[Location, int]

    def key_at(self, location: Location):
        """Return the key of a choice."""
        return jax.random.fold_in(self.key, self.digests[location])

    def draw(self, location: Location, view: View):
        """Draw a choice."""
        return view.draw(self.key_at(location))

    def scan_inputs(self, here: Location, length: int):
        """Return what a scan hands to `enter` in each step."""
        return jnp.arange(length, dtype=jnp.uint32)

    def enter(self, extra: Any) -> KeyNoise:
        """Return the source for one step."""
        return KeyNoise(jax.random.fold_in(self.key, extra), self.digests)

    def branch(self) -> KeyNoise:
        """Return the source for a branch or a checkpointed body."""
        return self

    def leave(self) -> Any:
        """Return what a body hands out."""
        return ()

    def absorb(self, extra: Any, how: str) -> None:
        """Take in what a body handed out."""

    def skip(self, here: Location, taken: int, count: int) -> None:
        """Account for the choices in branches of a cond that are not taken."""
