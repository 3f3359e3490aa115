"""The biased strategy that takes a discrete value for its mean when it is differentiated."""

from __future__ import annotations

import dataclasses

from jax import lax

from ppl.strategies import Relaxation


@dataclasses.dataclass(frozen=True)
class straight_through(Relaxation):  # noqa: N801 - strategies read as words at the choice.
    """Draw the value, and give it the derivative of its probabilities: "dx = dp". BIASED.

    x = stop_gradient(b - p) + p, so the gradient is E[k'(b)] dp where k(1) - k(0) would be right (Bengio, Leonard and
    Courville 2013, section 4): unbiased for costs linear in each coin alone, of the wrong sign for others. A
    categorical choice is the vector of its one-hot weights. One evaluation. Of the program only arithmetic and one-hot
    codes of the value are allowed, see [`Relaxation`][ppl.strategies.Relaxation]; reports call it biased.

    Raises:
        StrategyError: The choice is neither bernoulli nor categorical, or its value is used as an index or predicate.

    Example:
        >>> import jax, ppl
        >>> from estimators import straight_through
        >>> cost = lambda p: (ppl.bernoulli(p, grad=straight_through()).sample() - 0.45) ** 2
        >>> gradients = jax.vmap(ppl.grad(cost), (0, None))(jax.random.split(jax.random.key(0), 2000), 0.3)
        >>> bool(abs(gradients.mean() + 0.3) < 0.1)  # The derivative of the mean is +0.1.
        True
    """

    def relaxed(self, key, logits):
        """Return exact draws with the tangents of their means."""
        mean = logits.soft(logits.values)
        return lax.stop_gradient(logits.hard(logits.values + logits.noise(key)) - mean) + mean
