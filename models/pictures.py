"""Figures that several papers draw: sheets of images and training curves, as PNG files. No global plotting state."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

INK = "#333333"
COLOURS = ("C0", "C1", "C2", "C3")


def sheet(
    images: Float[np.ndarray, "rows columns height width"],
    path: Path,
    title: str,
    *,
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    size: float = 0.55,
) -> None:
    """Draw images side by side, dark on white, with an optional label for each row and column.

    Args:
        images: Intensities from 0 (paper) to 1 (ink).
        path: Where to save.
        title: Above the sheet.
        rows: Labels on the left.
        columns: Labels below.
        size: Of one image, in inches.
    """
    num_rows, num_columns, height, width = images.shape
    wall = np.full((num_rows, height + 2, num_columns, width + 2), np.nan)  # the border parts neighbours
    wall[:, 1:-1, :, 1:-1] = images.swapaxes(1, 2)
    margin = 0.085 * max(map(len, rows), default=0)
    shape = (size * num_columns + margin, size * num_rows + 0.3 + 0.25 * bool(columns))
    figure = Figure(shape, layout=ConstrainedLayoutEngine(w_pad=0.05, h_pad=0.03))
    axes = figure.add_subplot()
    axes.imshow(wall.reshape(num_rows * (height + 2), -1), cmap="Greys", vmin=0, vmax=1, interpolation="nearest")
    axes.set_yticks((height + 2) * (np.arange(len(rows)) + 0.5) - 0.5, rows)
    axes.set_xticks((width + 2) * (np.arange(len(columns)) + 0.5) - 0.5, columns)
    axes.tick_params(length=0, labelsize=8, labelcolor=INK)
    axes.spines[:].set_visible(False)
    _save(figure, axes, path, title)


def curves(
    values: Mapping[str, Sequence[float] | np.ndarray],
    path: Path,
    title: str,
    *,
    ylabel: str,
    levels: Mapping[str, float] | None = None,
) -> None:
    """Draw the value of every step of one or several training runs, and horizontal levels to compare them with.

    Steps are averaged over windows. The steepest climb at the start is cut off, so that the rest can be told apart; of
    two runs that coincide both are seen, the later ones dashed on the earlier.
    """
    figure = Figure((6, 3.4), layout="constrained")
    axes = figure.add_subplot()
    shown = list((levels or {}).values())
    for order, (name, series) in enumerate(values.items()):
        steps, means = windows(np.asarray(series, np.float64))
        (line,) = axes.plot(steps, means, COLOURS[order], label=name, linewidth=1.2 if order else 2.4)
        line.set_linestyle((0, (3, 2)) if order else "-")
        shown.extend(means[len(means) // 12 :])
    for (name, level), colour in zip((levels or {}).items(), COLOURS, strict=False):
        axes.axhline(level, color=colour, linestyle=":", linewidth=1.2, label=f"{name}: {level:.2f}")
    room = 0.05 * (max(shown) - min(shown))
    axes.set_ylim(min(shown) - room, max(shown) + room)
    axes.set(xlabel="step", ylabel=ylabel)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.01)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    _save(figure, axes, path, title)


def windows(series: Float[np.ndarray, " steps"], most: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """Return middle and mean of equal windows of a series."""
    pieces = np.array_split(series, min(most, len(series)))
    lengths = np.array([len(piece) for piece in pieces])
    return np.cumsum(lengths) - lengths / 2, np.array([piece.mean() for piece in pieces])


def _save(figure: Figure, axes: Axes, path: Path, title: str) -> None:
    axes.set_title(title, fontsize=10, color=INK)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
