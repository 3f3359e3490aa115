"""Strategies that put real numbers in place of the values of a discrete choice, and differentiate through them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from ppl.family import Family
from ppl.strategies.protocol import Strategy
from ppl.support import Support

RELAXABLE = ("bernoulli", "categorical")


@dataclasses.dataclass(frozen=True)
class Logits:
    """The parameters of coins or categorical choices, with the noise that belongs to them.

    The choice is what `hard` makes of `values + noise(key)`: 1 where a coin's is positive; the largest of a vector.

    Attributes:
        values: Logits of coins, shape (*shape,); normalised log probabilities, shape (*shape, n).
        is_vector: Whether the last axis is that of the values of a categorical choice.
    """

    values: jax.Array
    is_vector: bool

    def noise(self, key: Any) -> jax.Array:
        """Draw logistic noise for coins, Gumbel noise for vectors."""
        draw = jax.random.gumbel if self.is_vector else jax.random.logistic
        return draw(key, self.values.shape, self.values.dtype)

    def hard(self, noisy: jax.Array) -> jax.Array:
        """Return 0 or 1, or one-hot vectors."""
        if self.is_vector:
            return jax.nn.one_hot(jnp.argmax(noisy, -1), noisy.shape[-1], dtype=noisy.dtype)
        return (noisy > 0).astype(noisy.dtype)

    def soft(self, noisy: jax.Array) -> jax.Array:
        """Return numbers in (0, 1), or weights that sum to 1; of `values` themselves, the probabilities."""
        return jax.nn.softmax(noisy) if self.is_vector else jax.nn.sigmoid(noisy)


@dataclasses.dataclass(frozen=True)
class Relaxation(Strategy):
    """The base of such strategies: a coin becomes a number, a categorical choice a vector of weights. BIASED.

    The program is rewritten for it: whatever is computed from the choice is computed with floats. A categorical value
    used as a number is the weighted mean of the indices, compared with an integer the weight of that index; what is
    defined for whole numbers only (indexing, branches, other comparisons) raises `StrategyError`. Subclasses say how
    the numbers are drawn.
    """

    mode: ClassVar[Any] = "relaxed"
    unbiased: ClassVar[bool] = False

    def check(self, family) -> str | None:
        """Refuse all but coins and categorical choices."""
        return None if family.name in RELAXABLE else "it is for bernoulli and categorical"

    def relaxed(self, key: Any, logits: Logits) -> jax.Array:
        """Draw relaxed values, of the shape of `logits.values`, whose derivatives are those of the estimate."""
        raise NotImplementedError(f"{type(self).__name__} has no `relaxed`")


@dataclasses.dataclass(frozen=True)
class Relaxed(Strategy):
    """What stands in a program that has been rewritten: pathwise, through the numbers of a relaxation.

    Attributes:
        of: The relaxation, or a strategy that evaluates the program with relaxed values of its own.
    """

    mode: ClassVar[Any] = "path"
    unbiased: ClassVar[bool] = False
    of: Strategy

    def __str__(self) -> str:
        return str(self.of)


_numbers = Support("not checked", lambda value, _: jnp.ones(value.shape, bool), lambda value, _: value, everywhere=True)


def relaxed_family(family: Family, strategy: Strategy) -> Family:
    """Return the family of relaxed values: log p is continued linearly, x log p(1) + (1 - x) log p(0)."""
    is_vector = family.name == "categorical"

    def sampler(key, params: Mapping[str, Any], shape):
        logits = Logits(_logits(params, shape, is_vector), is_vector)
        if isinstance(strategy, Relaxation):
            return strategy.relaxed(key, logits)
        return logits.hard(logits.values + logits.noise(key))

    def density(value, params):
        logits = _logits(params, (), is_vector)
        if is_vector:
            return (value * logits).sum(-1)
        return value * logits - jnp.logaddexp(logits, 0.0)

    return dataclasses.replace(
        family,
        support=_numbers,
        event_ndim=int(is_vector),
        discrete=False,
        enumerable=False,
        reparameterised=True,
        density=density,
        masses=None,
        log_masses=None,
        finite_with=(),
        variant=None,
        sampler=sampler,
    )


def _logits(params: Mapping[str, Any], shape: tuple[int, ...], is_vector: bool) -> jax.Array:
    """Return logits of coins or normalised log probabilities, broadcast to a shape."""
    if is_vector:
        logs = jax.nn.log_softmax(params["logits"]) if "logits" in params else _log(params["probs"])
        return jnp.broadcast_to(logs, np.broadcast_shapes((*shape, 1), logs.shape))
    logits = params["logits"] if "logits" in params else _log(params["probs"]) - _log(1 - params["probs"])
    return jnp.broadcast_to(logits, np.broadcast_shapes(shape, jnp.shape(logits)))


def _log(probs):
    return jnp.log(jnp.maximum(probs, jnp.finfo(jnp.result_type(probs)).tiny))
