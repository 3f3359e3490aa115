"""What the fitted guides of the cone must show."""

import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from models.report import Claim

LOG_EVIDENCE = -5.3232321
"""log p(z = 5), by quadrature in polar coordinates (a test repeats it)."""
TOLERANCE = 0.02

REACHED = "PLDI 2024, table 4; bound: its value less 0.02 and 3 standard errors"
NEAR = "derivation: the best guide on a ring reaches -5.3233; bound: log p(z = 5) = -5.3232321 less 0.05"
BELOW = "derivation: Jensen's inequality; bound: the highest mean, less 3 of its standard errors"


def summarise(draws: Float[np.ndarray, " n"]) -> tuple[float, float]:
    """Return mean and standard error."""
    return float(np.mean(draws)), float(np.std(draws, ddof=1) / math.sqrt(len(draws)))


def claims(measured: Mapping[str, tuple[float, float]], paper: Mapping[str, float | None]) -> list[Claim]:
    """Compare what was measured with the paper's table and with the evidence.

    Args:
        measured: Mean and standard error of each objective.
        paper: Its value in the paper; those that are not there are of the marginal guide.
    """
    found = []
    for name, (mean, error) in measured.items():
        value = paper.get(name)
        if value is not None:
            bound = value - TOLERANCE - 3 * error
            found.append(Claim(f"{name} reaches the paper's {value}", REACHED, mean, bound))
        else:
            found.append(Claim(f"{name} is within 0.05 of the evidence", NEAR, mean, LOG_EVIDENCE - 0.05))
    highest = max(mean - 3 * error for mean, error in measured.values())
    found.append(Claim("no bound exceeds the evidence", BELOW, LOG_EVIDENCE, highest))
    return found


def table(measured: Mapping[str, tuple[float, float]], paper: Mapping[str, float | None]) -> str:
    """Write objective, value, standard error and the paper's value in columns."""
    width = max(map(len, measured))
    rows = [f"{'objective':<{width}}  {'value':>9}  {'error':>7}  {'paper':>6}"]
    for name, (mean, error) in measured.items():
        known = paper.get(name)
        shown = f"{known:6.2f}" if known is not None else ""
        rows.append(f"{name:<{width}}  {mean:9.4f}  {error:7.4f}  {shown:>6}")
    rows.append(f"{'log p(z = 5)':<{width}}  {LOG_EVIDENCE:9.4f}")
    return "\n".join(rows)
