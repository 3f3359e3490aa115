"""Minibatches inside a program: global and local choices."""

from __future__ import annotations

from typing import Any

import jax

from ppl._errors import PPLError, boundary, user_source
from ppl.choice import Choice, Pending, as_path, note_pending
from ppl.generative import GenerativeFunction
from ppl.specs import subset


class Subsample(Pending):
    """A generative function to be run on some of n elements."""

    noun = "subsample"

    def __init__(self, n: int, size: int, gf: GenerativeFunction, args: tuple):
        self.n, self.size, self.gf, self.args = n, size, gf, args
        self.source, self.used = user_source(), False
        note_pending(self)

    def __repr__(self) -> str:
        return f"subsample({self.n}, {self.size}, {self.gf.name})(...)"

    @boundary
    def __matmul__(self, address: Any) -> Any:
        """Draw indices under `address/indices` and run the function on each of them, as lanes."""
        self.used = True
        path = as_path(address)
        n, size, gf = self.n, self.size, self.gf

        def elements(*args):
            indices = Choice(subset(n, size), [], None, None) @ "indices"
            return jax.vmap(lambda index: gf.inline(index, *args))(indices)

        elements.__name__ = gf.name
        return GenerativeFunction(elements)(*self.args) @ path


def subsample(n: int, size: int, gf: GenerativeFunction):
    """Run a generative function on a random subset of n elements: `subsample(n, size, gf)(*args) @ "a"`.

    The indices are a choice at `a/indices`, which a guide shares by subsampling under the same address. Inside,
    `gf(i, *args)` runs as lanes; log densities are multiplied by n / size, so that sums over the subset are unbiased
    for sums over all elements. Values given for choices inside may have a leading axis n: the drawn rows are taken.
    With size = n every element is there, in order.

    Args:
        n: Number of elements.
        size: Number of elements drawn, without replacement.
        gf: Called as `gf(i, *args)`, i an int32 scalar.

    Returns:
        A function of `*args` that returns what is to be addressed.

    Raises:
        PPLError: `size` is not between 1 and n.

    Example:
        >>> import jax, jax.numpy as jnp, ppl
        >>> @ppl.gen
        ... def point(i, loc):
        ...     ppl.normal(loc, 1.0) @ "x"
        >>> model = ppl.gen(lambda loc: ppl.subsample(1_000, 10, point)(loc) @ "data")
        >>> model.simulate(jax.random.key(0), 0.0)["data/x"].shape
        (10,)
    """
    if not (isinstance(n, int) and isinstance(size, int) and 1 <= size <= n):
        raise PPLError("`subsample` takes 1 <= size <= n.", where=user_source(), got=f"n = {n}, size = {size}")
    gf = gf if isinstance(gf, GenerativeFunction) else GenerativeFunction(gf)
    return lambda *args: Subsample(n, size, gf, args)
