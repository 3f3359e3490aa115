"""Pictures of regrets, code lengths, widths and balls."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from models.pictures import COLOURS, INK
from models.universality_lens.balls import Weights


def _panel(xlabel: str, ylabel: str, title: str) -> tuple[Figure, Axes]:
    figure = Figure((5.4, 3.4), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.set_title(title, fontsize=10, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure: Figure, axes: Axes, path: Path) -> None:
    axes.legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def coins(path: Path, rows: Mapping[tuple[float, int], tuple[float, float, float]]) -> None:
    """Draw the exact regret of coins by the number of tosses, and both bounds."""
    figure, axes = _panel("tosses", "nats", "What a uniform prior costs on coins")
    sources = sorted({theta for theta, _ in rows})
    for colour, theta in zip(COLOURS, sources, strict=False):
        tosses = [n for t, n in rows if t == theta]
        regret, gibbs, ball = zip(*(rows[theta, n] for n in tosses), strict=True)
        axes.semilogx(tosses, regret, color=colour, label=f"P(heads) = {theta}: regret")
        axes.semilogx(tosses, gibbs, color=colour, linestyle="--", label="Gibbs bound")
        axes.semilogx(tosses, ball, color=colour, linestyle=":", label="best ball")
    _save(figure, axes, path)


def text(path: Path, singles: Sequence[float], mixtures: Sequence[float]) -> None:
    """Draw bits per character of single orders, and of mixtures of all orders up to each."""
    figure, axes = _panel("order", "bits per character", "Text, compressed by Markov sources")
    orders = range(len(singles))
    axes.plot(orders, singles, "o-", color="C3", label="one order")
    axes.plot(orders, mixtures, "o-", color="C0", label="mixture of all orders up to it")
    axes.set_xticks(list(orders))
    _save(figure, axes, path)


def widths(path: Path, sizes: Sequence[int], metrics: Mapping[str, float]) -> None:
    """Draw the test loss of mixtures, single samples and point estimates by width."""
    figure, axes = _panel("width", "nats for each clean label", "Networks on digits with wrong labels")
    names = {"point": "point estimate", "single": "one sample", "mixture": "mixture of samples"}
    for (name, label), colour in zip(names.items(), ("C3", "C1", "C0"), strict=True):
        axes.semilogx(sizes, [metrics[f"width_{size}_{name}"] for size in sizes], "o-", color=colour, label=label)
    axes.axhline(math.log(10), color=INK, linewidth=0.8, linestyle=":", label="all classes alike")
    axes.set_xticks(list(sizes), [str(size) for size in sizes])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    _save(figure, axes, path)


def balls(path: Path, found: Mapping[int, Weights], n: int) -> None:
    """Draw the log weight of balls around one predictor, by radius, for the priors of several widths."""
    title = "Prior weight close to the mixture of the widest networks"
    figure, axes = _panel("mean divergence (nats)", "log weight (nats)", title)
    for (size, weights), colour in zip(found.items(), COLOURS, strict=False):
        label = f"width {size}: regret of {n} labels <= {weights.bound(n):.0f} nats"
        axes.plot(weights.radius, weights.log_weight, color=colour, label=label)
        best = np.argmin(n * weights.radius - weights.log_weight)
        axes.plot(weights.radius[best], weights.log_weight[best], "o", color=colour)
    _save(figure, axes, path)
