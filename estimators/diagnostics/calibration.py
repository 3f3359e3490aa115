"""Simulation-based calibration: ranks of what was dreamt among what the guide draws."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from estimators.diagnostics import statistics
from estimators.diagnostics.probes import dream, repeated, require_draws
from estimators.objectives.checks import require_programs
from ppl import GenerativeFunction, PPLError, simulate
from ppl._errors import boundary, user_source
from ppl.choicemap import Masked, flatten, show

LEVEL = 0.01
"""Probability with which a guide that is right is found wrong, over all coordinates together (Bonferroni)."""


@dataclasses.dataclass(frozen=True)
class Coordinate:
    """One number among the choices.

    Attributes:
        name: Its address, with an index where the choice is an array.
        chi_square_p: p-value of Pearson's test of uniform ranks.
        uniform_p: p-value of Kolmogorov's.
        symmetric_p: p-value of ranks that lie symmetrically around the middle.
        mean: Of the ranks, from 0 to 1: 0.5 where the guide has no bias; above, it draws too small values.
        spread: Variance of the ranks divided by that of uniform ones: above 1 the guide is too narrow, below too wide.
    """

    name: str
    chi_square_p: float
    uniform_p: float
    symmetric_p: float
    mean: float
    spread: float

    def p_value(self, judged: str) -> float:
        """Return the p-value that is judged; of two tests of one claim, twice the smaller."""
        if judged == "symmetry":
            return self.symmetric_p
        return min(1.0, 2 * min(self.chi_square_p, self.uniform_p))

    def describe(self) -> str:
        """Say what is wrong with the ranks."""
        words = []
        if abs(self.mean - 0.5) > 0.02:
            words.append("too low" if self.mean > 0.5 else "too high")
        if abs(self.spread - 1) > 0.05:
            words.append("too narrow" if self.spread > 1 else "too wide")
        return "the guide is " + " and ".join(words) if words else "the guide's shape is not right"


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What calibration found; printed as text, drawn by `picture`.

    Attributes:
        coordinates: One for each number among the choices.
        ranks: By name, one for each simulation, from 0 to `draws`.
        draws: Number of draws from the guide in each simulation.
        judged: Which claim is judged: "uniform" ranks (SBC) or their "symmetry" (VSBC).
    """

    coordinates: tuple[Coordinate, ...]
    ranks: Mapping[str, np.ndarray]
    draws: int
    judged: Literal["uniform", "symmetry"]

    @property
    def ok(self) -> bool:
        """Whether no coordinate is found wrong."""
        return not self.wrong()

    def wrong(self) -> list[Coordinate]:
        """List the coordinates that are found wrong, worst first."""
        limit = LEVEL / len(self.coordinates)
        found = [one for one in self.coordinates if one.p_value(self.judged) < limit]
        return sorted(found, key=lambda one: one.p_value(self.judged))

    def __str__(self) -> str:
        number = len(next(iter(self.ranks.values())))
        claim = "uniform ranks" if self.judged == "uniform" else "ranks symmetric around the middle"
        title = f"Calibration ({claim}): {number} simulations, {self.draws} draws, {len(self.coordinates)} coordinates"
        lines = [f"  {one.name}: p = {one.p_value(self.judged):.2g}; {one.describe()}" for one in self.wrong()[:10]]
        verdict = "  nothing wrong is found" if self.ok else f"  {len(self.wrong())} found wrong"
        return "\n".join([title, verdict, *lines])

    __repr__ = __str__

    def picture(self, path: str | Path) -> None:
        """Draw the ranks of up to 12 coordinates, the wrong ones first, with bands for uniform ones."""
        from estimators.diagnostics.pictures import draw_ranks

        draw_ranks(self, Path(path))


@boundary
def sbc(
    model: GenerativeFunction,
    guide: GenerativeFunction,
    params: Any,
    observed: Any,
    *inputs: Any,
    key: jax.Array,
    simulations: int = 500,
    draws: int = 99,
    fit: Callable[[jax.Array, Any], Any] | None = None,
) -> Calibration:
    """Check a guide on data that the model makes up (Talts et al. 2018).

    For each simulation the model dreams z and x; z is ranked among draws of the guide given x. If the guide is the
    posterior, ranks are uniform: Pearson's and Kolmogorov's test, at 1 % over all coordinates. A guide can be
    calibrated and useless (the prior is), so look at its bound, too.

    Args:
        model: Called as `model(params, *inputs)`; it can be simulated.
        guide: Called as `guide(params, dreamt, *inputs)`. It reads its observations, unless `fit` is given.
        params: Parameters of the fit.
        observed: Observed choices; only addresses and types are used.
        *inputs: Inputs of both programs.
        key: A key.
        simulations: Number of dreams, at least 50.
        draws: Number of draws for each, at least 9.
        fit: `fit(key, dreamt)` returns the parameters for one dream: for guides that are fitted to one data set.

    Returns:
        A [`Calibration`][estimators.diagnostics.Calibration].

    Raises:
        PPLError: There are too few simulations or draws, or a choice is made only sometimes.
        AddressError: Model and guide do not fit.

    Example:
        >>> import jax, ppl
        >>> from estimators import sbc
        >>> model = ppl.gen(lambda params: ppl.normal(ppl.normal(0.0, 1.0) @ "z", 1.0) @ "x")
        >>> guide = ppl.gen(lambda params, observed: ppl.normal(observed["x"] / 2, params) @ "z")
        >>> calibrated = lambda scale: sbc(model, guide, scale, {"x": 0.0}, key=jax.random.key(0)).ok
        >>> calibrated(0.5**0.5), calibrated(0.4)
        (True, False)
    """
    _require("sbc", model, guide, simulations, draws)
    return _calibrate(model, guide, params, observed, inputs, key, simulations, draws, fit, "uniform")


@boundary
def vsbc(
    model: GenerativeFunction,
    guide: GenerativeFunction,
    params: Any,
    observed: Any,
    *inputs: Any,
    key: jax.Array,
    simulations: int = 500,
    draws: int = 99,
    fit: Callable[[jax.Array, Any], Any] | None = None,
) -> Calibration:
    """Check whether the guide's centre is biased, on data that the model makes up (Yao et al. 2018, section 3).

    As [`sbc`][estimators.sbc], but only the symmetry of the ranks around the middle is judged, which a guide that is
    too narrow or too wide may keep: are point estimates right, if not their uncertainty?

    Args:
        model: Called as `model(params, *inputs)`; it can be simulated.
        guide: Called as `guide(params, dreamt, *inputs)`.
        params: Parameters of the fit.
        observed: Observed choices; only addresses and types are used.
        *inputs: Inputs of both programs.
        key: A key.
        simulations: Number of dreams, at least 50.
        draws: Number of draws for each, at least 9.
        fit: `fit(key, dreamt)` returns the parameters for one dream.

    Returns:
        A [`Calibration`][estimators.diagnostics.Calibration].

    Raises:
        PPLError: There are too few simulations or draws, or a choice is made only sometimes.
        AddressError: Model and guide do not fit.

    Example:
        >>> import jax, ppl
        >>> from estimators import vsbc
        >>> model = ppl.gen(lambda params: ppl.normal(ppl.normal(0.0, 1.0) @ "z", 1.0) @ "x")
        >>> guide = ppl.gen(lambda params, observed: ppl.normal(observed["x"] / 2 + params, 0.4) @ "z")
        >>> centred = lambda shift: vsbc(model, guide, shift, {"x": 0.0}, key=jax.random.key(0)).ok
        >>> centred(0.0), centred(0.3)
        (True, False)
    """
    _require("vsbc", model, guide, simulations, draws)
    return _calibrate(model, guide, params, observed, inputs, key, simulations, draws, fit, "symmetry")


def _require(usage: str, model: Any, guide: Any, simulations: Any, draws: Any) -> None:
    require_programs(usage, model=model, guide=guide)
    require_draws(usage, "simulations", simulations, 50)
    require_draws(usage, "draws", draws, 9)


def _calibrate(model, guide, params, observed, inputs, key, simulations, draws, fit, judged) -> Calibration:
    dream_key, fit_key, draw_key, tie_key = jax.random.split(key, 4)
    latents, data = repeated(dream(model), dream_key, simulations, params, observed, *inputs)
    fitted = params if fit is None else _fits(fit, fit_key, simulations, data)

    def ranked(shared: Any, row: Any) -> Any:
        truth, seen, own = row
        one = lambda _: simulate(guide)(shared if fit is None else own, seen, *inputs).choices
        found = flatten(jax.vmap(one)(jnp.arange(draws)))
        return {path: _rank(leaf, found, path) for path, leaf in flatten(truth).items()}

    row = (latents, data, None if fit is None else fitted)
    counts = repeated(ranked, draw_key, simulations, None if fit is not None else params, over=row)
    ranks = _flat_ranks(counts, np.random.default_rng(np.asarray(jax.random.key_data(tie_key))))
    rows = tuple(_coordinate(name, found, draws) for name, found in ranks.items())
    return Calibration(rows, ranks, draws, judged)


def _fits(fit: Callable, key: jax.Array, simulations: int, data: Any) -> Any:
    keys = jax.random.split(key, simulations)
    found = [fit(keys[i], jax.tree.map(lambda leaf, i=i: leaf[i], data)) for i in range(simulations)]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *found)


def _rank(truth: Any, found: Mapping, path: tuple) -> tuple[jax.Array, jax.Array]:
    """Count the draws below the truth, and those equal to it."""
    if isinstance(truth, Masked) or isinstance(found.get(path), Masked):
        raise PPLError(
            f'The choice at "{show(path)}" is made only sometimes, so it has no rank.',
            where=user_source(),
            remedy="calibrate a program that always makes it",
        )
    return jnp.sum(found[path] < truth, axis=0), jnp.sum(found[path] == truth, axis=0)


def _flat_ranks(counts: Mapping, random: np.random.Generator) -> dict[str, np.ndarray]:
    """Name every coordinate; ranks of ties are drawn evenly."""
    ranks = {}
    for path, (below, equal) in counts.items():
        below, equal = np.asarray(below), np.asarray(equal)
        drawn = below + random.integers(0, equal + 1)
        for index in np.ndindex(*below.shape[1:]):
            name = show(path) + (f"[{', '.join(map(str, index))}]" if index else "")
            ranks[name] = drawn[(slice(None), *index)]
    return ranks


def num_cells(draws: int, simulations: int) -> int:
    """Return how many cells of equally many ranks there are, at most 20 and with at least 5 expected in each."""
    most = min(20, simulations // 5)
    return max(cells for cells in range(1, most + 1) if (draws + 1) % cells == 0)


def _coordinate(name: str, ranks: np.ndarray, draws: int) -> Coordinate:
    cells = num_cells(draws, len(ranks))
    counts = np.bincount(ranks * cells // (draws + 1), minlength=cells)
    places = (ranks + 0.5) / (draws + 1)
    even = (1 - 1 / (draws + 1) ** 2) / 12
    return Coordinate(
        name,
        statistics.chi_square_p(counts) if cells > 1 else 1.0,
        statistics.uniform_p(places),
        statistics.symmetric_p(places),
        float(places.mean()),
        float(((places - 0.5) ** 2).mean() / even),
    )
