"""Families of distributions: NumPyro's densities and samplers over operands that may carry lanes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from ppl.support import Support


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One parameter of a family: its name, the number of its event axes, and its default (None: required)."""

    name: str
    event_ndim: int = 0
    default: float | None = None


@dataclasses.dataclass(frozen=True)
class Family:
    """A family of distributions.

    Attributes:
        name: Name of the constructor.
        numpyro_name: Name of the class in `numpyro.distributions`.
        parameters: All parameters, in order.
        support: Where the density is positive.
        event_ndim: Number of event axes of a value.
        discrete: Whether values are int32.
        enumerable: Whether the support is finite.
        alternatives: Groups of parameters of which exactly one member is given (`probs` or `logits`).
    """

    name: str
    numpyro_name: str
    parameters: tuple[Parameter, ...]
    support: Support
    event_ndim: int = 0
    discrete: bool = False
    enumerable: bool = False
    alternatives: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return self.name


@dataclasses.dataclass(frozen=True)
class Spec:
    """A family with the names of the parameters that are given: the static part of a distribution."""

    family: Family
    names: tuple[str, ...]

    silent: ClassVar[bool] = False
    """Whether choices have no density and no place in a trace (keys)."""
    can_sample: ClassVar[bool] = True
    """Whether values can be drawn."""

    def __repr__(self) -> str:
        return f"{self.family}({', '.join(self.names)})"

    @property
    def event_ndims(self) -> tuple[int, ...]:
        """Number of event axes of each operand."""
        known = {parameter.name: parameter.event_ndim for parameter in self.family.parameters}
        return tuple(known[name] for name in self.names)

    def batch_shape(self, shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
        """Broadcast the batch axes of parameters of these shapes."""
        return np.broadcast_shapes(*(_batch(shape, ndim) for shape, ndim in zip(shapes, self.event_ndims, strict=True)))

    def event_shape(self, shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
        """Return the shape of one value's event axes."""
        if not self.family.event_ndim:
            return ()
        return next(shape[-1:] for shape, ndim in zip(shapes, self.event_ndims, strict=True) if ndim)

    def check_events(self, shapes: Sequence[tuple[int, ...]]) -> None:
        """Raise ValueError unless all event axes have one size."""
        events = zip(shapes, self.event_ndims, strict=True)
        if len({size for shape, ndim in events for size in shape[len(shape) - ndim :]}) > 1:
            raise ValueError("event axes differ")

    def value_dtype(self, dtypes: Sequence[Any]) -> np.dtype:
        """Return int32 for discrete values, else the parameters' common dtype."""
        return np.dtype(np.int32) if self.family.discrete else jnp.result_type(*dtypes)

    def num_values(self, shapes: Sequence[tuple[int, ...]]) -> int:
        """Return the size of a finite support."""
        return 2 if self.family.support.name == "boolean" else shapes[0][-1]

    def sample(self, key: jax.Array, params: Sequence[jax.Array], shape: tuple[int, ...]) -> jax.Array:
        """Draw values of batch shape `shape` in one call; parameters broadcast against it."""
        first, ndim = params[0], self.event_ndims[0]
        if self.batch_shape([param.shape for param in params]) != shape:
            first = jnp.broadcast_to(first, shape + first.shape[first.ndim - ndim :])
        value = self.numpyro([first, *params[1:]]).sample(key)
        return value.astype(self.value_dtype([param.dtype for param in params]))

    def log_prob(
        self,
        value: jax.Array,
        params: Sequence[jax.Array],
        mask: jax.Array | None = None,
        inside: bool = False,
    ) -> jax.Array:
        """Evaluate the log density: -inf outside the support, 0 where `mask` is False, safe gradients in both cases.

        Args:
            value: Values; a float under a discrete family has density 0 where it is not integral.
            params: Parameters, broadcasting against the value.
            mask: Where the choice is made.
            inside: Whether the value is known to lie in the support, which leaves out the test.
        """
        support = self.family.support
        named = dict(zip(self.names, params, strict=True))
        valid = None if inside or support.everywhere else support.contains(value, named)
        if self.family.discrete and jnp.issubdtype(value.dtype, jnp.floating):
            integral = (value == jnp.round(value)) & (jnp.abs(value) < 2.0**31)
            valid = integral if valid is None else integral & valid
            value = jnp.where(integral, value, 0).astype(np.int32)
        if valid is None and mask is None:
            return self.numpyro(params).log_prob(value)
        keep = mask if valid is None else valid if mask is None else valid & mask
        spread = keep.reshape(keep.shape + (1,) * self.family.event_ndim)
        shape = np.broadcast_shapes(spread.shape, value.shape)
        value = jnp.broadcast_to(value, shape)
        log_prob = self.numpyro(params).log_prob(jnp.where(spread, value, support.feasible(value, named)))
        outside = -jnp.inf if mask is None else jnp.where(mask, -jnp.inf, 0.0)
        return jnp.where(keep, log_prob, outside)

    def probabilities(self, params: Sequence[jax.Array]) -> jax.Array:
        """Return the probabilities of a finite support along a new leading axis."""
        (param,), logits = params, self.names == ("logits",)
        if self.family.support.name == "boolean":
            return jnp.stack([jax.nn.sigmoid(-param), jax.nn.sigmoid(param)] if logits else [1 - param, param])
        return jnp.moveaxis(jax.nn.softmax(param, axis=-1) if logits else param, -1, 0)

    def numpyro(self, params: Sequence[jax.Array]):
        """Return NumPyro's distribution with these parameters."""
        import numpyro.distributions as numpyro_distributions  # Imported late: it takes longer than all of JAX.

        build = getattr(numpyro_distributions, self.family.numpyro_name)
        return build(**dict(zip(self.names, params, strict=True)), validate_args=False)


def _batch(shape: tuple[int, ...], event_ndim: int) -> tuple[int, ...]:
    return tuple(shape[: len(shape) - event_ndim])
