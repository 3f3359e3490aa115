"""Messages along a chain as products of matrices, where its factors are those of a hidden Markov model.

That is: one state, handed on from step to step; one table over two of them that follow one another; and vectors over
one, each with lanes or without. Everything else is left to the loop of logarithms (`ppl.summation.messages`), and so is
a table with numbers so small that rounding would lose what follows from them (zeros among them).

How the product is made depends on device, length n and number of states k. A loop costs n k^2 operations and n waits, a
tree n k^3 operations and log2(n) waits. On a CPU the loop is faster from some dozens of steps on, and never much
slower. On a device where a step of a loop takes some 10 microseconds whatever it does, the tree is, as long as k^3
operations take less than that and its n k^2 numbers fit into memory.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ppl.summation.factors import Dim, LogFactor, Scene
from ppl.summation.scaled import message, sequentially
from ppl.summation.tree import as_tree

TREE_STATES = 256
"""Largest number of states for which a device other than a CPU multiplies matrices as a tree."""
TREE_ELEMENTS = 2**28
"""Largest number of elements of all matrices of a tree."""


@dataclasses.dataclass(frozen=True)
class Matrices:
    """The steps of a chain, in the order in which a message passes them.

    Attributes:
        table: Logarithms over the state that is summed and the one that is left, for all steps or one each.
        before: Logarithms over the former, or None: (steps, *lanes, states), or without steps.
        after: Logarithms over the latter, or None.
        steps: Their number.
    """

    table: jax.Array
    before: Any
    after: Any
    steps: int

    def message(self, init: jax.Array, parallel: bool | None, exact: Callable[[], jax.Array]) -> jax.Array:
        """Return the message after all steps, states first, lanes behind.

        Args:
            init: The message before them.
            parallel: Whether to multiply as a tree; None: see [`prefers_tree`][].
            exact: Returns the same, computed in logarithms.
        """
        start = jnp.moveaxis(init, 0, -1)
        shape = (self.steps, *start.shape)
        gains = jnp.zeros(shape, init.dtype)
        if self.after is not None:
            gains = gains + self.after
        if self.before is not None:
            before = jnp.broadcast_to(self.before, shape)
            gains = gains.at[:-1].add(before[1:])
            start = start + before[0]
        tree = prefers_tree(self.steps, gains[0].size) if parallel is None else parallel
        multiply = as_tree if tree else sequentially
        # Of what is not done, only what it starts from is kept for derivatives.
        other = jax.checkpoint(lambda: jnp.moveaxis(exact(), 0, -1))
        return jnp.moveaxis(message(start, self.table, gains, multiply, other), -1, 0)


def prefers_tree(steps: int, states: int) -> bool:
    """Tell whether a tree is the faster way on the device in use; lanes count as states."""
    device = jax.config.jax_default_device
    platform = getattr(device, "platform", device) or jax.default_backend()
    return platform != "cpu" and states <= TREE_STATES and steps * states**2 <= TREE_ELEMENTS


def as_matrices(scene: Scene, course: Any, steps: Sequence[LogFactor], dims: tuple[Dim, ...], count: int):
    """Sort the factors of a chain into those of a hidden Markov model; None, if there are others."""
    if len(course.enters) != 1 or len(course.leaves) != 1 or course.enters == course.leaves:
        return None
    ends = (*course.enters, *course.leaves)
    pairs = [factor for factor in steps if {*factor.axes} == {*ends}]
    vectors = {end: [factor for factor in steps if factor.axes == (end,)] for end in ends}
    if not pairs or len(pairs) + sum(map(len, vectors.values())) < len(steps) or any(one.dims for one in pairs):
        return None
    turned = lambda factor: factor.raw if factor.axes == ends else jnp.swapaxes(factor.raw, -1, -2)
    spread = [_spread(scene, vectors[end], dims) for end in ends]
    if any(part is False for part in spread):
        return None
    ordered = lambda raw, rank: raw if raw is None or raw.ndim == rank or not course.reverse else raw[::-1]
    table = sum(turned(factor) for factor in pairs)
    before, after = [ordered(part, 1 + len(dims)) for part in spread]
    return Matrices(ordered(table, 2), before, after, count)


def _spread(scene: Scene, factors: Sequence[LogFactor], dims: tuple[Dim, ...]) -> Any:
    """Add up vectors, lanes before states; False, if one has lanes of other choices that cannot be multiplied here."""
    total = None
    for factor in factors:
        if scene.reduced(scene.ordered(_bare(factor)), dims) is None:
            return False
        one = lambda raw, factor=factor: _laid_out(scene, factor, raw, dims)
        found = jax.vmap(one)(factor.raw) if factor.varies else one(factor.raw)
        total = found if total is None else total + found
    return total


def _bare(factor: LogFactor) -> LogFactor:
    """Return what a factor is in one step."""
    raw = factor.raw[0] if factor.varies else factor.raw
    return dataclasses.replace(factor, raw=raw, varies=False)


def _laid_out(scene: Scene, factor: LogFactor, raw: Any, dims: tuple[Dim, ...]) -> Any:
    one = scene.reduced(scene.ordered(dataclasses.replace(factor, raw=raw, varies=False)), dims)
    return jnp.moveaxis(scene.product([one], one.axes, dims), 0, -1)
