"""Canvases with the squares that the guide has found, and training curves."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from models.pictures import COLOURS, INK, curves


def boxes(
    path: Path,
    images: Float[np.ndarray, "n side side"],
    shown: Float[np.ndarray, "n side side"],
    where: Float[np.ndarray, "n steps 3"],
    present: Bool[np.ndarray, "n steps"],
    title: str,
) -> None:
    """Draw images above what the model makes of them, with the window of each object that was found, in order.

    Args:
        path: Where to save.
        images: The data.
        shown: The canvases that the found objects make.
        where: Log shrink, row and column of each object.
        present: Which objects there are.
        title: Above the sheet.
    """
    figure = Figure((0.9 * len(images), 2.1), layout="constrained")
    grid = figure.subplots(2, len(images), squeeze=False)
    for column, image in enumerate(images):
        for axes, pixels in zip(grid[:, column], (image, shown[column]), strict=True):
            axes.imshow(pixels, cmap="Greys", vmin=0, vmax=1, interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
        for step in np.flatnonzero(present[column]):
            grid[0, column].add_patch(_window(where[column, step], len(image), COLOURS[step % len(COLOURS)]))
    figure.suptitle(title, fontsize=10, color=INK)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _window(where: Float[np.ndarray, "3"], side: int, colour: str) -> Rectangle:
    """Return the square of a window in pixels; the canvas runs from -1 to 1 between the middles of its end pixels."""
    half = np.exp(-where[0])
    row, column = ((centre - half + 1) / 2 * (side - 1) for centre in where[1:])
    return Rectangle((column, row), half * (side - 1), half * (side - 1), fill=False, edgecolor=colour, linewidth=1.2)


def moments(path: Path, images: Float[np.ndarray, "n side side"], found: Mapping[str, tuple], strategy: str) -> None:
    """Draw the same images at several moments of a fit, with the windows found then.

    Args:
        path: Where to save; nothing is drawn without a moment.
        images: The data.
        found: Presence, places and canvases (as `boxes` takes them, presence as numbers), by moment.
        strategy: In the title.
    """
    if not found:
        return
    figure = Figure((0.9 * len(images) + 0.8, 0.95 * len(found) + 0.3), layout="constrained")
    grid = figure.subplots(len(found), len(images), squeeze=False)
    for axes, (moment, (present, where, _)) in zip(grid, found.items(), strict=True):
        axes[0].set_ylabel(moment, fontsize=8, color=INK)
        for one, image, there, place in zip(axes, images, present, where, strict=True):
            one.imshow(image, cmap="Greys", vmin=0, vmax=1, interpolation="nearest")
            one.set_xticks([])
            one.set_yticks([])
            for step in np.flatnonzero(there):
                one.add_patch(_window(place[step], len(image), COLOURS[step % len(COLOURS)]))
    figure.suptitle(f"What the guide finds during the fit by {strategy}", fontsize=10, color=INK)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def training(path: Path, values: Mapping[str, Sequence[float]]) -> None:
    """Draw the training objective of each strategy."""
    curves(values, path, "ELBO of the training minibatches, by strategy for presence", ylabel="nats per image")
