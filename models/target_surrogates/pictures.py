"""Pictures of losses by numbers of outer steps."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from models.pictures import INK


def _panel(xlabel: str, ylabel: str, title: str) -> tuple[Figure, Axes]:
    figure = Figure((5.4, 3.4), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.set_title(title, fontsize=10, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure: Figure, axes: Axes, path: Path) -> None:
    axes.legend(frameon=False, fontsize=8, loc="upper right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def curves(path: Path, shown: Mapping[str, Mapping[int, float]], ylabel: str, title: str) -> None:
    """Draw measures by the number of outer steps: one dear gradient each, or one of each run."""
    figure, axes = _panel("outer steps", ylabel, title)
    for name, curve in shown.items():
        axes.semilogy(list(curve), list(curve.values()), label=name, linewidth=1.4)
    _save(figure, axes, path)


WORDS = {
    "m1": "m = 1",
    "m20": "m = 20",
    "m20_kl": "m = 20, divergence",
    "m20_sqrt": "m = 20, 1 / sqrt(t)",
    "m20_exponential": "m = 20, exponential",
    "m20_averaged": "m = 20, mean of 4",
    "m20_aware": "m <= 20, noise-aware, mean of 4",
}


def guides(path: Path, fits: Mapping[str, Mapping[int, float]], share: float) -> None:
    """Draw the gaps of guides at one step size."""
    prefix = f"c{share:g}_"
    shown = {WORDS[name.removeprefix(prefix)]: curve for name, curve in fits.items() if name.startswith(prefix)}
    if "adam" in fits:
        shown["Adam, best rate"] = fits["adam"]
    curves(path, shown, "nats from the posterior", f"a guide of digits, eta = {share:g} / curvature")


def rounds(path: Path, losses: Mapping[str, Sequence[float] | np.ndarray]) -> None:
    """Draw what students have lost since the second round, round by round; the first is the same for all."""
    figure, axes = _panel("round of 100 answers", "cumulative loss from round 2 on", "a student of an expert")
    for name, series in losses.items():
        axes.semilogy(np.arange(2, len(series) + 1), np.cumsum(series[1:]), label=name, linewidth=1.4)
    axes.set_xlim(0, 1.65 * len(next(iter(losses.values()))))  # room for the legend
    _save(figure, axes, path)
