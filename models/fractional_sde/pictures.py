"""Pictures: variances of bridges, the Nile, volatility, and predicted frames."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from models.pictures import COLOURS, INK, sheet


def variances(
    path: Path,
    times: Float[np.ndarray, " n"],
    curves: Mapping[float, tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]],
) -> None:
    """Draw the variance of bridges along time, learned (dots) over exact (lines), by Hurst index."""
    figure = Figure((7, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for colour, (hurst, (learned, exact)) in zip(COLOURS, curves.items(), strict=False):
        axes.plot(times, exact, colour, linewidth=1.2, label=f"H = {hurst}: exact")
        axes.plot(times[::4], learned[::4], colour + "o", markersize=3, label=f"H = {hurst}: learned")
    axes.set(xlabel="time", ylabel="variance of X given its end", ylim=(0, None))
    _finish(figure, axes, path, "Bridges of fractional noise: variance learned by ELBO, and by algebra", beside=True)


def series(
    path: Path,
    times: Float[np.ndarray, " n"],
    values: Float[np.ndarray, " n"],
    levels: Float[np.ndarray, "draws n"],
    title: str,
    ylabel: str,
) -> None:
    """Draw a series, and nine tenths of the draws of what it would be without error."""
    figure = Figure((7, 3.2), layout="constrained")
    axes = figure.add_subplot()
    low, high = np.quantile(levels, [0.05, 0.95], axis=0)
    axes.plot(times, values, ".", color=INK, markersize=2.5, label="observed")
    axes.fill_between(times, low, high, color="C0", alpha=0.35, linewidth=0, label="90 % of the posterior")
    axes.set(xlabel="trading day", ylabel=ylabel)
    _finish(figure, axes, path, title)


def profile(
    path: Path,
    hursts: Float[np.ndarray, " n"],
    evidences: Mapping[str, Float[np.ndarray, " n"]],
    bounds: Mapping[str, tuple[float, float]],
) -> None:
    """Draw exact evidences of the Nile over the Hurst index, and the ELBOs that were reached."""
    figure = Figure((6, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for colour, (name, values) in zip(COLOURS, evidences.items(), strict=False):
        axes.plot(hursts, values, colour, linewidth=1.2, label=f"{name}, exact")
    for marker, (name, (hurst, value)) in zip("os", bounds.items(), strict=False):
        axes.plot([hurst], [value], marker, color="C3", markersize=6, label=f"ELBO, {name}")
    axes.set(xlabel="Hurst index H", ylabel="log evidence (nats)", ylim=(-665, -635))
    _finish(figure, axes, path, "Flow of the Nile, 1871 to 1970: evidence at the best mean and scale")


def frames(
    path: Path, movie: Float[np.ndarray, "t s s"], drawn: Mapping[str, Float[np.ndarray, "k t s s"]], known: int
) -> None:
    """Show a held-out movie, and below it how models draw it, and continue it after the known frames."""
    rows: list[np.ndarray] = [movie]
    labels = ["data"]
    for name, predictions in drawn.items():
        rows += [*predictions[:2], predictions.mean(0)]
        labels += [f"{name}, one draw", f"{name}, another", f"{name}, mean"]
    columns: Sequence[str] = [f"{i + 1}" + ("" if i < known else "*") for i in range(len(movie))]
    sheet(np.clip(np.stack(rows), 0, 1), path, f"A held-out movie; frames from {known + 1} on (*) are predicted",
          rows=labels, columns=columns)  # fmt: skip


def _finish(figure: Figure, axes: Axes, path: Path, title: str, *, beside: bool = False) -> None:
    axes.set_title(title, fontsize=10, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    place = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)} if beside else {}
    axes.legend(frameon=False, fontsize=8, **place)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
