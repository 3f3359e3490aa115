"""A report of collapse as a picture."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from estimators.diagnostics.collapse.report import CollapseReport

INK = "#333333"


def draw(report: CollapseReport, path: Path) -> None:
    """Draw nats of all units, sorted, beside the prediction; and shares of data below each number of nats."""
    figure = Figure((9.0, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_units(left, report)
    _draw_shares(right, report)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)


def _draw_units(axes: Axes, report: CollapseReport) -> None:
    for number, latent in enumerate(report.latents):
        nats = np.sort(latent.units.ravel())[::-1]
        axes.plot(np.arange(1, len(nats) + 1), nats, "o-", ms=3, color=f"C{number}", label=latent.address)
        axes.axhline(latent.threshold, color=INK, linewidth=0.8, linestyle=":")
    if report.prediction is not None:
        for number, (name, count) in enumerate(report.prediction.active.items()):
            label = f"linear theory: {count} of {name}"
            axes.axvline(count + 0.5, color=f"C{number}", linestyle="--", linewidth=1, label=label)
    axes.set(xlabel="unit, by nats", ylabel="nats", title="How much each unit takes")


def _draw_shares(axes: Axes, report: CollapseReport) -> None:
    """Draw delta against eps: the curve of a unit that is collapsed stays at the bottom (Dang et al. 2024)."""
    found = [latent.nats[np.isfinite(latent.nats)] for latent in report.latents]
    largest = max((float(nats.max(initial=1e-2)) for nats in found), default=1.0)
    grid = np.geomspace(1e-4, max(largest, 1e-2), 100)
    for number, latent in enumerate(report.latents):
        share = np.stack([1 - latent.below(eps).ravel() for eps in grid])
        shown = share[:, :: math.ceil(share.shape[1] / 40)]
        axes.semilogx(grid, shown, color=f"C{number}", linewidth=0.8, alpha=0.7)
        axes.plot([], [], color=f"C{number}", label=latent.address)
    axes.axvline(report.latents[0].threshold, color=INK, linewidth=0.8, linestyle=":")
    axes.set(xlabel="nats", ylabel="share of repetitions above", ylim=(-0.02, 1.02), title="Units, datum by datum")
