"""Curves of what was generated, reconstructed and predicted."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from models.pictures import COLOURS, INK, curves
from models.pv_rnn.sequences import ACTIVITIES, NAMES, STEPS, classify


def training(path: Path, values: Sequence[float]) -> None:
    """Draw the training objective, summed over the fits that were made together."""
    curves({"objective": values}, path, "Weighted objective of the fits", ylabel="sum over fits, mean over sequences")


def chains(path: Path, data: np.ndarray, found: Mapping[str, tuple]) -> None:
    """Draw free runs of every fit as curves in the plane, block by block, beside the data."""
    rows = {"data": data} | {name: free for name, (_, free) in found.items()}
    figure = Figure((2.6 * len(rows), 5.2), layout="constrained")
    panels = figure.subplots(2, len(rows), squeeze=False)
    for column, (name, sequences) in enumerate(rows.items()):
        _blocks(panels[0, column], sequences, _titled(name))
        _steps(panels[1, column], sequences[0])
    title = "Free runs: blocks of eight steps in the plane (colour: nearest primitive), and one run in time"
    figure.suptitle(title, fontsize=10, color=INK)
    _save(figure, path)


def _titled(name: str) -> str:
    return name.replace("w_", "w = ").replace("particles_", "particles: ")


def _blocks(axes: Axes, sequences: np.ndarray, title: str, most: int = 60) -> None:
    kinds, _ = classify(sequences)
    blocks = sequences[:, : kinds.shape[1] * STEPS].reshape(-1, STEPS, 2)
    chosen = np.random.default_rng(0).permutation(len(blocks))[:most]
    for block, kind in zip(blocks[chosen], kinds.ravel()[chosen], strict=True):
        axes.plot(*block.T, color=COLOURS[kind], alpha=0.3, linewidth=0.8)
    shares = np.bincount(kinds.ravel(), minlength=3) / kinds.size
    label = ", ".join(f"{name} {share:.0%}" for name, share in zip(NAMES, shares, strict=True))
    axes.set_title(f"{title}\n{label}", fontsize=8.5, color=INK)
    axes.set(xlim=(-1.05, 1.05), ylim=(-1.05, 1.05), aspect="equal", xticks=[], yticks=[])


def _steps(axes: Axes, run: np.ndarray) -> None:
    axes.plot(run[:, 0], color="C0", linewidth=1)
    axes.plot(run[:, 1], color="C1", linewidth=1)
    axes.set(ylim=(-1.05, 1.05))
    axes.set_xlabel("step", fontsize=8, color=INK)
    _tidy(axes)


def predictions(path: Path, test: np.ndarray, outputs: np.ndarray, rollouts: np.ndarray, number: int = 6) -> None:
    """Draw held-out streams, what error regression makes of the window, and the predictions after it."""
    title = "Held-out streams (grey), after error regression over the window (line), predicted (thin lines)"
    _predictions(path, test, outputs, rollouts, title, [*range(min(number, len(test)))], channel=1)


def movements(path: Path, test: np.ndarray, outputs: np.ndarray, rollouts: np.ndarray) -> None:
    """Draw one recording of every activity."""
    title = "Held-out movements, first channel of the accelerometer (grey); error regression (line); predictions (thin)"
    rows = [*range(0, len(test), max(1, len(test) // len(ACTIVITIES)))][: len(ACTIVITIES)]  # they are sorted
    _predictions(path, test, outputs, rollouts, title, rows, channel=0, labels=ACTIVITIES)


def _predictions(path, test, outputs, rollouts, title: str, rows: Sequence[int], channel: int, labels=()) -> None:
    window, horizon = outputs.shape[1], rollouts.shape[2]
    figure = Figure((7.5, 1.05 * len(rows) + 0.4), layout="constrained")
    for order, (axes, row) in enumerate(zip(figure.subplots(len(rows), squeeze=False)[:, 0], rows, strict=True)):
        end = window + horizon
        axes.plot(test[row, :end, channel], color="0.7", linewidth=3)
        axes.plot(outputs[row, :, channel], color="C0", linewidth=1.2)
        steps = np.arange(window, end)
        axes.plot(steps, rollouts[row, :, :, channel].T, color="C3", linewidth=0.6, alpha=0.5)
        axes.axvline(window - 0.5, color=INK, linewidth=0.6, linestyle=":")
        axes.set(ylim=(-1.05, 1.05))
        axes.set_ylabel(labels[order] if labels else "", fontsize=8, color=INK)
        axes.xaxis.get_major_locator().set_params(integer=True)
        _tidy(axes)
    axes.set_xlabel("step", fontsize=8, color=INK)
    figure.suptitle(title, fontsize=9, color=INK)
    _save(figure, path)


def online(path: Path, stream: np.ndarray, rollouts: np.ndarray, errors: Mapping[str, np.ndarray]) -> None:
    """Draw a stream with what was predicted of every step one step before; errors of predictions along the stream."""
    figure = Figure((7.5, 4), layout="constrained")
    above, below = figure.subplots(2)
    above.plot(stream[:, 1], color="0.7", linewidth=3, label="stream")
    ahead = rollouts[:, :, 0, 1]
    above.plot(np.arange(1, len(ahead) + 1), ahead, color="C3", linewidth=0.7, alpha=0.6)
    above.set_title("One stream, and predictions of each step one step before (four samples)", fontsize=9, color=INK)
    for order, (name, error) in enumerate(errors.items()):
        style = "--" if order else "-"
        below.plot(error.mean(0), style, color=COLOURS[order], linewidth=1.2, label=f"Adam {name}")
    below.set_title("Squared error of the next eight steps, mean over streams", fontsize=9, color=INK)
    below.legend(frameon=False, fontsize=8)
    below.set_xlabel("step of the stream", fontsize=8, color=INK)
    for axes in (above, below):
        _tidy(axes)
    _save(figure, path)


def _tidy(axes: Axes) -> None:
    axes.tick_params(labelsize=7, labelcolor=INK)
    axes.spines[["top", "right"]].set_visible(False)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
