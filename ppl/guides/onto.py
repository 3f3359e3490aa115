"""`onto`: a random choice whose unconstrained form has a given distribution."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ppl._errors import PPLError, boundary, did_you_mean, user_source
from ppl.choice import Choice, choice
from ppl.family import Family, Parameter, Spec
from ppl.guides.bijectors import BOUNDS, SUPPORTS, bijector, free_ndim
from ppl.specs import Whole
from ppl.strategies import pathwise
from ppl.support import Support

Shape = tuple[int, ...]


@boundary
def onto(support: str, base: Choice, shape: Shape | None = None, *, low: Any = None, high: Any = None) -> Choice:
    """Push a random choice of unconstrained values through the bijection onto a support.

    The value is x = T(z), z from `base`; its log density is log p(z) - log |det T'(z)| at z = T^-1(x), with NumPyro's
    bijection T, which `log_joint` uses, too.

    Args:
        support: Name of the support: "real", "positive", "unit_interval", "interval", "left_bounded", "right_bounded",
            "simplex", "corr_cholesky", "lower_cholesky", "positive_definite", ...
        base: A choice not yet made. Its strategy is kept.
        shape: Shape of the unconstrained value, into which one event vector of `base` is reshaped, which makes all of
            it one event. None: `base` is elementwise (`normal(...)`) and of that shape itself; its batch stays one.
        low: Lower edge of an interval, a number or an array that broadcasts against the value.
        high: Upper edge.

    Returns:
        A choice; make it by `@ "address"`.

    Raises:
        PPLError: The support is unknown, an edge is missing, or `base` does not fit the shape.

    Example:
        >>> import jax, ppl
        >>> from ppl.guides import onto
        >>> share = ppl.gen(lambda loc: onto("unit_interval", ppl.normal(loc, 1.0)) @ "p")
        >>> round(float(share.log_density({"p": 0.5}, 0.0)), 4)  # -log(2 pi) / 2 + log 4
        0.4674
    """
    base.used = True
    bounds = _bounds(support, {"low": low, "high": high})
    if isinstance(base.spec, Whole):
        return _foreign_onto(support, base, shape, bounds)
    params, event = [jnp.asarray(param) for param in base.params], base.spec.event_ndims
    shapes = [param.shape for param in params]
    if shape is None:
        _require(base.spec.event_shape(shapes) == (), "an elementwise choice, such as `normal(...)`", base)
        free = np.broadcast_shapes(*shapes)
        own = free_ndim(support)
        _require(len(free) >= own, f"parameters with at least {own} axes", base)
        params = [jnp.broadcast_to(param, free) for param in params] if own else params
        within, event = free[len(free) - own :], (own,) * len(params)
    else:
        _require(base.spec.event_shape(shapes) == (math.prod(shape),), f"a vector of length {math.prod(shape)}", base)
        within = tuple(shape)
        bounds = {name: jnp.broadcast_to(jnp.asarray(bound), within) for name, bound in bounds.items()}
    spec = _spec(base.spec, support, within, shape is not None, event, tuple(bounds))
    edges = [jnp.asarray(bound, params[0].dtype) for bound in bounds.values()]
    return Choice(spec, [*params, *edges], base.strategy, pathwise())


def _bounds(support: str, given: dict[str, Any]) -> dict[str, Any]:
    if support not in SUPPORTS:
        raise PPLError(
            f'There is no bijection onto "{support}".',
            where=user_source(),
            expected=", ".join(SUPPORTS),
            got=repr(support),
            remedy=did_you_mean(str(support), SUPPORTS) or "give the name of one of these supports",
        )
    needed = BOUNDS.get(support, ())
    wrong = [name for name, bound in given.items() if (bound is None) == (name in needed)]
    if wrong:
        raise PPLError(
            f'The edges given for the support "{support}" are not those that it has.',
            where=user_source(),
            expected=", ".join(needed) or "none",
            got=", ".join(name for name, bound in given.items() if bound is not None) or "none",
            remedy=f"{'give' if wrong[0] in needed else 'leave out'} `{wrong[0]}=`",
        )
    return {name: given[name] for name in needed}


def _require(fine: bool, expected: str, base: Choice) -> None:
    if not fine:
        raise PPLError(
            "A choice does not have the shape of the unconstrained value that it is to be.",
            where=base.source,
            expected=expected,
            got=f"`{base.spec.family}` with parameters of shapes {[jnp.shape(param) for param in base.params]}",
            remedy="use `normal(...)` without `shape=`, or a vector-valued choice with `shape=`",
        )


@functools.lru_cache(maxsize=1024)
def _constrained_shape(support: str, free: Shape) -> Shape:
    bounds = {name: np.float32(number) for name, number in (("low", 0.0), ("high", 1.0))}
    return jax.eval_shape(bijector(support, bounds), jax.ShapeDtypeStruct(free, jnp.result_type(float))).shape


@functools.lru_cache(maxsize=1024)
def _spec(base: Spec, support: str, within: Shape, whole: bool, event: Shape, edges: tuple[str, ...]) -> Spec:
    """Make the distribution of T(z).

    Args:
        base: The distribution of z.
        support: Onto which support T maps.
        within: Shape of that part of z which is one event.
        whole: Whether that event is one vector of the base.
        event: Number of event axes of each of the base's parameters.
        edges: Names of the bounds.
    """
    sizes = _constrained_shape(support, within)
    axes = tuple(f"event{i}" for i in range(len(sizes)))
    old = {parameter.name: parameter for parameter in base.family.parameters}
    named = [old[name] if whole else _spread(old[name], ndim) for name, ndim in zip(base.names, event, strict=True)]
    bounds = [_spread(Parameter(name), len(within) * whole) for name in edges]
    family = Family(
        name=f"{base.family}_onto_{support}",
        numpyro_name="",
        parameters=(*named, *bounds),
        support=_support(support, len(within) - free_ndim(support)),
        event_ndim=len(sizes),
        axes=axes,
        density=functools.partial(_density, base, support, within, whole),
        sampler=functools.partial(_sample, base, support, within, whole),
        reparameterised=base.family.reparameterised,
        implicit=base.family.implicit,
    )
    return Spec(family, (*base.names, *edges), (*base.known, *zip(axes, sizes, strict=True)))


def _spread(parameter: Parameter, event_ndim: int) -> Parameter:
    """Give a scalar parameter event axes of its own."""
    axes = tuple(f"{parameter.name}{i}" for i in range(event_ndim))
    return dataclasses.replace(parameter, event_ndim=event_ndim, axes=axes)


@functools.cache
def _support(name: str, more: int) -> Support:
    """Return a support whose values have more event axes: all of the elements must lie inside."""
    support = SUPPORTS[name]
    if not more:
        return support

    def contains(value, params):
        inside = support.contains(value, params)
        return inside.all(tuple(range(inside.ndim - more, inside.ndim)))

    return dataclasses.replace(support, contains=contains)


def _sample(base: Spec, support: str, within: Shape, whole: bool, key, params, shape: Shape):
    operands = [params[name] for name in base.names]
    free = base.sample(key, operands, shape if whole else shape + within)
    return bijector(support, params)(free.reshape(shape + within))


def _density(base: Spec, support: str, within: Shape, whole: bool, value, params):
    operands = [params[name] for name in base.names]
    free, log_jacobian = back(support, value, params, len(within))
    if whole:
        return base.log_prob(_flat(free, len(within)), operands, inside=True) - log_jacobian
    return _sum_last(base.log_prob(free, operands, inside=True), len(within)) - log_jacobian


def back(support: str, value: Any, bounds: dict[str, Any], ndim: int) -> tuple[jax.Array, jax.Array]:
    """Return unconstrained values, of `ndim` event axes, and the log Jacobians of their way onto the support."""
    transform = bijector(support, bounds)
    free = transform._inverse(value)
    log_jacobian = transform.log_abs_det_jacobian(free, value)
    return free, _sum_last(log_jacobian, ndim - free_ndim(support))


def _flat(free: jax.Array, ndim: int) -> jax.Array:
    lead = free.shape[: free.ndim - ndim]
    return free.reshape(*lead, math.prod(free.shape[len(lead) :]))


def _sum_last(x: jax.Array, num: int) -> jax.Array:
    return x.sum(tuple(range(x.ndim - num, x.ndim))) if num else x


# --- Foreign distributions ---------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Through:
    """A foreign distribution of a vector, pushed onto a support; what it closes over becomes operands of the choice."""

    base: Choice
    support: str
    within: Shape
    bounds: dict[str, Any]

    def sample(self, key):
        """Draw one value."""
        free = self.base.spec.sample(key, self.base.params, ())
        return bijector(self.support, self.bounds)(free.reshape(self.within))

    def log_prob(self, value):
        """Evaluate the log density; -inf outside of the support."""
        support = _support(self.support, len(self.within) - free_ndim(self.support))
        inside = support.contains(value, self.bounds).all()
        value = jnp.where(inside, value, support.feasible(value, self.bounds))
        free, log_jacobian = back(self.support, value, self.bounds, len(self.within))
        log_prob = self.base.spec.log_prob(_flat(free, len(self.within)), self.base.params) - log_jacobian
        return jnp.where(inside, log_prob, -jnp.inf)


def _foreign_onto(support: str, base: Choice, shape: Shape | None, bounds: dict[str, Any]) -> Choice:
    drawn = base.spec.event_shape([])
    _require(shape is not None and drawn == (math.prod(shape),), "`shape=`, and a vector of as many numbers", base)
    bounds = {name: jnp.broadcast_to(jnp.asarray(bound), shape) for name, bound in bounds.items()}
    made = choice(_Through(base, support, tuple(shape), bounds), base.strategy)
    family = dataclasses.replace(made.spec.family, name=f"{base.spec.family}_onto_{support}", support=SUPPORTS[support])
    made.spec = dataclasses.replace(made.spec, family=family)
    return made
