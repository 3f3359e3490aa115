"""What the auto-encoder's held-out bounds must show."""

import numpy as np
from jaxtyping import Float

from models.report import Claim

BEYOND = "bound: 3 standard errors of the paired per-image difference above"
ORDERED = f"IWAE theorem 1, the bound rises with the number of samples; {BEYOND}"
TIGHTER = f"IWAE table 1, there on all of MNIST; {BEYOND}"
SAME = (
    "derivation: the same initial weights, batches, noise and optimiser give the same fit; "
    "bound: 3 standard errors of the paired per-image difference below the floor"
)


def claims(held: dict[str, Float[np.ndarray, " n"]]) -> list[Claim]:
    """Compare the bounds image by image; the last claim is made where there was a second fit."""
    elbo, iwelbo_5, iwelbo_50 = held["elbo"], held["iwelbo_5"], held["iwelbo_50"]
    found = [
        Claim.paired("held-out IWELBO(5) >= ELBO beyond error", ORDERED, iwelbo_5, elbo, errors=3),
        Claim.paired("held-out IWELBO(50) >= IWELBO(5) beyond error", ORDERED, iwelbo_50, iwelbo_5, errors=3),
        Claim.paired("held-out ELBO >= that of the hand-written JAX VAE", SAME, elbo, held["elbo_by_hand"], errors=-3),
    ]
    if "iwelbo_50_of_second_fit" in held:
        claim = "a fit by IWELBO(5) has a higher held-out IWELBO(50) than the fit by the ELBO, beyond error"
        found.append(Claim.paired(claim, TIGHTER, held["iwelbo_50_of_second_fit"], iwelbo_50, errors=3, status="open"))
    return found
