"""Pictures of diagnostics, as image files. No global plotting state; matplotlib is imported when one is drawn."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl import PPLError
from ppl._errors import user_source
from ppl.choicemap import Masked, flatten, show

if TYPE_CHECKING:
    from estimators.diagnostics.calibration import Calibration
    from estimators.diagnostics.verdict import Verdict

COLOURS = {"good": "#2a7f3f", "usable": "#c98a00", "bad": "#b3261e"}
INK, GUIDE, POSTERIOR = "#333333", "#4c72b0", "#dd8452"


def _figure(rows: int, columns: int, size: tuple[float, float]):
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise PPLError(
            "A picture needs matplotlib.",
            where=user_source(),
            got="no such package",
            remedy="pip install matplotlib",
        ) from None
    figure = Figure((size[0] * columns, size[1] * rows), layout="constrained")
    return figure, np.asarray(figure.subplots(rows, columns, squeeze=False)).ravel()


def draw_verdict(verdict: Verdict, path: Path) -> None:
    """Draw log weights, grades, and up to four coordinates of the guide beside the reweighted draws."""
    marginals = list(_marginals(verdict))[:4]
    figure, axes = _figure(1, 2 + len(marginals), (3.6, 3.2))
    figure.suptitle(f"Verdict: {verdict.grade}", color=COLOURS[verdict.grade], fontweight="bold")
    _draw_weights(axes[0], verdict)
    _draw_grades(axes[1], verdict)
    for axis, (name, ours, both, shares) in zip(axes[2:], marginals, strict=True):
        _draw_marginal(axis, name, ours, both, shares)
    figure.savefig(path, dpi=130)


def _draw_weights(axis, verdict: Verdict) -> None:
    log_weights = verdict.evidence.get("log_weights", np.zeros(0))
    finite = log_weights[np.isfinite(log_weights)]
    if not len(finite):
        axis.set_axis_off()
        return
    axis.set_title("log weights of the guide's draws", fontsize=9)
    axis.hist(finite, bins=_bins(finite.min(), finite.max(), 40), color=GUIDE)
    axis.axvline(verdict.log_evidence, color=POSTERIOR, label="log evidence")
    axis.axvline(finite.mean(), color=INK, linestyle="--", label="ELBO")
    axis.legend(fontsize=8, frameon=False)
    axis.set_yticks([])
    axis.spines[["top", "right", "left"]].set_visible(False)


def _bins(low: float, high: float, number: int) -> np.ndarray:
    """Return edges of bins; numbers that differ by rounding alone share one in the middle."""
    if high - low > 1e-6 * max(1, abs(low), abs(high)):
        return np.linspace(low, high, number + 1)
    return np.linspace(low - 0.5, high + 0.5, number + 2 - number % 2)


def _draw_grades(axis, verdict: Verdict) -> None:
    axis.set_axis_off()
    lines = [(finding.grade, f"{finding.name} = {finding.value:.3g}") for finding in verdict.findings]
    lines += [("bad", "the programs do not fit")] * bool(verdict.problems)
    lines += [("usable", "not all could be judged")] * bool(verdict.notes)
    for i, (grade, text) in enumerate(lines):
        place = 0.85 - 0.16 * i
        axis.text(0.02, place, grade, color=COLOURS[grade], fontweight="bold", transform=axis.transAxes)
        axis.text(0.32, place, text, color=INK, transform=axis.transAxes)


def _marginals(verdict: Verdict) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """Yield names of scalar coordinates with the guide's draws, all draws, and the weights of these."""
    if "mixed" not in verdict.evidence:
        return
    ours, prior = flatten(verdict.evidence["guide"]), flatten(verdict.evidence["prior"])
    for path, leaf in ours.items():
        if isinstance(leaf, Masked):
            continue
        for index in np.ndindex(*leaf.shape[1:]):
            name = show(path) + (f"[{', '.join(map(str, index))}]" if index else "")
            pick = lambda x, index=index: np.asarray(x[(slice(None), *index)], float)
            both = np.concatenate([pick(leaf), pick(prior[path])])
            yield name, pick(leaf), both, verdict.evidence["mixed"]


def _draw_marginal(axis, name: str, ours: np.ndarray, both: np.ndarray, shares: np.ndarray) -> None:
    counted = both[shares > 1e-6] if (shares > 1e-6).any() else both
    low, high = min(ours.min(), counted.min()), max(ours.max(), counted.max())
    bins = _bins(low, high, 50)
    axis.hist(ours, bins, density=True, color=GUIDE, alpha=0.55, label="guide")
    axis.hist(both, bins, weights=shares, density=True, histtype="step", color=POSTERIOR, lw=1.8, label="reweighted")
    axis.set_title(name, fontsize=9)
    axis.legend(fontsize=8, frameon=False)
    axis.set_yticks([])
    axis.spines[["top", "right", "left"]].set_visible(False)


def draw_ranks(calibration: Calibration, path: Path) -> None:
    """Draw histograms of ranks, with the band that 99 % of the cells of uniform ranks lie in."""
    from estimators.diagnostics.calibration import num_cells

    wrong = [one.name for one in calibration.wrong()]
    names = (wrong + [one.name for one in calibration.coordinates if one.name not in wrong])[:12]
    columns = min(4, len(names))
    figure, axes = _figure(math.ceil(len(names) / columns), columns, (3.0, 2.2))
    for axis in axes[len(names) :]:
        axis.set_axis_off()
    for axis, name in zip(axes, names, strict=False):
        _draw_rank(axis, name, calibration.ranks[name], calibration.draws, num_cells, name in wrong)
    figure.savefig(path, dpi=130)


def _draw_rank(axis, name: str, ranks: np.ndarray, draws: int, num_cells: Any, wrong: bool) -> None:
    cells = num_cells(draws, len(ranks))
    expected = len(ranks) / cells
    band = 2.576 * math.sqrt(expected * (1 - 1 / cells))
    axis.axhspan(max(expected - band, 0), expected + band, color="#dddddd")
    axis.hist(ranks, np.linspace(-0.5, draws + 0.5, cells + 1), color=COLOURS["bad"] if wrong else GUIDE, alpha=0.8)
    axis.set_title(name + (" (wrong)" if wrong else ""), fontsize=9)
    axis.set_yticks([])
    axis.spines[["top", "right", "left"]].set_visible(False)
