"""How large a step in target space is: constants, schedules, line search, AdaGrad."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from estimators.objectives.checks import require_number
from ppl import PPLError
from ppl._errors import user_source

_positive = lambda name, value, usage: require_number(usage, name, value, "a positive number", lambda x: 0 < x < 1e30)


@dataclasses.dataclass(frozen=True)
class LineSearch:
    """Armijo's rule along the gradient at the target; the model is not evaluated (Vaswani et al. 2019).

    The step is the last one times `growth`, and shrunk until loss(z - eta G) <= loss(z) - c eta ||G||^2, with the same
    randomness on both sides. G and the norm are those of one example where the divergence is `per_example`.

    Args:
        initial: First step to be tried, before growth.
        growth: How much the last step grows.
        shrink: By how much a step that fails is multiplied.
        c: Share of the decrease that a straight line promises.
        least: Smallest step.
        largest: Largest step.

    Raises:
        PPLError: A number is out of range.

    Example:
        >>> from estimators import LineSearch
        >>> LineSearch(initial=4.0).shrink
        0.9
    """

    initial: float = 1.0
    growth: float = 1.8
    shrink: float = 0.9
    c: float = 0.5
    least: float = 1e-4
    largest: float = 1e4

    def __post_init__(self):
        inside = lambda x: 0 < x < 1
        for name in ("shrink", "c"):
            require_number("LineSearch", name, getattr(self, name), "a number between 0 and 1", inside)
        for name in ("initial", "growth", "least", "largest"):
            _positive(name, getattr(self, name), "LineSearch")

    def init(self) -> jax.Array:
        """Return the state: the last step."""
        return jnp.asarray(self.initial)

    def size(self, last: jax.Array, count: Any, grad: Any, weight: float, at: Any, value_fn: Callable | None) -> tuple:
        """Return the step and the new state."""
        if value_fn is None:
            raise PPLError(
                "A line search has to evaluate the loss at other targets.",
                where=user_source(),
                expected="`target_value_fn`, a function of the target, with the randomness of the gradient",
                got="None",
                remedy="pass `target_value_fn=` to `update`, or train a `ppl.training.Targeted`, which does so",
            )
        start = value_fn(at)
        decrease = self.c * _square(grad) / weight
        moved = lambda eta: jax.tree.map(lambda z, g: z - (eta / weight).astype(z.dtype) * g, at, grad)
        fails = lambda eta: ~(value_fn(moved(eta)) <= start - eta * decrease) & (eta > self.least)
        first = jnp.clip(self.growth * last, self.least, self.largest)
        eta = jax.lax.while_loop(fails, lambda eta: jnp.maximum(eta * self.shrink, self.least), first)
        return eta, eta


@dataclasses.dataclass(frozen=True)
class AdaGrad:
    """eta / sqrt(sum of all ||G||^2 so far): AdaGrad's step for a vector as a whole (Ward et al. 2019).

    Args:
        eta: Numerator.

    Raises:
        PPLError: `eta` is not positive.

    Example:
        >>> from estimators import AdaGrad
        >>> AdaGrad(2.0).eta
        2.0
    """

    eta: float = 1.0

    def __post_init__(self):
        _positive("eta", self.eta, "AdaGrad")

    def init(self) -> jax.Array:
        """Return the state: the sum of squares."""
        return jnp.zeros(())

    def size(self, total: jax.Array, count: Any, grad: Any, weight: float, at: Any, value_fn: Any) -> tuple:
        """Return the step and the new state."""
        total = total + (_square(grad) / weight**2).astype(total.dtype)
        return self.eta / jnp.sqrt(jnp.where(total > 0, total, 1.0)), total


@dataclasses.dataclass(frozen=True)
class Scheduled:
    """A number, or an optax schedule of the number of steps made."""

    eta: Any

    def init(self) -> tuple:
        """Return the state: nothing."""
        return ()

    def size(self, state: tuple, count: Any, *_: Any) -> tuple:
        """Return the step and the new state."""
        return (self.eta(count) if callable(self.eta) else self.eta), state


def as_size(eta: Any) -> Any:
    """Return the rule for what the user gave."""
    if isinstance(eta, LineSearch | AdaGrad | Scheduled):
        return eta
    if not callable(eta):
        _positive("eta", eta, "target_surrogate")
    return Scheduled(eta)


def _square(tree: Any) -> jax.Array:
    return sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree))
