"""Families of distributions: NumPyro's densities and samplers over operands that may carry lanes."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from ppl.support import Support


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One parameter of a family.

    Attributes:
        name: Its name.
        event_ndim: Number of its event axes.
        default: Its default (None: required, unless it is optional or one of the alternatives).
        axes: Names of its event axes, where they are not all one size `n`; axes of one name have one size.
        integer: Whether it is an int32. Given as a Python int, it is also known to enumeration.
        static: Whether it is not an operand but a Python value, such as a length.
        optional: Whether it may be left out.
    """

    name: str
    event_ndim: int = 0
    default: Any = None
    axes: tuple[str, ...] | None = None
    integer: bool = False
    static: bool = False
    optional: bool = False

    @property
    def axis_names(self) -> tuple[str, ...]:
        """Names of the event axes."""
        return ("n",) * self.event_ndim if self.axes is None else self.axes


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
        enumerable: Whether the support is finite and known when a program is traced.
        alternatives: Groups of parameters of which exactly one member is given (`probs` or `logits`).
        axes: Names of a value's event axes, where they are not all one size `n`.
        reparameterised: Whether the derivative of the sampler is that of the distribution.
        implicit: Whether the sampler has implicit derivatives.
        density: Log density of values and named parameters, where NumPyro's will not do.
        masses: Probabilities of a finite support along a new leading axis, of named parameters and what is known of
            them, where not exp of the log density.
        sampler: Draws values of a batch shape from a key and named parameters, where not NumPyro's.
        finite_with: Parameters with which the density function is finite, and so are its derivatives, at values outside
            the support, too: none inside has to stand in for them.
        anywhere: Log density of integers that is -inf, with the derivative 0, outside the support, where that is
            cheaper than a test beside `density`; it may return None.
        log_masses: Their logarithms in the same layout, where all at once are cheaper than one by one; it may return
            None.
        variant: Maps the family and the given parameters to the family of this very distribution.
    """

    name: str
    numpyro_name: str
    parameters: tuple[Parameter, ...]
    support: Support
    event_ndim: int = 0
    discrete: bool = False
    enumerable: bool = False
    alternatives: tuple[str, ...] = ()
    axes: tuple[str, ...] | None = None
    reparameterised: bool = True
    implicit: bool = False
    density: Callable | None = None
    masses: Callable | None = None
    log_masses: Callable | None = None
    sampler: Callable | None = None
    finite_with: tuple[str, ...] = ()
    anywhere: Callable | None = None
    variant: Callable | None = None

    def __repr__(self) -> str:
        return self.name

    @property
    def axis_names(self) -> tuple[str, ...]:
        """Names of a value's event axes."""
        return ("n",) * self.event_ndim if self.axes is None else self.axes


@dataclasses.dataclass(frozen=True)
class Spec:
    """A family with the names of its operands and the parameters that are known: the static part of a distribution."""

    family: Family
    names: tuple[str, ...]
    known: tuple[tuple[str, Any], ...] = ()

    silent: ClassVar[bool] = False
    """Whether choices have no density and no place in a trace (keys)."""
    can_sample: ClassVar[bool] = True
    """Whether values can be drawn."""

    def __repr__(self) -> str:
        return f"{self.family}({', '.join(self.names)})"

    @property
    def event_ndims(self) -> tuple[int, ...]:
        """Number of event axes of each operand."""
        return tuple(len(axes) for axes in self._axes())

    def _axes(self) -> list[tuple[str, ...]]:
        named = {parameter.name: parameter.axis_names for parameter in self.family.parameters}
        return [named[name] for name in self.names]

    def _sizes(self, shapes: Sequence[tuple[int, ...]]) -> dict[str, int]:
        """Name the sizes of all event axes; integers that are known may be sizes, too."""
        sizes = dict(self.known)
        for shape, axes in zip(shapes, self._axes(), strict=True):
            for size, axis in zip(shape[len(shape) - len(axes) :], axes, strict=True):
                if sizes.setdefault(axis, size) != size:
                    raise ValueError("event axes differ")
        return sizes

    def batch_shape(self, shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
        """Broadcast the batch axes of parameters of these shapes."""
        return np.broadcast_shapes(*(_batch(shape, ndim) for shape, ndim in zip(shapes, self.event_ndims, strict=True)))

    def event_shape(self, shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
        """Return the shape of one value's event axes."""
        sizes = self._sizes(shapes) if self.family.axis_names else {}
        return tuple(sizes[axis] for axis in self.family.axis_names)

    def check_events(self, shapes: Sequence[tuple[int, ...]]) -> None:
        """Raise ValueError unless event axes of one name have one size."""
        self._sizes(shapes)

    def value_dtype(self, dtypes: Sequence[Any]) -> np.dtype:
        """Return int32 for discrete values, else the parameters' common dtype."""
        return np.dtype(np.int32) if self.family.discrete else jnp.result_type(*dtypes)

    def num_values(self, shapes: Sequence[tuple[int, ...]]) -> int:
        """Return the size of a finite support."""
        return self.family.support.values(self._sizes(shapes))[1]

    def first_value(self) -> int:
        """Return the smallest value of a finite support, which consists of consecutive integers."""
        return self.family.support.first(dict(self.known))

    def sample(self, key: jax.Array, params: Sequence[jax.Array], shape: tuple[int, ...]) -> jax.Array:
        """Draw values of batch shape `shape` in one call; parameters broadcast against it."""
        if self.family.sampler is not None:
            value = self.family.sampler(key, self.named(params), shape)
        else:
            value = self._numpyro_sample(key, params, shape)
        value = jnp.broadcast_to(value, shape + value.shape[value.ndim - len(self.family.axis_names) :])
        value = value.astype(self.value_dtype([param.dtype for param in params]))
        project = self.family.support.project
        if project is None:
            return value
        return value + jax.lax.stop_gradient(project(value, self.named(params)) - value)

    def _numpyro_sample(self, key: jax.Array, params: Sequence[jax.Array], shape: tuple[int, ...]) -> jax.Array:
        first, ndim = params[0], self.event_ndims[0]
        if self.batch_shape([param.shape for param in params]) != shape:
            first = jnp.broadcast_to(first, shape + first.shape[first.ndim - ndim :])
        return self.numpyro([first, *params[1:]]).sample(key)

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
        support, named = self.family.support, self.named(params)
        if not inside and mask is None and (found := self._anywhere(value, named)) is not None:
            return found
        valid = None if inside or support.everywhere else support.contains(value, named)
        if self.family.discrete and jnp.issubdtype(value.dtype, jnp.floating):
            integral = (value == jnp.round(value)) & (jnp.abs(value) < 2.0**31)
            value = jnp.where(integral, value, 0).astype(np.int32)
            integral = integral.all(tuple(range(integral.ndim - self.family.event_ndim, integral.ndim)))
            valid = integral if valid is None else integral & valid
        conditions = [condition for condition in (valid, mask) if condition is not None]
        if not conditions:
            return self._density(value, params)
        keep = functools.reduce(jnp.logical_and, conditions)
        outside = -jnp.inf if mask is None else jnp.where(mask, -jnp.inf, 0.0)
        if not set(self.names).isdisjoint(self.family.finite_with):
            return jnp.where(keep, self._density(value, params), outside)
        spread = keep.reshape(keep.shape + (1,) * self.family.event_ndim)
        shape = np.broadcast_shapes(spread.shape, value.shape)
        value = jnp.broadcast_to(value, shape)
        log_prob = self._density(jnp.where(spread, value, support.feasible(value, named)), params)
        return jnp.where(keep, log_prob, outside)

    def probabilities(self, params: Sequence[jax.Array]) -> jax.Array:
        """Return the probabilities of a finite support along a new leading axis."""
        if self.family.masses is not None:
            return self.family.masses(self.named(params), dict(self.known))
        return jnp.exp(self.log_probabilities(params))

    def log_probabilities(self, params: Sequence[jax.Array]) -> jax.Array:
        """Return the log densities of all values of a finite support along a new leading axis."""
        shapes = [param.shape for param in params]
        if self.family.log_masses is not None:
            found = self.family.log_masses(self.named(params), dict(self.known))
            if found is not None:
                return found
        values = self.first_value() + np.arange(self.num_values(shapes), dtype=np.int32)
        values = jnp.asarray(values.reshape((-1,) + (1,) * len(self.batch_shape(shapes))))
        return self.log_prob(values, params, inside=True)

    def named(self, params: Sequence[jax.Array]) -> dict[str, Any]:
        """Name all parameters: what is only known, and the operands."""
        return {**dict(self.known), **dict(zip(self.names, params, strict=True))}

    def _anywhere(self, value: jax.Array, named: Mapping[str, Any]) -> jax.Array | None:
        if self.family.anywhere is None or not jnp.issubdtype(value.dtype, jnp.integer):
            return None
        return self.family.anywhere(value, named)

    def _density(self, value: jax.Array, params: Sequence[jax.Array]) -> jax.Array:
        if self.family.density is not None:
            return self.family.density(value, self.named(params))
        return self.numpyro(params).log_prob(value)

    def numpyro(self, params: Sequence[jax.Array]):
        """Return NumPyro's distribution with these parameters."""
        import numpyro.distributions as numpyro_distributions  # Imported late: it takes longer than all of JAX.

        build = getattr(numpyro_distributions, self.family.numpyro_name)
        params = [
            param.astype(jnp.result_type(int)) if jnp.issubdtype(param.dtype, jnp.integer) else param
            for param in params  # Its samplers take the widest integers only.
        ]
        return build(**self.named(params), validate_args=False)


def _batch(shape: tuple[int, ...], event_ndim: int) -> tuple[int, ...]:
    return tuple(shape[: len(shape) - event_ndim])


def given_as_int(value: Any) -> bool:
    """Tell whether a parameter is an integer that is known when a program is traced."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, (bool, np.bool_))


def enumerable_if_known(*names: str) -> Callable[[Family, Mapping[str, Any]], Family]:
    """Return the variant of families whose support is finite only where these parameters are given as integers."""

    def variant(family: Family, given: Mapping[str, Any]) -> Family:
        known = all(given_as_int(given[name]) for name in names)
        return family if known else dataclasses.replace(family, enumerable=False)

    return variant
