"""Several values of one choice, each the baseline of the others."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from ppl import Strategy


@dataclasses.dataclass(frozen=True)
class leave_one_out(Strategy):  # noqa: N801
    """Draw k values; charge each with its cost less the mean cost of the others (Kool, van Hoof and Welling 2019).

    The gradient is mean_i (c(x_i) - mean_{j != i} c(x_j)) d log p(x_i): unbiased for any cost and any density whose
    support does not move, at k evaluations of the costs that depend on the choice.

    Args:
        samples: How many values, at least 2.

    Example:
        >>> import jax, ppl
        >>> from estimators import leave_one_out
        >>> cost = lambda p: ppl.bernoulli(p, grad=leave_one_out(4)).sample() + 100.0
        >>> gradients = jax.vmap(ppl.grad(cost), (0, None))(jax.random.split(jax.random.key(0), 1000), 0.5)
        >>> bool(abs(gradients.mean() - 1) < 0.1)
        True
    """

    samples: int = 2

    def check(self, family) -> str | None:
        """Refuse a single sample, and supports that move."""
        if self.samples < 2:
            return "it needs at least 2 samples"
        return "its support moves with its parameters" if family.support.moving else None

    def estimate(self, key, d, k):
        """Return mean_i (c_i - mean of the others) log p(x_i)."""
        draw_key, cost_key = jax.random.split(key)
        values = lax.stop_gradient(jax.vmap(d.sample)(jax.random.split(draw_key, self.samples)))
        costs = lax.stop_gradient(jax.vmap(k)(values, jax.random.split(cost_key, self.samples)))
        others = (costs.sum(0) - costs) / (self.samples - 1)
        return jnp.mean((costs - others) * jax.vmap(d.log_prob)(values), 0)
