"""What the fitted scenes must show."""

from collections.abc import Mapping

from models.report import Claim

COUNTS = "PLDI 2024, table 3: .9843 for both at the scale of the paper; bound, for this scale: .95"
BETTER = "PLDI 2024 table 3: .9843 by enumeration, .2747 by the plain score function"
EXACT = ("enum", "mvd")


def claims(accuracy: Mapping[str, float]) -> list[Claim]:
    """Compare the share of held-out images whose objects are counted right, by strategy."""
    found = [
        Claim(f"count accuracy by {name} is above .95", COUNTS, accuracy[name], 0.95)
        for name in EXACT
        if name in accuracy
    ]
    if {"enum", "reinforce"} <= {*accuracy}:
        claim = "enumeration counts at least as well as the score function in as many steps"
        found.append(Claim(claim, BETTER, accuracy["enum"], accuracy["reinforce"]))
    return found
