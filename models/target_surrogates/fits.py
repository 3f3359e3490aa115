"""One fit: a model in two parts, an optimiser that moves through targets, and a measure taken on the way."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import optax
from jaxtyping import Array, Key, PyTree

import ppl
from estimators import Euclidean, curvature_descent, target_surrogate
from ppl.training import Targeted


def surrogate(eta: Any, num_inner: Any, divergence: Callable | None = None) -> optax.GradientTransformationExtraArgs:
    """Return the optimiser of the paper: steps of 1 / (the surrogate's curvature), new in each outer step."""
    return target_surrogate(curvature_descent(), eta, num_inner, divergence or Euclidean(per_example=True))


def fit(
    objective: Targeted | Callable,
    params: PyTree,
    data: Mapping[str, Array] | None,
    optimizer: Any,
    measure: Callable[[PyTree], Array],
    *,
    steps: int,
    every: int,
    key: Key[Array, ""],
    batch_size: int | None = None,
) -> dict[int, float]:
    """Minimise, and return the measure after every so many steps, the start included."""
    measure = jax.jit(measure)
    found = {0: float(measure(params))}

    def look(done: int, params: PyTree, _: Any) -> None:
        found[done] = float(measure(params))

    ppl.minimize(
        objective, params, data, optimizer, steps=steps, key=key, batch_size=batch_size, chunk=every, callback=look
    )
    return found


def best(curves: Mapping[Any, Mapping[int, float]], after: int) -> Any:
    """Return the name of the curve that is lowest after some steps."""
    values = {name: curve[after] for name, curve in curves.items() if np.isfinite(curve[after])}
    return min(values, key=values.__getitem__)
