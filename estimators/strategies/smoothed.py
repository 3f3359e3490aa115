"""What REBAR and RELAX share: a discrete choice as a function of continuous noise, and that noise given the choice.

b = H(z), z = logits + noise; z' is drawn from the law of z given b. For every function c of z, and every cost k of b,

    E[(k(b) - c(z')) d log p(b) + d c(z) - d c(z')] = d E k(b),

as E[c(z') d log p(b) + d c(z')] = d E c(z) (Tucker et al. 2017, eq. 7; Grathwohl et al. 2018, eq. 9).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from estimators.strategies.flips import logits_of

FAMILIES = ("bernoulli", "categorical")
NOT_DISCRETE = "it is for bernoulli and categorical"


@dataclasses.dataclass(frozen=True)
class Smoothed:
    """A choice made by thresholding logistic noise (coins), or by the largest of Gumbel noises (categorical).

    Attributes:
        is_vector: Whether the choice is categorical: then z has a last axis, that of its values.
    """

    is_vector: bool

    @staticmethod
    def of(d) -> Smoothed:
        """Return that of a distribution."""
        return Smoothed(d.family.name == "categorical")

    def logits(self, d) -> jax.Array:
        """Return logits of coins, or normalised log probabilities, over all elements."""
        if not self.is_vector:
            return logits_of(d)
        if "logits" in d.params:
            logs = jax.nn.log_softmax(d.params["logits"])
        else:
            logs = jnp.log(d.params["probs"])
        return jnp.broadcast_to(logs, d.shape + logs.shape[-1:])

    def uniforms(self, key, logits) -> tuple[jax.Array, jax.Array]:
        """Draw the noise of z and of z': numbers in (0, 1)."""
        tiny = jnp.finfo(logits.dtype).tiny
        return tuple(jax.random.uniform(key, (2, *logits.shape), logits.dtype, minval=tiny))

    def noisy(self, logits, u) -> jax.Array:
        """Return z."""
        return logits - jnp.log(-jnp.log(u)) if self.is_vector else logits + jnp.log(u) - jnp.log1p(-u)

    def value(self, z) -> jax.Array:
        """Return b = H(z)."""
        return jnp.argmax(z, -1) if self.is_vector else (z > 0).astype(jnp.int32)

    def log_prob(self, logits, b) -> jax.Array:
        """Return log p(b)."""
        if self.is_vector:
            return jnp.take_along_axis(jax.nn.log_softmax(logits), b[..., None], -1)[..., 0]
        return jax.nn.log_sigmoid(jnp.where(b == 1, logits, -logits))

    def given(self, logits, b, v) -> jax.Array:
        """Return z': z given b, from other noise, differentiable in the logits."""
        if self.is_vector:
            return self._gumbels(jax.nn.log_softmax(logits), b, v)
        p = jax.nn.sigmoid(logits)
        log_u = jnp.where(b == 1, jnp.log1p(-p * (1 - v)), jnp.log(v) + jax.nn.log_sigmoid(-logits))
        log_1_u = jnp.where(b == 1, jax.nn.log_sigmoid(logits) + jnp.log1p(-v), jnp.log1p(-v * (1 - p)))
        return logits + log_u - log_1_u

    @staticmethod
    def _gumbels(logs, b, v):
        """The largest Gumbel has location 0, whichever it is; the others stay below it (Tucker et al., appendix B)."""
        own = jax.nn.one_hot(b, logs.shape[-1], dtype=bool)
        largest = -jnp.log(jnp.where(own, v, 1).prod(-1, keepdims=True))  # exp(-largest Gumbel)
        others = -jnp.log(-jnp.log(v) / jnp.exp(logs) + largest)
        return jnp.where(own, -jnp.log(largest), others)

    def gradient(self, logits, u, v, k: Callable[[Any], jax.Array], c: Callable[[Any], jax.Array]) -> jax.Array:
        """Return the estimate of the gradient with respect to the logits.

        Args:
            logits: Logits, shape (*shape,) or (*shape, n).
            u: Noise of z.
            v: Noise of z'.
            k: Costs of values.
            c: The control variate: maps z to numbers of the shape of the costs, each computed from its element of z.
        """
        fixed = lax.stop_gradient(logits)
        b = self.value(self.noisy(fixed, u))
        costs = lax.stop_gradient(k(b))

        def surrogate(logits):
            inside = c(self.given(logits, b, v))
            score = self.log_prob(logits, b) - self.log_prob(fixed, b)  # 0, with the score as its derivative
            return ((costs - inside) * score + c(self.noisy(logits, u)) - inside).sum()

        return jax.grad(surrogate)(fixed)

    def along(self, gradient, logits) -> jax.Array:
        """Return numbers whose derivatives with respect to the logits are a gradient."""
        return self.summed(lax.stop_gradient(gradient) * logits)

    def summed(self, x) -> jax.Array:
        """Sum over the last axis of vectors."""
        return x.sum(-1) if self.is_vector else x
