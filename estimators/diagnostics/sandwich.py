"""Bounds of the evidence from both sides."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from estimators.diagnostics.probes import at_choices, dream, from_guide, repeated, require_draws
from estimators.objectives.checks import require_programs
from ppl import GenerativeFunction
from ppl._errors import boundary


@dataclasses.dataclass(frozen=True)
class Sandwich:
    """Both bounds, in nats, with standard errors.

    Attributes:
        elbo: Mean of log p(x, z) - log q(z), z from the guide: at most log p(x).
        eubo: The same, z from the posterior: at least log p(x).
        gap: Their difference, KL(p, q) + KL(q, p) if the guide's density is exact, else above it.
        elbo_error: Standard error of `elbo`.
        eubo_error: Standard error of `eubo`.
        gap_error: Standard error of `gap`.
        samples: Number of draws of each.
    """

    elbo: float
    eubo: float
    gap: float
    elbo_error: float
    eubo_error: float
    gap_error: float
    samples: int

    def __str__(self) -> str:
        return (
            f"ELBO {self.elbo:.4g} ± {self.elbo_error:.2g} <= log evidence <= "
            f"EUBO {self.eubo:.4g} ± {self.eubo_error:.2g}; "
            f"KL(p, q) + KL(q, p) <= {self.gap:.4g} ± {self.gap_error:.2g} nats"
        )


@boundary
def sandwich(
    model: GenerativeFunction,
    guide: GenerativeFunction,
    params: Any,
    observed: Any,
    *inputs: Any,
    key: jax.Array,
    samples: int = 1000,
    draws: Any = None,
) -> Sandwich:
    """Bound the symmetric divergence of guide and posterior from above, by bidirectional Monte Carlo.

    EUBO - ELBO = KL(p, q) + KL(q, p) (Grosse, Ghahramani and Adams 2015; Wu et al. 2017). It takes exact draws of a
    posterior. Given `draws` (of a long Markov chain, say), that of `observed`. Without them the model dreams pairs
    (z, x), z an exact draw given x: all is then a mean over data sets like `observed`, right for a guide that reads
    its observations, and for no other.

    Args:
        model: Called as `model(params, *inputs)`.
        guide: Called as `guide(params, observed, *inputs)`.
        params: Parameters of the fit.
        observed: Observed choices; without `draws`, only their addresses and types are used.
        *inputs: Inputs of both programs.
        key: A key.
        samples: Number of draws, at least 2; with `draws`, that of the guide's.
        draws: Choices of the guide's addresses with a leading axis of draws of the posterior, or None.

    Returns:
        A [`Sandwich`][estimators.diagnostics.Sandwich].

    Raises:
        PPLError: `samples` is not an int of at least 2.
        AddressError: Model and guide do not fit.

    Example:
        >>> import jax, ppl
        >>> from estimators import sandwich
        >>> model = ppl.gen(lambda params: ppl.normal(ppl.normal(0.0, 1.0) @ "z", 1.0) @ "x")
        >>> guide = ppl.gen(lambda params, observed: ppl.normal(observed["x"] / 2, 0.5**0.5) @ "z")
        >>> abs(round(sandwich(model, guide, None, {"x": 2.0}, key=jax.random.key(0)).gap, 3))  # the exact posterior
        0.0
    """
    require_programs("sandwich", model=model, guide=guide)
    require_draws("sandwich", "samples", samples, 2)
    dream_key, lower_key, upper_key = jax.random.split(key, 3)
    if draws is None:
        latents, data = repeated(dream(model), dream_key, samples, params, observed, *inputs)
        over = (latents, data)
        lower = lambda params, pair: from_guide(model, guide)(params, pair[1], *inputs)[1:]
        upper = lambda params, pair: at_choices(model, guide)(params, pair[1], *inputs, pair[0])
        below = repeated(lower, lower_key, samples, params, over=over)
        above = repeated(upper, upper_key, samples, params, over=over)
    else:
        count = jnp.shape(jax.tree.leaves(draws)[0])[0]
        below = repeated(from_guide(model, guide), lower_key, samples, params, observed, *inputs)[1:]
        above = repeated(at_choices(model, guide), upper_key, count, params, observed, *inputs, over=draws)
    return _summary(below, above, samples, paired=draws is None)


def _summary(below: tuple, above: tuple, samples: int, paired: bool) -> Sandwich:
    lower, upper = (np.asarray(log_joint - log_prob, np.float64) for log_joint, log_prob in (below, above))
    error = lambda x: float(x.std(ddof=1) / math.sqrt(len(x)))
    lower_error, upper_error = error(lower), error(upper)
    gap_error = error(upper - lower) if paired else math.hypot(lower_error, upper_error)
    elbo, eubo = float(lower.mean()), float(upper.mean())
    return Sandwich(elbo, eubo, eubo - elbo, lower_error, upper_error, gap_error, samples)
