"""Stratified resampling."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from ppl.distributions import categorical
from ppl.methods.resampling.protocol import Resampling, cumulative


@dataclasses.dataclass(frozen=True)
class stratified(Resampling):  # noqa: N801 - written like a call in programs: `stratified()`.
    """Draw ancestor i where a uniform point of [i / N, (i + 1) / N) falls among the cumulative weights (Kitagawa 1996).

    The ancestors are independent, each with probabilities of its own, so their densities are known.

    Example:
        >>> import jax, jax.numpy as jnp, ppl
        >>> scheme = ppl.methods.stratified()
        >>> ppl.seed(scheme.ancestors)(jax.random.key(0), jnp.zeros(4)).tolist()
        [0, 1, 2, 3]
    """

    def ancestors(self, log_weights):
        """Choose one ancestor in each stratum, as lanes of one choice."""
        count = log_weights.shape[0]
        starts, ends = cumulative(log_weights)
        edges = jnp.arange(count + 1) / count
        overlap = jnp.minimum(ends, edges[1:, None]) - jnp.maximum(starts, edges[:-1, None])
        return categorical(probs=jnp.maximum(overlap, 0) * count, grad=self.grad).sample("ancestors")
