"""The biased strategy that smooths a discrete choice."""

from __future__ import annotations

import dataclasses

from jax import lax

from ppl import StrategyError
from ppl._errors import user_source
from ppl.strategies import Relaxation


@dataclasses.dataclass(frozen=True)
class gumbel_softmax(Relaxation):  # noqa: N801 - strategies read as words at the choice.
    """Put softmax((log p + g) / temperature), g Gumbel noise, in place of the choice. BIASED.

    A coin becomes sigmoid((logit + noise) / temperature), noise logistic (Jang, Gu and Poole 2017; Maddison, Mnih and
    Teh 2017, eq. 2 and 10). Value and gradient are those of another, continuous model: the bias goes to 0 with the
    temperature, and the variance grows as its inverse. With `hard` the value is that of the discrete choice and the
    gradient that of the smooth one, which is exact for no model. One evaluation. Of the program only arithmetic and
    one-hot codes of the value are allowed, see [`Relaxation`][ppl.strategies.Relaxation]; reports call it biased.

    Args:
        temperature: Positive.
        hard: Whether to draw whole values ("straight-through Gumbel-softmax").

    Raises:
        StrategyError: The temperature is not positive, the choice is neither bernoulli nor categorical, or its value is
            used as an index or predicate.

    Example:
        >>> import jax, jax.numpy as jnp, ppl
        >>> from estimators import gumbel_softmax
        >>> def cost(t):
        ...     k = ppl.categorical(logits=t * jnp.arange(3.0), grad=gumbel_softmax(0.5)).sample()
        ...     return jax.nn.one_hot(k, 3) @ jnp.arange(3.0)
        >>> gradients = jax.vmap(ppl.grad(cost), (0, None))(jax.random.split(jax.random.key(0), 2000), 0.3)
        >>> bool(0.3 < gradients.mean() < 0.64)  # The derivative of the mean is 0.6378.
        True
    """

    temperature: float = 0.5
    hard: bool = False

    def __post_init__(self):
        if not self.temperature > 0:
            raise StrategyError(
                "`gumbel_softmax` takes a positive temperature.",
                where=user_source(),
                expected="a number above 0",
                got=repr(self.temperature),
                remedy="use `straight_through()` for the limit of hard values",
            )

    def __str__(self) -> str:
        return f"gumbel_softmax({self.temperature}{', hard' if self.hard else ''})"

    def relaxed(self, key, logits):
        """Return smoothed draws, or whole ones with their tangents."""
        noisy = logits.values + logits.noise(key)
        soft = logits.soft(noisy / self.temperature)
        return lax.stop_gradient(logits.hard(noisy) - soft) + soft if self.hard else soft
