"""What the fits must show, and where each bound comes from; all were written down before the runs."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from models.report import Claim

Draws = Float[np.ndarray, " n"]

EVIDENCES = (
    "derivation: exact evidences of the Gaussian model are -636.96 (best H) and -654.53 (H = 1/2); bound: 8 nats"
)
JENSEN = "derivation: Jensen's inequality; bound: the estimate of the ELBO less 3 of its standard errors"
NILE_RANGE = "derivation: exact evidence over grids of rates is highest at H of .79 to .90; bound: .70 to .92"
RECOVERED = "derivation: exact fBM with a known index; bound: .1"
ALGEBRA = "derivation: the posterior of a linear equation, by algebra; bound: 10 % off the ends of the path"
ATTAINED = "derivation: the exact posterior has r < 1; bound: the evidence less 0.5, the network's share"
BEYOND = "derivation: with r = 1 the best guide in continuous time loses 10 nats here; bound: 1 nat"
ROUGH = "Gatheral, Jaisson & Rosenbaum 2018: log volatility is rough, H of .1; bound: H = 1/2"
BETTER = "Daems et al. 2024 on stochastic moving MNIST; bound: 1 standard error of the paired difference below"
MOVES = "bound: beyond 3 standard errors of the paired difference"
CONSTANT = "derivation: for the exact posterior log p - log q is the log evidence of every path; bound: 1e-2 in float32"


def error_of(draws: Draws) -> float:
    """Return the standard error of a mean."""
    return float(np.std(draws, ddof=1) / math.sqrt(len(draws)))


def at_most(claim: str, source: str, measured: float, bound: float, **status) -> Claim:
    """Claim that a number does not exceed a bound."""
    return Claim(f"{claim} (as negative numbers)", source, -measured, -bound, **status)


def of_constant(spread: float) -> list[Claim]:
    """Claim that the densities of an exact posterior leave no noise."""
    return [at_most("the spread of log p - log q under the exact control is below 0.01", CONSTANT, spread, 1e-2)]


def of_nile(learned: Draws, fixed: Draws, hurst: float, evidence: float) -> list[Claim]:
    """Compare ELBOs with a learned Hurst index and with 1/2, and with the exact evidence at the learned parameters."""
    gain = float(np.mean(learned) - np.mean(fixed))
    highest = float(np.mean(learned)) - 3 * error_of(learned)
    return [
        Claim("Nile: the learned Hurst index is at least .70", NILE_RANGE, hurst, 0.70),
        at_most("Nile: it is at most .92", NILE_RANGE, hurst, 0.92),
        Claim("Nile: ELBO(H learned) - ELBO(H = 1/2) > 8 nats", EVIDENCES, gain, 8.0),
        Claim("Nile: the ELBO does not exceed the exact evidence", JENSEN, evidence, highest),
    ]


def of_synthetic(learned: Mapping[float, float]) -> list[Claim]:
    """Compare learned Hurst indices with those that made the paths."""
    return [
        at_most(f"synthetic paths: |learned H - {true}| <= .1", RECOVERED, abs(found - true), 0.1)
        for true, found in learned.items()
    ]


def of_curves(ratios: Mapping[float, Float[np.ndarray, " n"]]) -> list[Claim]:
    """Compare learned variances of a bridge with exact ones, along the middle eight tenths of the path."""
    found = []
    for hurst, ratio in ratios.items():
        inner = ratio[len(ratio) // 10 : -len(ratio) // 10]
        claim = f"bridge, H = {hurst}: the learned variance is within 10 % of the exact one"
        found.append(at_most(claim, ALGEBRA, float(np.abs(inner - 1).max()), 0.1))
    return found


def of_guides(papers: Draws, ours: Draws, evidence: float) -> list[Claim]:
    """Compare the paper's guide with one that learns the variance of every step."""
    gain = float(np.mean(ours) - np.mean(papers) - 3 * error_of(ours - papers))
    return [
        Claim("bridge, H = 0.3: a learned step variance gains more than 1 nat beyond error", BEYOND, gain, 1.0),
        Claim(
            "bridge, H = 0.3: with it the ELBO is within 0.5 of the evidence", ATTAINED, np.mean(ours), evidence - 0.5
        ),
    ]


def of_volatility(hurst: float) -> list[Claim]:
    """Compare the Hurst index of log ranges with that of Brownian motion."""
    return [at_most("S&P 500: the Hurst index of log ranges is below 1/2", ROUGH, hurst, 0.5)]


def of_video(bounds: Mapping[str, Draws], errors: Mapping[str, Draws]) -> list[Claim]:
    """Compare the fractional with the Brownian model, and both with a copy of the last frame.

    Args:
        bounds: ELBO of each held-out movie, by model.
        errors: Squared error of each held-out movie, by model, and of the copy.
    """
    found = [
        Claim.paired(
            "video: held-out ELBO(fractional) >= ELBO(Brownian) - 1 s.e.",
            BETTER, bounds["fractional"], bounds["brownian"], errors=-1, status="open",
        )
    ]  # fmt: skip
    for name in ("fractional", "brownian"):
        claim = f"video: {name} predicts the last frames better than a copy of the last known one (-error)"
        found.append(Claim.paired(claim, MOVES, -errors[name], -errors["copy"], errors=3))
    return found


def spread_of(draws: Sequence[float] | np.ndarray) -> float:
    """Return the standard deviation."""
    return float(np.std(draws))
