"""Residual resampling."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from ppl._errors import StrategyError, user_source
from ppl.distributions import categorical
from ppl.methods.resampling.protocol import Resampling, usable
from ppl.transforms.guards import forbid_tangents


def _jumps() -> StrategyError:
    return StrategyError(
        "A derivative reaches the weights of residual resampling, whose law jumps where a number of copies changes.",
        where=user_source(),
        expected="resampling whose law is continuous in the weights",
        got="residual()",
        remedy="use multinomial(), stratified() or systematic(); or detach the weights with `estimators.dropped()`",
    )


@dataclasses.dataclass(frozen=True)
class residual(Resampling):  # noqa: N801 - written like a call in programs: `residual()`.
    """Copy each particle floor(N w) times, and draw the rest from what is left of the weights (Liu and Chen 1998).

    A sure copy and a random one with probability near 1 are not the same, so the law is not continuous in the weights:
    derivatives are refused.

    Example:
        >>> import jax, jax.numpy as jnp, ppl
        >>> scheme = ppl.methods.residual()
        >>> ppl.seed(scheme.ancestors)(jax.random.key(0), jnp.log(jnp.array([0.5, 0.25, 0.25, 0.0]))).tolist()[:3]
        [0, 0, 1]
    """

    def ancestors(self, log_weights):
        """Choose ancestors: sure copies first."""
        if self.grad.unbiased:
            (log_weights,) = forbid_tangents([log_weights], _jumps)
        log_weights = jax.lax.stop_gradient(log_weights)
        count = log_weights.shape[0]
        expected = jax.nn.softmax(usable(log_weights)) * count
        copies = jnp.floor(expected + 1e-5 / count)  # Rounding must not lose a copy.
        rest = jnp.maximum(expected - copies, 0.0)
        sure = jnp.repeat(jnp.arange(count), copies.astype(int), total_repeat_length=count)
        logits = jnp.log(jnp.where(rest.sum() > 0, rest, 1.0))
        drawn = categorical(logits=jnp.broadcast_to(logits, (count, count)), grad=self.grad).sample("ancestors")
        return jnp.where(jnp.arange(count) < copies.sum(), sure, drawn)
