"""The continuation of a choice as a strategy sees it: what other values of the choice would cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax


@dataclasses.dataclass(frozen=True)
class Costs:
    """Evaluate the costs that depend on a choice for other values of it; everything before it stays as it was.

    Every way to ask returns one number for each step, lane and batch element: the sum of the cost terms that depend
    on this element. The numbers have the tangents of the given value alone.

    Attributes:
        evaluate: Does the work.
    """

    evaluate: Callable[..., jax.Array]

    def __call__(self, value: Any, noise_key: Any = None) -> jax.Array:
        """Give each element its value by itself, where elements share costs: the others are as they were drawn.

        Args:
            value: Broadcasts to the choice's steps, lanes, batch and event.
            noise_key: Noise of the choices made afterwards; by default new at each call (`Strategy.common_noise`).
        """
        return self.evaluate(value, noise_key)

    def jointly(self, value: Any, noise_key: Any = None) -> jax.Array:
        """Give all lanes and batch elements their values at once: one evaluation, however many share a cost.

        The steps of a scan that share costs are still looked at one by one, as the distribution of a later step may
        depend on the value of an earlier one.

        Args:
            value: Broadcasts to the choice's steps, lanes, batch and event.
            noise_key: Noise of the choices made afterwards; by default new at each call (`Strategy.common_noise`).
        """
        return self.evaluate(value, noise_key, jointly=True)

    def relaxed(self, value: Any, noise_key: Any = None) -> jax.Array:
        """Evaluate the costs of numbers in place of a discrete value, elements that share costs one by one.

        A coin takes a float, a categorical choice weights along a last axis, see
        [`Relaxation`][ppl.strategies.Relaxation].

        Args:
            value: Floats that broadcast to the choice's steps, lanes and batch (and the weights of a categorical one).
            noise_key: Noise of the choices made afterwards; by default new at each call (`Strategy.common_noise`).

        Raises:
            StrategyError: The program uses the value as what only whole numbers are: an index, a predicate.
        """
        return self.evaluate(value, noise_key, relaxed=True)
