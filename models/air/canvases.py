"""Canvases with a few handwritten digits at random places: real digits, shrunk, none over another."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image


@dataclass(frozen=True)
class Canvases:
    """Images of several digits.

    Attributes:
        images: Intensities from 0 to 1.
        counts: How many digits each has.
        boxes: Row, column and size in pixels of each digit's square; -1 where there is none.
    """

    images: Float[np.ndarray, "n side side"]
    counts: Int[np.ndarray, " n"]
    boxes: Float[np.ndarray, "n most 3"]


def paste(
    digits: UInt8[np.ndarray, "m 28 28"], number: int, *, side: int, shrink: float, most: int, seed: int
) -> Canvases:
    """Paste digits on canvases.

    The number of digits is uniform on 0 to `most`. Each is divided in size by a normal factor of mean `shrink` and
    deviation 0.1, and put where its square overlaps none before it.

    Args:
        digits: Where the digits are taken from, uniformly.
        number: How many canvases.
        side: Of a canvas, in pixels.
        shrink: Mean factor by which a digit is made smaller.
        most: Most digits on a canvas.
        seed: Of all that is random here.
    """
    random = np.random.default_rng(seed)
    counts = random.integers(0, most + 1, number)
    squares = [_squares(count, side, shrink, random) for count in counts]
    images = np.zeros((number, side, side), np.float32)
    boxes = np.full((number, most, 3), -1.0, np.float32)
    for image, box, found in zip(images, boxes, squares, strict=True):
        box[: len(found)] = np.reshape(found, (-1, 3))
        for row, column, size in found:
            small = Image.fromarray(digits[random.integers(len(digits))]).resize((size, size), Image.Resampling.BOX)
            image[row : row + size, column : column + size] = np.asarray(small, np.float32) / 255
    return Canvases(images, counts, boxes)


def _squares(count: int, side: int, shrink: float, random: np.random.Generator) -> list[tuple[int, int, int]]:
    """Draw squares until none overlaps another: all anew each time, as there may be no room left beside the first."""
    while True:
        sizes = [round(28 / max(random.normal(shrink, 0.1), 1.0)) for _ in range(count)]
        found = [(*random.integers(0, side - size + 1, 2).tolist(), size) for size in sizes]
        if not any(_overlap(a, b) for i, a in enumerate(found) for b in found[:i]):
            return found


def _overlap(first: tuple[int, int, int], second: tuple[int, int, int]) -> bool:
    return all(max(a, b) < min(a + first[2], b + second[2]) for a, b in zip(first[:2], second[:2], strict=True))
