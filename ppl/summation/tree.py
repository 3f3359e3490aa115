"""Products of many matrices of probabilities as a tree: log2(n) levels, each of which multiplies all pairs at once.

n k^3 operations where a loop needs n k^2, but none waits for more than log2(n) others: what a device wants that has
thousands of lanes, and on which a step of a loop takes longer than a product of small matrices.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from ppl.summation.logs import _finite_max
from ppl.summation.scaled import times

Rows = tuple[Array, Array]
"""Matrices whose rows have the largest element 1, and the logarithms of what the rows were divided by."""


def as_tree(
    start: Float[Array, "*lanes k"], tables: Array, gains: Float[Array, "n *lanes k"]
) -> tuple[Float[Array, "*lanes k"], Float[Array, "*lanes"]]:
    """Return the last vector, and the logarithm of its scale; see [`message`][ppl.summation.scaled.message]."""
    lanes = (1,) * (gains.ndim - 2)
    matrices = tables.reshape(-1, *lanes, *tables.shape[-2:]) * jnp.exp(gains)[..., None, :]
    rows = _divided(matrices, jnp.zeros_like(matrices[..., 0]))
    while rows[0].shape[0] > 1:
        pairs = rows[0].shape[0] // 2
        left, right = [tuple(part[at : 2 * pairs : 2] for part in rows) for at in (0, 1)]
        joined = _product(left, right)
        rest = tuple(part[2 * pairs :] for part in rows)
        rows = tuple(jnp.concatenate(both) if both[1].shape[0] else both[0] for both in zip(joined, rest, strict=True))
    matrix, scales = rows[0][0], rows[1][0]
    weights, top = _weighed(start, scales)
    return jnp.squeeze(times(weights[..., None, :], matrix), -2), top


def _product(left: Rows, right: Rows) -> Rows:
    """Multiply matrices: the scales of the right one's rows are those of the left one's columns."""
    weights, top = _weighed(left[0], right[1][..., None, :])
    return _divided(times(weights, right[0]), left[1] + top)


def _weighed(numbers: Array, scales: Array) -> tuple[Array, Array]:
    """Multiply numbers by scales, the largest of them taken out."""
    top = _finite_max(scales, -1)
    return numbers * jnp.exp(scales - top), top[..., 0]


def _divided(matrices: Array, scales: Array) -> Rows:
    """Divide rows by their largest elements."""
    largest = lax.stop_gradient(matrices.max(-1))
    largest = jnp.where(largest > 0, largest, 1)
    return matrices / largest[..., None], scales + jnp.log(largest)
