"""Supports: a membership test that is safe to differentiate, and a point inside to stand in for one outside."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

Params = Mapping[str, Any]


def _no_values(sizes: Mapping[str, Any]) -> tuple[int, int]:
    raise AssertionError("this support is not finite")


@dataclasses.dataclass(frozen=True)
class Support:
    """The set of values with positive density.

    `contains(value, params)` has the batch shape of the density; `feasible(value, params)` is a point inside that
    broadcasts against the value. `everywhere` marks supports whose test is left out. `moving` names the parameters
    that move it. `values(sizes)` gives the smallest value and the number of values of a finite support, from the sizes
    of event axes and the integers that are known; `first(known)` the smallest value alone. `project(value, params)`
    moves samples back that rounding has put outside.
    """

    name: str
    contains: Callable[[Array, Params], Array]
    feasible: Callable[[Array, Params], Array]
    everywhere: bool = False
    moving: tuple[str, ...] = ()
    values: Callable[[Mapping[str, Any]], tuple[int, int]] = _no_values
    first: Callable[[Mapping[str, Any]], int] = lambda known: 0
    project: Callable[[Array, Params], Array] | None = None

    def __repr__(self) -> str:
        return self.name


def _always(event_ndim):
    return lambda value, _: jnp.ones(value.shape[: value.ndim - event_ndim], bool)


def _fill(constant):
    return lambda value, params: jnp.full_like(value, constant)


def _num_categories(params):
    return next(p for name, p in params.items() if name in ("probs", "logits")).shape[-1]


def _in_simplex(value, params):
    tolerance = 1e-6 * value.shape[-1] if value.dtype == jnp.float64 else 1e-4 + 1e-6 * value.shape[-1]
    return (value >= 0).all(-1) & (jnp.abs(value.sum(-1) - 1) < tolerance)


real = Support("real", _always(0), _fill(0), everywhere=True)
real_vector = Support("real_vector", _always(1), _fill(0), everywhere=True)
real_matrix = Support("real_matrix", _always(2), _fill(0), everywhere=True)
positive = Support("positive", lambda value, _: value > 0, _fill(1))
nonnegative = Support("nonnegative", lambda value, _: value >= 0, _fill(1))
unit_interval = Support("unit_interval", lambda value, _: (value >= 0) & (value <= 1), _fill(0.5))
open_unit_interval = Support("open_unit_interval", lambda value, _: (value > 0) & (value < 1), _fill(0.5))
circular = Support("circular", lambda value, _: (value >= -np.pi) & (value <= np.pi), _fill(0))
simplex = Support("simplex", _in_simplex, lambda value, _: jnp.full_like(value, 1 / value.shape[-1]))


# --- Supports that move with parameters --------------------------------------------------------------------------


def _clip(value, params):
    low, high = (params.get(name, bound) for name, bound in (("low", -jnp.inf), ("high", jnp.inf)))
    return jnp.clip(value, jnp.asarray(low, value.dtype), jnp.asarray(high, value.dtype))


def _within(value, params):
    low, high = params.get("low"), params.get("high")
    if low is None or high is None:
        return value >= low if high is None else value <= high
    return (value >= low) & (value <= high)


def _between(value, params):
    low, high = params.get("low"), params.get("high")
    middle = high - 1 if low is None else low + 1 if high is None else low + (high - low) / 2
    return _like(value, middle)


def _like(value, point):
    return jnp.broadcast_to(jnp.asarray(point), value.shape).astype(value.dtype)


interval = Support("interval", _within, _between, moving=("low", "high"))
clipped_interval = dataclasses.replace(interval, project=_clip)
left_bounded = Support("left_bounded", _within, _between, moving=("low",), project=_clip)
right_bounded = Support("right_bounded", _within, _between, moving=("high",), project=_clip)
above_loc = Support(
    "above_loc",
    lambda value, params: value > params["loc"],
    lambda value, params: _like(value, params["loc"] + params["scale"]),
    moving=("loc",),
)
from_scale = Support(
    "from_scale",
    lambda value, params: value >= params["scale"],
    lambda value, params: _like(value, 2 * params["scale"]),
    moving=("scale",),
)


@functools.cache
def point(event_ndim: int) -> Support:
    """Return the support of a point mass at `v`."""
    return Support(
        "point",
        lambda value, params: (value == params["v"]).all(tuple(range(value.ndim - event_ndim, value.ndim))),
        lambda value, params: _like(value, params["v"]),
        moving=("v",),
    )


# --- Integers ----------------------------------------------------------------------------------------------------


def _likelier(largest):
    """0 or the largest value, whichever is likelier: its log density has a derivative."""

    def feasible(value, params):
        point = jnp.where(params["probs"] > 0.5, largest(params), 0) if "probs" in params else 0
        return jnp.asarray(point).astype(value.dtype)

    return feasible


def _is_boolean(value, _):
    """Test integers by one comparison: all bits but the last are 0."""
    return (value | 1) == 1 if jnp.issubdtype(value.dtype, jnp.integer) else (value == 0) | (value == 1)


boolean = Support(
    "boolean",
    _is_boolean,
    _likelier(lambda params: 1),
    values=lambda _: (0, 2),
)
count = Support("count", lambda value, _: value >= 0, _fill(0))
index = Support(
    "index",
    lambda value, params: (value >= 0) & (value < _num_categories(params)),
    _fill(0),
    values=lambda sizes: (0, sizes["n"]),
)
ordered_index = Support(
    "ordered_index",
    lambda value, params: (value >= 0) & (value <= params["cutpoints"].shape[-1]),
    _fill(0),
    values=lambda sizes: (0, sizes["n"] + 1),
)
count_to_total = Support(
    "count_to_total",
    lambda value, params: (value >= 0) & (value <= params["total_count"]),
    _likelier(lambda params: params["total_count"]),
    moving=("total_count",),
    values=lambda sizes: (0, sizes["total_count"] + 1),
)
integer_interval = Support(
    "integer_interval",
    _within,
    lambda value, params: _like(value, params["low"]),
    moving=("low", "high"),
    values=lambda sizes: (sizes["low"], sizes["high"] - sizes["low"] + 1),
    first=lambda known: known["low"],
)
counts_of_total = Support(
    "counts_of_total",
    lambda value, params: (value >= 0).all(-1) & (value.sum(-1) == params["total_count"]),
    _fill(0),  # Not a point inside, but one where the density has derivatives even if a probability is 0.
)


# --- Matrices ----------------------------------------------------------------------------------------------------


def _tolerance(value):
    return 1e-8 if value.dtype == jnp.float64 else 1e-4


def _eye(value, params):
    return jnp.broadcast_to(jnp.eye(value.shape[-1], dtype=value.dtype), value.shape)


def _lower(value):
    positive_diagonal = (jnp.diagonal(value, axis1=-2, axis2=-1) > 0).all(-1)
    return positive_diagonal & (jnp.triu(value, 1) == 0).all((-2, -1))


def _is_corr_cholesky(value, params):
    return _lower(value) & (jnp.abs((value**2).sum(-1) - 1) < _tolerance(value)).all(-1)


def _is_positive_definite(value, params):
    scale = jnp.abs(value).max((-2, -1))
    symmetric = jnp.abs(value - jnp.swapaxes(value, -2, -1)).max((-2, -1)) <= _tolerance(value) * scale
    return symmetric & jnp.isfinite(jnp.linalg.cholesky(value)).all((-2, -1))


def _is_unit_vector(value, params):
    return jnp.abs((value**2).sum(-1) - 1) < _tolerance(value)


corr_cholesky = Support("corr_cholesky", _is_corr_cholesky, _eye)
lower_cholesky = Support("lower_cholesky", lambda value, _: _lower(value), _eye)
positive_definite = Support("positive_definite", _is_positive_definite, _eye)
sphere = Support("sphere", _is_unit_vector, lambda value, _: jnp.zeros_like(value).at[..., 0].set(1))
