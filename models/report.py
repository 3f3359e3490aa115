"""What a run reports: metrics, claims with their bounds and sources, and how several seeds are put together."""

import json
import math
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Literal

import jax
import numpy as np

Status = Literal["asserted", "open"]
PACKAGES = ("programmable-vi", "jax", "jaxlib", "numpy", "numpyro", "equinox", "optax")


@dataclass(frozen=True)
class Claim:
    """A relation `measured >= bound` that a program sets out to show.

    Args:
        claim: The relation in words.
        source: Where the bound comes from: a paper's theorem or table, or a derivation, written down before the run.
        measured: What this run found.
        bound: What it must reach.
        status: An "asserted" claim that does not hold makes the run fail; an "open" one is reported only.
    """

    claim: str
    source: str
    measured: float
    bound: float
    status: Status = "asserted"

    @classmethod
    def paired(
        cls,
        claim: str,
        source: str,
        better: Sequence[float] | np.ndarray,
        worse: Sequence[float] | np.ndarray,
        *,
        errors: int,
        status: Status = "asserted",
    ) -> "Claim":
        """Claim that one mean is at least another plus so many standard errors of the paired difference.

        With positive `errors` the difference has to show beyond error; with negative ones it may be missed by error.
        """
        better, worse = np.asarray(better, np.float64), np.asarray(worse, np.float64)
        error = np.std(better - worse, ddof=1) / math.sqrt(len(better))
        return cls(claim, source, float(np.mean(better)), float(np.mean(worse) + errors * error), status)

    @property
    def holds(self) -> bool:
        """Say whether the bound is reached; a NaN never reaches it."""
        return bool(self.measured >= self.bound)

    @property
    def failed(self) -> bool:
        """Say whether the claim was asserted and does not hold."""
        return self.status == "asserted" and not self.holds

    @property
    def slack(self) -> float:
        """Return by how much the bound is exceeded; minus infinity for a NaN."""
        slack = self.measured - self.bound
        return -math.inf if math.isnan(slack) else slack


@dataclass(frozen=True)
class Outcome:
    """What one run of a program returns."""

    metrics: Mapping[str, float]
    claims: Sequence[Claim] = ()


@dataclass(frozen=True)
class Report:
    """The runs of one command.

    With several seeds each metric is a mean, and beside it stands the standard deviation under the name "METRIC_sd".
    """

    name: str
    preset: str
    seeds: list[int]
    seconds: float
    metrics: dict[str, float]
    claims: list[Claim]
    versions: dict[str, str] = field(default_factory=lambda: versions())

    @property
    def failed(self) -> bool:
        """Say whether an asserted claim does not hold."""
        return any(claim.failed for claim in self.claims)

    def write(self, path: Path) -> None:
        """Write the report as JSON; numbers that are not finite become null."""
        order = ("name", "preset", "seeds", "versions", "seconds", "metrics")
        content = {name: getattr(self, name) for name in order}
        content["claims"] = [_entry(claim) for claim in self.claims]
        path.write_text(json.dumps(_finite(content), indent=2, allow_nan=False) + "\n")

    def table(self) -> str:
        """Return metrics and claims as text."""
        seeds = f"seed {self.seeds[0]}" if len(self.seeds) == 1 else f"seeds {self.seeds[0]} to {self.seeds[-1]}"
        rows = [f"{self.name} · {self.preset} · {seeds} · {self.seconds:.1f} s", ""]
        rows += _columns([(name, self._shown(name)) for name in self.metrics if not self._is_deviation(name)])
        rows += [""] * bool(self.claims)
        for claim in self.claims:
            verdict = "holds" if claim.holds else "FAILS" if claim.failed else "does not hold"
            rows.append(f"{verdict} ({claim.status}): {claim.claim}")
            rows.append(f"    measured {_number(claim.measured)}, bound {_number(claim.bound)}  ({claim.source})")
        return "\n".join(rows)

    def _is_deviation(self, name: str) -> bool:
        return len(self.seeds) > 1 and name.endswith("_sd") and name.removesuffix("_sd") in self.metrics

    def _shown(self, name: str) -> str:
        deviation = f" ± {_number(self.metrics[f'{name}_sd'])}" if len(self.seeds) > 1 else ""
        return _number(self.metrics[name]) + deviation


def collect(name: str, preset: str, seeds: Sequence[int], seconds: float, outcomes: Sequence[Outcome]) -> Report:
    """Put the outcomes of several seeds together.

    Metrics are averaged. A claim is made by every seed; the one with the least slack stands for all, and so the claim
    holds if it holds for all.
    """
    metrics = {}
    for metric in outcomes[0].metrics:
        values = [float(outcome.metrics[metric]) for outcome in outcomes]
        metrics[metric] = statistics.fmean(values)
        if len(values) > 1:
            metrics[f"{metric}_sd"] = float(np.std(values, ddof=1))
    by_claim = zip(*(outcome.claims for outcome in outcomes), strict=True)
    claims = [min(same, key=lambda claim: (claim.holds, claim.slack)) for same in by_claim]
    return Report(name, preset, list(seeds), seconds, metrics, claims)


def versions() -> dict[str, str]:
    """Return the versions of what a result depends on, and the device that made it."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found | {"device": jax.devices()[0].device_kind}


def _entry(claim: Claim) -> dict:
    return {
        "claim": claim.claim,
        "source": claim.source,
        "measured": float(claim.measured),
        "bound": float(claim.bound),
        "holds": claim.holds,
        "status": claim.status,
    }


def _finite(content):
    """Replace floats that JSON cannot say by None."""
    if isinstance(content, dict):
        return {name: _finite(value) for name, value in content.items()}
    if isinstance(content, list):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _columns(rows: Sequence[tuple[str, str]]) -> list[str]:
    width = max((len(name) for name, _ in rows), default=0)
    return [f"{name:<{width}}  {value:>10}" for name, value in rows]


def _number(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 100 else f"{value:,.2f}"
