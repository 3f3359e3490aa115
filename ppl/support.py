"""Supports: a membership test that is safe to differentiate, and a point inside to stand in for one outside."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import jax.numpy as jnp
from jaxtyping import Array

Params = Mapping[str, Array]


@dataclasses.dataclass(frozen=True)
class Support:
    """The set of values with positive density.

    `contains(value, params)` has the batch shape of the density; `feasible(value, params)` is a point inside, of the
    value's shape. `everywhere` marks supports whose test is left out. `moving` names the parameters that move it.
    """

    name: str
    contains: Callable[[Array, Params], Array]
    feasible: Callable[[Array, Params], Array]
    everywhere: bool = False
    moving: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return self.name


def _always(value, params):
    return jnp.ones(value.shape, bool)


def _fill(constant):
    return lambda value, params: jnp.full_like(value, constant)


def _num_categories(params):
    return next(iter(params.values())).shape[-1]


def _in_simplex(value, params):
    tolerance = 1e-6 * value.shape[-1] if value.dtype == jnp.float64 else 1e-4 + 1e-6 * value.shape[-1]
    return (value >= 0).all(-1) & (jnp.abs(value.sum(-1) - 1) < tolerance)


real = Support("real", _always, _fill(0), everywhere=True)
real_vector = Support("real_vector", lambda value, _: jnp.ones(value.shape[:-1], bool), _fill(0), everywhere=True)
positive = Support("positive", lambda value, _: value > 0, _fill(1))
nonnegative = Support("nonnegative", lambda value, _: value >= 0, _fill(1))
unit_interval = Support("unit_interval", lambda value, _: (value >= 0) & (value <= 1), _fill(0.5))
simplex = Support("simplex", _in_simplex, lambda value, _: jnp.full_like(value, 1 / value.shape[-1]))
boolean = Support("boolean", lambda value, _: (value == 0) | (value == 1), _fill(0))
count = Support("count", lambda value, _: value >= 0, _fill(0))
index = Support("index", lambda value, params: (value >= 0) & (value < _num_categories(params)), _fill(0))
interval = Support(
    "interval",
    lambda value, params: (value >= params["low"]) & (value <= params["high"]),
    lambda value, params: jnp.broadcast_to((params["low"] + params["high"]) / 2, value.shape).astype(value.dtype),
    moving=("low", "high"),
)
