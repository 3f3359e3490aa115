"""One call that says which latents say nothing, and whether the data or the fit is to blame."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from estimators.diagnostics.collapse.information import Information, information
from estimators.diagnostics.collapse.measure import Measured, measure
from estimators.diagnostics.collapse.predict import Prediction, Untold, predict
from estimators.diagnostics.probes import require_draws
from estimators.objectives.checks import require_number, require_programs
from estimators.objectives.guides import require_exact
from ppl import GenerativeFunction, PPLError, StrategyError, gen
from ppl._errors import boundary, user_source
from ppl.transforms.programs import check_key
from ppl.transforms.traits import specs

THRESHOLD = 0.01
"""Nats from which on a unit counts as active (Burda et al. 2016 and Dang et al. 2024 use this number)."""


@dataclasses.dataclass(frozen=True)
class Latent:
    """What was measured at one address of the guide.

    A choice's own axes are *units*; lanes of a `vmap` and steps of a `scan` are *repetitions*, data above all.

    Attributes:
        address: Where.
        nats: Mean of log q - log p, by repetition (leading axes) and unit.
        units: Mean over repetitions, by unit.
        error: Standard errors of `units` by the draws; 0 where the divergence is known in closed form.
        rate: Nats of the address for each datum, its share of the divergence in the ELBO.
        rate_error: Standard error of `rate`.
        repetitions: Number of lanes and steps.
        exact: Whether the divergence is in closed form, given the choices before it.
        made: Share in which the choice is made, where it is conditional.
        information: Nats that it tells of the datum; None where that was not estimated.
        threshold: Nats from which on a unit is active.
    """

    address: str
    nats: np.ndarray
    units: np.ndarray
    error: np.ndarray
    rate: float
    rate_error: float
    repetitions: int
    exact: bool
    made: float
    information: Information | None
    threshold: float

    @property
    def active(self) -> np.ndarray:
        """Say of each unit whether its mean nats reach the threshold."""
        return self.units >= self.threshold

    @property
    def active_pairs(self) -> float:
        """Return the share of pairs of repetition and unit whose nats reach the threshold."""
        return float(np.mean(self.nats >= self.threshold))

    def collapsed(self, eps: float, delta: float) -> np.ndarray:
        """Say of each unit whether its nats are below `eps` for a share of at least 1 - `delta` of the repetitions."""
        return self.below(eps) >= 1 - delta

    def below(self, eps: float) -> np.ndarray:
        """Return the share of repetitions with less than `eps` nats, by unit."""
        return (self.nats < eps).reshape(-1, *self.units.shape).mean(0)

    def __str__(self) -> str:
        count = f"{int(self.active.sum())} of {self.active.size} units active"
        share = f", {self.active_pairs:.0%} of pairs" if self.repetitions > 1 else ""
        exact = "" if self.exact else ", by draws"
        text = f"{self.address}: {count}{share}; {self.rate:.4g} ± {self.rate_error:.2g} nats{exact}"
        if self.made < 1:
            text += f"; made in {self.made:.0%}"
        return text if self.information is None else f"{text}; {self.information}"


@dataclasses.dataclass(frozen=True)
class CollapseReport:
    """Which latents say nothing; printed as text, drawn by `picture`.

    Attributes:
        latents: What was measured, by address.
        prediction: What linear theory says of these data, or None.
        reason: Why there is no prediction; empty if there is one.
        notes: What else is to be known.
        data: Number of data.
        samples: Number of draws.
    """

    latents: tuple[Latent, ...]
    prediction: Prediction | None
    reason: str
    notes: tuple[str, ...]
    data: int
    samples: int

    def __getitem__(self, address: str) -> Latent:
        return next(latent for latent in self.latents if latent.address == address)

    @property
    def active(self) -> int:
        """Return the number of active units at all addresses."""
        return sum(int(latent.active.sum()) for latent in self.latents)

    @property
    def units(self) -> int:
        """Return the number of units at all addresses."""
        return sum(latent.active.size for latent in self.latents)

    @property
    def rate(self) -> float:
        """Return the nats of all addresses for each datum: the divergence in the ELBO."""
        return sum(latent.rate for latent in self.latents)

    def __str__(self) -> str:
        counted = f"{self.data} data, {self.samples} draws"
        lines = [f"Collapse: {self.active} of {self.units} units active, {self.rate:.4g} nats ({counted})"]
        lines += [f"  {latent}" for latent in self.latents]
        if self.prediction is None:
            lines.append(f"  no prediction: {self.reason}")
        else:
            told = self.prediction
            for name, count in told.active.items():
                lines.append(f"  linear theory for {name}: {count} modes active, {told.nats[name]:.4g} nats")
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])

    __repr__ = __str__

    def picture(self, path: str | Path) -> None:
        """Draw the nats of all units, and the share of data below each number of nats; save it as an image."""
        from estimators.diagnostics.collapse.picture import draw

        draw(self, Path(path))


@boundary
def collapse_report(
    model: GenerativeFunction,
    guide: GenerativeFunction,
    params: Any,
    observed: Any,
    *inputs: Any,
    key: jax.Array,
    batched: bool = False,
    beta: float | Mapping[str, float] = 1.0,
    samples: int = 100,
    threshold: float = THRESHOLD,
) -> CollapseReport:
    """Say which latents of a fit carry nothing (posterior collapse), and compare with what the data demand.

    Measured, for any model and guide, at every address of the guide: E log q - log p of every unit, in closed form
    where there is one; active units (Burda et al. 2016); with `batched`, the information I(datum; latent), which a
    latent can lack although its divergence is large (a second level that models the first one's noise).

    Predicted, with `batched` and where the observations are normal with a scale that is constant: what the best
    *linear* decoder would do, from second moments alone. A mode of the data is worth a latent where its moment exceeds
    `beta` noise^2 (Dang et al. 2024, linear VAE, conditional VAE and hierarchical VAE). Fewer active units than that:
    the fit is to blame. As many: the data, the noise or `beta` are. Elsewhere the report says why nothing is predicted.

    Args:
        model: Called as `model(params, *inputs)`.
        guide: Called as `guide(params, observed, *inputs)`.
        params: Parameters of the fit.
        observed: Observed choices.
        *inputs: Inputs of both programs.
        key: A key.
        batched: Whether the programs are those of one datum, and all arrays in `observed` and `inputs` have a leading
            axis of data. Otherwise the programs are run as they are, and lanes and steps take the place of data.
        beta: Weight of the divergence in training, for all latents or by address; for the prediction only.
        samples: Number of draws from the guide, at least 2.
        threshold: Nats from which on a unit is active, positive.

    Returns:
        A [`CollapseReport`][estimators.diagnostics.CollapseReport], which prints as text.

    Raises:
        PPLError: A number is out of range, or arrays have no common axis of data.
        AddressError: Guide and observed choices together are not the model's.
        StrategyError: A density is an estimate, or has no value.

    Example:
        >>> import jax, jax.numpy as jnp, ppl
        >>> from estimators import collapse_report
        >>> @ppl.gen
        ... def model(params):
        ...     z = ppl.normal(jnp.zeros(2), 1.0) @ "z"
        ...     ppl.normal(z[0], 0.5) @ "x"  # of z[1] nothing is said
        >>> @ppl.gen
        ... def guide(params, observed):
        ...     ppl.normal(jnp.array([0.8, 0.0]) * observed["x"], jnp.array([0.2**0.5, 1.0])) @ "z"
        >>> data = {"x": jnp.linspace(-2.0, 2.0, 41)}
        >>> found = collapse_report(model, guide, None, data, key=jax.random.key(0), batched=True)
        >>> found["z"].active.tolist(), found["z"].units.round(2).tolist(), found.prediction.active
        ([True, False], [0.85, 0.0], {'z': 1})
    """
    require_programs("collapse_report", model=model, guide=guide)
    require_draws("collapse_report", "samples", samples, 2)
    require_number("collapse_report", "threshold", threshold, "a positive number", lambda x: 0 < x < math.inf)
    for weight in beta.values() if isinstance(beta, Mapping) else [beta]:
        require_number("collapse_report", "beta", weight, "a nonnegative number", lambda x: 0 <= x < math.inf)
    check_key(key, "collapse_report")
    data, observed, inputs = _data(observed, inputs, batched)
    whole = [_mapped(program, data) if batched else program for program in (model, guide)]
    args = (params, observed, *inputs)
    require_exact("collapse_report", whole[0], params, *inputs)
    require_exact("collapse_report", whole[1], *args)
    _require_densities(whole[0], (params, *inputs))
    measure_key, information_key, predict_key = jax.random.split(key, 3)
    found = measure(*whole, args, measure_key, samples)
    told, notes = _information(guide, args, found, data, information_key) if batched else ({}, [NOT_BATCHED])
    prediction, reason = _predicted(model, guide, args, beta, predict_key, data if batched else 0)
    latents = tuple(_latent(name, one, data, told.get(name), threshold) for name, one in found.items())
    return CollapseReport(latents, prediction, reason, (*notes, *_remarks(latents, prediction)), data, samples)


NOT_BATCHED = "the information on data was not estimated: give the programs of one datum, with batched=True"


def _require_densities(model: GenerativeFunction, args: tuple) -> None:
    for name, found in specs(model, args).items():
        if not all(spec.can_sample for spec in found):
            raise StrategyError(
                "`collapse_report` compares densities, but of one prior only the score is known.",
                where=f'"{name}"',
                expected="densities with values",
                got="a score prior",
                remedy="give the prior a density",
            )


def _latent(name: str, one: Measured, data: int, told: Information | None, threshold: float) -> Latent:
    rate, rate_error = one.total(data)
    error = np.zeros_like(one.error) if one.axes.exact and one.error.max(initial=0) < 1e-9 else one.error
    return Latent(
        address=name,
        nats=one.nats,
        units=one.units,
        error=error,
        rate=rate,
        rate_error=rate_error,
        repetitions=one.repetitions,
        exact=one.axes.exact,
        made=one.made,
        information=told,
        threshold=threshold,
    )


def _mapped(program: GenerativeFunction, data: int) -> GenerativeFunction:
    """Return the program of all data: lanes of that of one."""

    def lanes(params: Any, *rows: Any) -> Any:
        one = lambda _, *row: program.inline(params, *row)
        return jax.vmap(one)(jnp.arange(data), *rows)

    lanes.__name__ = program.name
    return gen(lanes)


def _data(observed: Any, inputs: tuple, batched: bool) -> tuple[int, Any, tuple]:
    """Return the number of data, and their arrays."""
    if not batched:
        return 1, observed, inputs
    arrays = eqx.is_array_like
    observed, inputs = jax.tree.map(lambda leaf: jnp.asarray(leaf) if arrays(leaf) else leaf, (observed, inputs))
    leaves = jax.tree.leaves((observed, inputs))
    sizes = {leaf.shape[0] if eqx.is_array(leaf) and leaf.ndim else None for leaf in leaves}
    if len(sizes) == 1 and None not in sizes and min(sizes) >= 2:
        return sizes.pop(), observed, inputs
    raise PPLError(
        "`collapse_report` finds no common axis of data.",
        where=user_source(),
        expected="with `batched=True`, arrays with one leading axis of at least 2 data, observed and inputs alike",
        got=", ".join(str(jnp.shape(leaf)) if eqx.is_array_like(leaf) else repr(leaf) for leaf in leaves)
        or "no arrays",
        remedy="stack the data; put what all data share into `params`; or leave `batched` out",
    )


def _information(guide, args: tuple, found: Mapping[str, Measured], data: int, key) -> tuple[dict, list[str]]:
    masked = [name for name, one in found.items() if one.axes.masked]
    names = [name for name in found if name not in masked]
    notes = [f"the information of {name} was not estimated: it is not always made" for name in masked]
    return information(guide, args, names, data, key), notes


def _predicted(model, guide, args: tuple, beta: Any, key: jax.Array, data: int) -> tuple[Prediction | None, str]:
    if not data:
        return None, "second moments take data, one by one: give the programs of one datum, with batched=True"
    try:
        return predict(model, guide, args, beta, key), ""
    except Untold as why:
        return None, f"{why}"


def _remarks(latents: tuple[Latent, ...], prediction: Prediction | None) -> list[str]:
    """Say what a number does not mean, and who is to blame."""
    notes = []
    for latent in latents:
        if not latent.exact and (latent.units < -3 * latent.error).any():
            what = f"nats of {latent.address} are no divergence, since its prior follows other latents"
            notes.append(f"{what}: units are not active or collapsed by them, but by what they tell")
    if prediction is None or prediction.by_noise is None:
        return notes
    (names, expected), threshold = next(iter(prediction.active.items())), latents[0].threshold
    worth = int(np.sum(prediction.modes[names] >= threshold))  # a mode just above the noise has hardly a nat
    missing = worth - sum(int(latent.active.sum()) for latent in latents)
    if missing > 0:
        notes.append(f"modes of the data that are worth a latent and have none: {missing}; the fit is to blame")
    if prediction.by_noise > expected:
        lost = prediction.by_noise - expected
        notes.append(f"modes that would be active at beta = 1: {lost} more; their collapse is beta's, not the noise's")
    return notes
