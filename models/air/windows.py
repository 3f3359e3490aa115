"""Windows on a canvas: reading and writing them, differentiable in where they are.

This is the spatial transformer of Jaderberg et al. 2015 (equation 5, bilinear) without rotation, which falls apart
into one matrix for the rows and one for the columns. Each entry is a tent max(0, 1 - distance): continuous in place and
size.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float


def interpolation(places: Float[Array, " n"], pixels: int) -> Float[Array, "n pixels"]:
    """Return the matrix that reads an image at places along one axis, where the image runs from -1 to 1."""
    nodes = jnp.linspace(-1.0, 1.0, pixels)
    return jnp.maximum(0.0, 1.0 - jnp.abs(places[:, None] - nodes) * ((pixels - 1) / 2))


def place(patch: Float[Array, "window window"], where: Float[Array, "3"], side: int) -> Float[Array, "side side"]:
    """Put a patch on an empty canvas.

    Args:
        patch: What the window shows.
        where: Logarithm of the canvas's side over the window's; row and column of the centre, the canvas from -1 to 1.
        side: Pixels along the canvas.
    """
    grid = jnp.linspace(-1.0, 1.0, side)
    rows, columns = (interpolation(jnp.exp(where[0]) * (grid - centre), len(patch)) for centre in (where[1], where[2]))
    return rows @ patch @ columns.T


def attend(canvas: Float[Array, "side side"], where: Float[Array, "3"], window: int) -> Float[Array, "window window"]:
    """Read the window at `where`."""
    grid = jnp.linspace(-1.0, 1.0, window)
    rows, columns = (interpolation(centre + jnp.exp(-where[0]) * grid, len(canvas)) for centre in (where[1], where[2]))
    return rows @ canvas @ columns.T
