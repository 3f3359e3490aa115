"""What the mixtures must show."""

import math
from collections.abc import Mapping

from models.report import Claim

EXACT = (
    "theory: regret <= Gibbs bound <= every ball's bound (Feder, Urbanke and Fogel 2025; sections 2.4 and 2.5 of ours)"
)
OVERHEAD = "theory: a mixture of D codes costs at most log D nats more than the best of them"
NEAR = "derivation: log D nats over all characters are below 0.001 bits each; bound: 1e-3 bits per character"
LARGEST = "measured before: the largest order is worse than the best by more than 1 bit per character"
JENSEN = "theory: Jensen's inequality"
FLAT = "measured before: within 0.08 nats of the best width, from width 16 on"
POINT = "measured before: a single sample is better than the point estimate at every width"
OVERFIT = 64
"""Up to this width; at 256 the point estimate overfits too little with our scale of the logits: 0.91 against 1.03."""
CERTIFIED = "theory: the ELBO bounds the mixture's code length; bound: the code that predicts by blocks"
TIGHTER = "theory: more particles, a tighter bound (Burda et al. 2016); bound: less 3 standard errors"


def claims(metrics: Mapping[str, float], config) -> list[Claim]:
    """Turn relations into claims `measured >= bound`; those that take long chains and texts are for `default`."""
    found = [
        Claim("coins: regret, Gibbs bound and best ball are in order", EXACT, metrics["coin_least_slack"], 0.0),
        Claim(
            f"text: the mixture of {config.orders} orders costs at most log {config.orders} nats",
            OVERHEAD,
            math.log(config.orders) + 1e-2,
            metrics["text_overhead_nats"],
        ),
        Claim(
            "the bound of enumerated orders is the mixture's code length",
            EXACT,
            1e-4,
            abs(metrics["text_certified"] - metrics["text_mixture"]),
        ),
    ]
    for size in config.widths:
        mixture, single, point = (metrics[f"width_{size}_{name}"] for name in ("mixture", "single", "point"))
        found.append(Claim(f"width {size}: the mixture is better than single samples", JENSEN, single, mixture))
        found.append(Claim(f"width {size}: the mixture is better than the point estimate", POINT, point, mixture))
        status = "asserted" if size <= OVERFIT else "open"
        words = f"width {size}: single samples are better than the point estimate"
        found.append(Claim(words, POINT, point, single, status))
    found.append(
        Claim(
            "the certified length is above the predictive code",
            CERTIFIED,
            metrics["code_bound"] + 3 * metrics["code_bound_error"],
            metrics["code_predictive"],
        )
    )
    slack = 3 * math.hypot(metrics["code_bound_error"], metrics["code_bound_30_error"])
    found.append(Claim("30 particles certify less", TIGHTER, metrics["code_bound"] + slack, metrics["code_bound_30"]))
    return found + (_at_length(metrics, config) if config.characters >= 40_000 else [])


def _at_length(metrics: Mapping[str, float], config) -> list[Claim]:
    wide = [metrics[f"width_{size}_mixture"] for size in config.widths if size >= 16]
    return [
        Claim("text: nobody has to know the order", NEAR, metrics["text_best"] + 1e-3, metrics["text_mixture"]),
        Claim(
            "text: the largest order alone is worse by a bit",
            LARGEST,
            metrics["text_largest_order"],
            metrics["text_best"] + 1,
        ),
        Claim("wider networks lose nothing", FLAT, min(wide) + 0.08, max(wide)),
    ]
