"""The posterior of the cone and samples of its guides."""

from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from models.pictures import INK

SIDE = 3.0
COLUMNS = 4


def draw(
    path: Path,
    log_density: Callable[[Array, Array], Array],
    samples: Mapping[str, Float[np.ndarray, "n 2"]],
    captions: Mapping[str, str],
) -> None:
    """Show the posterior density on a grid, alone and under samples of each guide.

    Args:
        path: Where to save.
        log_density: That of the posterior at (x, y), but for a constant.
        samples: Points (x, y), by guide.
        captions: What is written above each panel.
    """
    density = on_grid(log_density)
    rows = -(-(1 + len(samples)) // COLUMNS)
    figure = Figure((2.6 * COLUMNS, 2.95 * rows + 0.3), layout="constrained")
    panels = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    title = "Fitted guides, by objective and its value: 1,000 samples (red) over the posterior density (grey)"
    figure.suptitle(title, fontsize=11, color=INK)
    _panel(panels[0], density, "posterior density p(x, y | z = 5)", darkest=1.0)
    for panel, (name, points) in zip(panels[1:], samples.items(), strict=False):
        _panel(panel, density, captions[name], darkest=0.45)
        panel.plot(points[:, 0], points[:, 1], ".", color="C3", markersize=2.2, alpha=0.7, markeredgewidth=0)
    for panel in panels[1 + len(samples) :]:
        panel.set_axis_off()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def on_grid(log_density: Callable[[Array, Array], Array], number: int = 600) -> Float[np.ndarray, "number number"]:
    """Evaluate a density in the window, relative to its largest value; rows are y."""
    line = jnp.linspace(-SIDE, SIDE, number)
    values = jax.jit(jax.vmap(jax.vmap(log_density, (0, None)), (None, 0)))(line, line)
    return np.exp(np.asarray(values - values.max(), np.float64))


def _panel(axes: Axes, density: Float[np.ndarray, "n n"], title: str, darkest: float) -> None:
    window = (-SIDE, SIDE, -SIDE, SIDE)
    axes.imshow(density, cmap="Greys", vmin=0, vmax=1 / darkest, extent=window, origin="lower")
    axes.set(xlim=window[:2], ylim=window[2:], aspect="equal", xticks=[-2, 0, 2], yticks=[-2, 0, 2])
    axes.set_xlabel("x", fontsize=8, color=INK, labelpad=1)
    axes.set_ylabel("y", fontsize=8, color=INK, labelpad=1)
    axes.tick_params(labelsize=7, labelcolor=INK)
    axes.set_title(title, fontsize=8.5, color=INK)
