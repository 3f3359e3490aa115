"""The score function with values drawn from another distribution."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ppl import Strategy, StrategyError


@dataclasses.dataclass(frozen=True)
class importance(Strategy):  # noqa: N801 - strategies read as words at the choice.
    """Draw x from a proposal q and weigh its score: E_q[p(x) / q(x) k(x) d log p(x)].

    Any cost; p must be positive only where q is, which cannot be checked. One evaluation of the costs, beside that of
    the value of the objective, which comes from a draw of p and is not weighted. The best proposal is proportional to
    p |k s|, s the score: it takes away noise where rare values matter; a q with lighter tails than p makes the variance
    infinite.

    Args:
        proposal: Maps the parameters of the choice, by name and without tangents, to an object of the same event shape
            with `sample(key, shape)` and `log_prob(value)`, such as a distribution of NumPyro. Its batch shape is the
            choice's or broadcasts to it.

    Raises:
        StrategyError: The support of the choice moves with its parameters, or the proposal draws something else.

    Example:
        >>> import jax, numpyro.distributions as dist, ppl
        >>> from estimators import importance
        >>> wide = importance(lambda probs: dist.Bernoulli(0.5))
        >>> cost = lambda p: ppl.bernoulli(p, grad=wide).sample() * 1.0
        >>> gradients = jax.vmap(ppl.grad(cost), (0, None))(jax.random.split(jax.random.key(0), 1000), 0.01)
        >>> bool(abs(gradients.mean() - 1) < 0.2), bool(gradients.var() < 1.1)  # The score's variance is 99.
        (True, True)
    """

    proposal: Callable[..., Any]

    def __str__(self) -> str:
        return f"importance({getattr(self.proposal, '__name__', type(self.proposal).__name__)})"

    def check(self, family) -> str | None:
        """Refuse supports that move."""
        return "its support moves with its parameters" if family.support.moving else None

    def estimate(self, key, d, k):
        """Draw from the proposal, and return the estimate for the value."""
        proposal = self._over(d)
        lead = d.shape[: len(d.shape) - len(getattr(proposal, "batch_shape", ()))]
        drawn = jax.eval_shape(lambda key: proposal.sample(key, lead), key)
        wanted = jax.eval_shape(d.sample, key)
        is_float = [jnp.issubdtype(value.dtype, jnp.inexact) for value in (drawn, wanted)]
        if drawn.shape != wanted.shape or is_float[0] != is_float[1]:
            raise self._wrong(d, wanted, drawn)
        x = lax.stop_gradient(proposal.sample(key, lead))
        return self.given(x, d, k, jnp.broadcast_to(proposal.log_prob(x), d.shape))

    def _over(self, d):
        """Return the proposal; one of batch axes of size 1 would give several elements one value."""
        proposal = self.proposal(**lax.stop_gradient(d.params))
        batch = getattr(proposal, "batch_shape", ())
        fits = len(batch) == len(d.shape) and all(a in (1, b) for a, b in zip(batch, d.shape, strict=True))
        return proposal.expand(d.shape) if fits and batch != d.shape else proposal

    @staticmethod
    def given(x, d, k, log_proposal):
        """Return p(x) / q(x) k(x) log p(x)."""
        log_prob = d.log_prob(x)
        weight = jnp.exp(lax.stop_gradient(log_prob - log_proposal))
        safe = jnp.where(weight > 0, log_prob, 0.0)  # Outside of p's support the weight is 0, and log p is -inf.
        return weight * lax.stop_gradient(k(jnp.asarray(x))) * safe

    def _wrong(self, d, wanted, drawn) -> StrategyError:
        return StrategyError(
            f"The proposal of `{self}` does not draw values of `{d.family}`.",
            where=d.where,
            expected=f"values of shape {wanted.shape} and dtype {wanted.dtype}",
            got=f"shape {drawn.shape} and dtype {drawn.dtype}",
            remedy="return a distribution with the event shape and the dtype of the choice's values",
        )
