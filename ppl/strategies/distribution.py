"""A choice's distribution as a strategy sees it: all of its steps, lanes and batch elements at once."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from ppl._errors import StrategyError
from ppl.family import Family
from ppl.primitives import View
from ppl.support import Support
from ppl.transforms.guards import forbid_tangents


@dataclasses.dataclass(frozen=True)
class Distribution:
    """The distribution of a choice.

    Attributes:
        view: Its parameters, sorted out.
        where: Address and source line of the choice.
        operand: What the strategy learns: one 1-D array, or one for each element, along a last axis.
    """

    view: View
    where: str = ""
    operand: Any = None

    @property
    def family(self) -> Family:
        """The family."""
        return self.view.spec.family

    @property
    def support(self) -> Support:
        """Where the density is positive."""
        return self.family.support

    @property
    def shape(self) -> tuple[int, ...]:
        """Steps, lanes and batch."""
        return self.view.shape

    @property
    def params(self) -> dict[str, jax.Array]:
        """Parameters by name, broadcasting against values; with their tangents."""
        return dict(zip(self.view.spec.names, self.view.params, strict=True))

    def with_params(self, **params: jax.Array) -> Distribution:
        """Return the distribution with other values of some parameters, of the same shapes or broadcast to them all."""
        given = [params.get(name, old) for name, old in zip(self.view.spec.names, self.view.params, strict=True)]
        return dataclasses.replace(self, view=dataclasses.replace(self.view, params=given))

    def spread_params(self) -> dict[str, jax.Array]:
        """Return the parameters broadcast to every step, lane and batch element."""
        ndims = dict(zip(self.view.spec.names, self.view.spec.event_ndims, strict=True))
        return {
            name: jnp.broadcast_to(x, self.shape + x.shape[x.ndim - ndims[name] :]) for name, x in self.params.items()
        }

    def fixed(self, name: str, remedy: str) -> jax.Array:
        """Return a parameter that may not have a tangent: a derivative with respect to it raises `StrategyError`."""

        def error():
            return StrategyError(
                f"This strategy has no derivative with respect to `{name}` of {self.family}.",
                where=self.where,
                expected=f"a constant `{name}`",
                got="a derivative that reaches it",
                remedy=remedy,
            )

        (param,) = forbid_tangents([self.params[name]], error)
        return param

    @property
    def mean(self) -> jax.Array:
        """Mean, as NumPyro has it."""
        return jnp.broadcast_to(self.numpyro.mean, self.shape + self.view.event_shape)

    @property
    def numpyro(self) -> Any:
        """NumPyro's distribution with these parameters."""
        return self.view.spec.numpyro(self.view.params)

    @property
    def num_values(self) -> int:
        """Size of a finite support."""
        return self.view.spec.num_values([param.shape for param in self.view.params])

    @property
    def first_value(self) -> int:
        """Smallest value of a finite support, which consists of consecutive integers."""
        return self.view.spec.first_value()

    @property
    def probabilities(self) -> jax.Array:
        """Probabilities of a finite support, shape (num_values, *shape)."""
        probs = self.view.spec.probabilities(self.view.params)
        missing = (1,) * (len(self.shape) + 1 - probs.ndim)
        return jnp.broadcast_to(probs.reshape(probs.shape[:1] + missing + probs.shape[1:]), (len(probs), *self.shape))

    def sample(self, key: jax.Array) -> jax.Array:
        """Draw values, shape (*shape, *event): independent ones for each step, lane and batch element."""
        return self.view.draw(key)

    def log_prob(self, value: Any) -> jax.Array:
        """Evaluate the log density of values; 0 where the choice is not made."""
        return jnp.broadcast_to(self.view.log_prob(jnp.asarray(value)), self.shape)
