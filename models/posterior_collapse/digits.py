"""Digits of 8 x 8 pixels, centred, whole or in parts; and synthetic pairs with a known correlation."""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from sklearn.datasets import load_digits

Part = Literal["quarter", "half"]


class Pairs(NamedTuple):
    """What is observed and, for conditional programs, what it is predicted from; each row is a datum."""

    y: Float[np.ndarray, "n pixels"]
    x: Float[np.ndarray, "n inputs"]


def images() -> Float[np.ndarray, "1797 64"]:
    """Return all digits, intensities from 0 to 1 with their means taken off."""
    found = load_digits(return_X_y=True)[0] / 16
    return found - found.mean(0)


def pairs(part: Part) -> Pairs:
    """Return pairs: the lower left quarter and all other pixels, or the left half and the whole image."""
    whole = images()
    grid = np.arange(64).reshape(8, 8)
    if part == "half":
        return Pairs(whole, whole[:, grid[:, :4].ravel()])
    quarter = grid[4:, :4].ravel()
    return Pairs(whole[:, np.setdiff1d(grid, quarter)], whole[:, quarter])


def correlated(n: int, dim: int, correlation: float, seed: int = 0) -> Pairs:
    """Return x = r y + sqrt(1 - r^2) noise of standard normals: r = 1 says all about y, r = 0 nothing.

    Raises:
        ValueError: The correlation is not in [0, 1].
    """
    if not 0 <= correlation <= 1:
        raise ValueError(f"a correlation is in [0, 1], got {correlation}")
    y, noise = np.random.default_rng(seed).normal(size=(2, n, dim))
    return Pairs(y, correlation * y + np.sqrt(1 - correlation**2) * noise)
