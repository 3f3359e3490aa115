"""Pictures: singular values beside theory, nats by weight, second levels."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from models.pictures import COLOURS, INK
from models.posterior_collapse.config import Nonlinear
from models.posterior_collapse.linear import Fitted
from models.posterior_collapse.theory import rate


def _panels(number: int, title: str) -> tuple[Figure, list[Axes]]:
    figure = Figure((4.4 * number, 3.4), layout="constrained")
    figure.suptitle(title, fontsize=10, color=INK)
    panels = list(np.atleast_1d(figure.subplots(1, number)))
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels


def _save(figure: Figure, panels: Sequence[Axes], path: Path) -> None:
    for axes in panels:
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _mark(axes: Axes, places: Sequence[float]) -> None:
    """Make the horizontal axis one of logarithms, marked where something was measured."""
    axes.set_xscale("log")
    axes.minorticks_off()
    axes.set_xticks(list(places), [f"{place:g}" for place in places])


def values(path: Path, fitted: Sequence[Fitted]) -> None:
    """Draw the singular values of trained programs on those of theory, a panel for each role."""
    roles = {"decoder": "decoder", "encoder": "encoder of the first level", "top": "map from z2 to z1"}
    shown = [role for role in roles if any(role in one.expected for one in fitted)]
    figure, panels = _panels(len(shown), "Singular values: trained (points) and theory (lines)")
    for axes, role in zip(panels, shown, strict=True):
        of_role = [one for one in fitted if role in one.expected]
        for number, one in enumerate(of_role[:: max(1, len(of_role) // 4)][:4]):
            most = min(len(one.expected[role]), 26)
            place = np.arange(1, most + 1)
            axes.plot(place, one.expected[role][:most], color=COLOURS[number], linewidth=1)
            axes.plot(place, one.found[role][:most], "o", ms=3, color=COLOURS[number], label=one.name)
        axes.set(xlabel="mode", ylabel=roles[role], ylim=(-0.03, None))
    _save(figure, panels, path)


def rates(path: Path, fitted: Sequence[Fitted], metrics: Mapping[str, float], config: Nonlinear) -> None:
    """Draw nats by beta: the curve of theory, linear programs on it, and networks."""
    figure, panels = _panels(2, "How much the latents of digits take")
    images = [one for one in fitted if one.name.startswith("vae")]
    moments, betas = images[0].moments, np.geomspace(0.2, 5, 60)
    left, right = panels
    left.plot(betas, [rate(moments, beta, config.noise) for beta in betas], color=INK, label="linear theory")
    for one in images:
        threshold = one.thresholds["decoder"] / config.noise**2  # noise and beta act by their product alone
        left.plot(threshold, one.report.rate, "o", color="C0", label="linear program" if one is images[0] else None)
    left.plot(config.betas, [metrics[f"vae_beta_{b:g}_nats"] for b in config.betas], "s-", color="C3", label="network")
    left.set(xlabel=f"beta, at noise {config.noise:g}", ylabel="nats")
    for name, colour in (("alone", "C1"), ("given", "C2")):
        nats = [metrics[f"quarter_{name}_beta_{beta:g}_nats"] for beta in config.betas]
        words = "three quarters alone" if name == "alone" else "given the fourth"
        right.plot(config.betas, nats, "s-", color=colour, label=words)
    right.set(xlabel="beta", ylabel="nats, networks")
    for axes in panels:
        _mark(axes, config.betas)
    _save(figure, panels, path)


def hierarchy(path: Path, metrics: Mapping[str, float], config: Nonlinear) -> None:
    """Draw nats and information of the second level by both weights."""
    figure, panels = _panels(2, "A second level: what it takes, and what it tells of the image")
    for axes, weight in zip(panels, ("b1", "b2"), strict=True):
        take = lambda kind, weight=weight: [metrics[f"mhvae_{weight}_{beta:g}_z2_{kind}"] for beta in config.betas]
        axes.plot(config.betas, take("nats"), "o-", color="C0", label="nats of z2")
        low, high = (np.maximum(take(end), 0.0) for end in ("told_low", "told_high"))
        middle, half = (low + high) / 2, (high - low) / 2
        words = "of them about the image (bounds)"
        axes.errorbar(config.betas, middle, half, color="C1", marker="o", capsize=4, label=words)
        axes.set_yscale("symlog", linthresh=0.1)
        axes.set(xlabel=weight, ylabel="nats", ylim=(-0.02, 200))
        _mark(axes, config.betas)
    _save(figure, panels, path)


def correlation(path: Path, metrics: Mapping[str, float], config: Nonlinear) -> None:
    """Draw nats by correlation, of networks and of theory."""
    figure, panels = _panels(1, "Inputs that say more leave less for the latents")
    for kind, words, colour in (("nats", "network", "C3"), ("linear", "linear theory", INK)):
        found = [metrics[f"correlation_{r:g}_{kind}"] for r in config.correlations]
        panels[0].plot(config.correlations, found, "o-", color=colour, label=words)
    panels[0].set(xlabel="correlation of inputs and observations", ylabel="nats")
    _save(figure, panels, path)
