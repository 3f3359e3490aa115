"""Multinomial resampling."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax.numpy as jnp

from ppl.distributions import categorical
from ppl.methods.resampling.protocol import Resampling, usable


@dataclasses.dataclass(frozen=True)
class multinomial(Resampling):  # noqa: N801 - written like a call in programs: `multinomial()`.
    """Draw every ancestor independently with the normalised weights as probabilities (Gordon et al. 1993).

    Example:
        >>> import jax, jax.numpy as jnp, ppl
        >>> scheme = ppl.methods.multinomial()
        >>> ppl.seed(scheme.ancestors)(jax.random.key(0), jnp.array([0.0, -jnp.inf])).tolist()
        [0, 0]
    """

    conditional: ClassVar[bool] = True

    def ancestors(self, log_weights):
        """Choose N ancestors, as lanes of one choice."""
        logits = jnp.broadcast_to(usable(log_weights), 2 * log_weights.shape)
        return categorical(logits=logits, grad=self.grad).sample("ancestors")

    def conditional_ancestors(self, log_weights):
        """Choose all but the first."""
        logits = jnp.broadcast_to(usable(log_weights), (log_weights.shape[0] - 1, log_weights.shape[0]))
        others = categorical(logits=logits, grad=self.grad).sample("ancestors")
        return jnp.concatenate([jnp.zeros(1, others.dtype), others])
