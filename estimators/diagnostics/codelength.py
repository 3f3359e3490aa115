"""Certified code lengths: how many nats a model needs for its observations, at most."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import equinox as eqx
import jax
import numpy as np

from estimators.diagnostics.probes import require_draws
from estimators.objectives.checks import require_programs
from estimators.objectives.iwelbo import iwelbo
from ppl import GenerativeFunction, expect
from ppl._errors import PPLError, boundary
from ppl.transforms.programs import source_of, unnormalised

AT_ONCE = 100
"""Draws of the bound that are in memory at a time."""


@dataclasses.dataclass(frozen=True)
class Codelength:
    """An estimate of a bound of -log p(x), in nats for all observations together.

    Attributes:
        nats: Mean of the bound; -log p(x) is at most its expectation.
        error: Standard error of `nats`; 0 where the bound is exact.
        particles: Number K of particles of the bound.
        samples: Number of draws of the bound.
    """

    nats: float
    error: float
    particles: int
    samples: int

    @property
    def bits(self) -> float:
        """Return the bound in bits."""
        return self.nats / math.log(2)

    @property
    def certified(self) -> float:
        """Return the bound and three of its standard errors, in nats."""
        return self.nats + 3 * self.error

    def regret(self, reference: float) -> float:
        """Return by how many nats the code may be longer than one of `reference` nats, -log p0(x) of a known p0."""
        return self.nats - reference

    def __str__(self) -> str:
        return (
            f"-log p(x) <= {self.nats:.6g} ± {self.error:.2g} nats ({self.bits:.6g} bits), "
            f"{self.particles} particle{'s' * (self.particles != 1)}, {self.samples} draws"
        )


@boundary
def codelength_bound(
    model: GenerativeFunction,
    guide: GenerativeFunction,
    params: Any,
    observed: Any,
    *inputs: Any,
    key: jax.Array,
    particles: int = 1,
    samples: int = 1000,
) -> Codelength:
    """Bound the length of a code for the observations from above: -log p(x) <= -E log (1/K) sum_k p(x, z_k) / q(z_k).

    A model with a prior is a mixture of hypotheses, and -log p(x) the length of its code (Rissanen 1984). Whatever the
    guide, its ELBO certifies a length (Hinton and van Camp 1993), and the length less that of a known source bounds the
    regret (Feder, Urbanke and Fogel 2025). More particles tighten it (Burda et al. 2016); enumerated choices are summed
    exactly, and a guide that is the posterior has no error at all.

    The model must not read parameters that were fitted to these observations: a receiver does not know them. Densities
    of continuous observations give differential lengths, which may be negative.

    Args:
        model: Called as `model(params, *inputs)`; it must be normalised.
        guide: Called as `guide(params, observed, *inputs)`.
        params: Parameters of the guide.
        observed: Observed choices.
        *inputs: Inputs of both programs.
        key: A key.
        particles: Number K of draws from the guide, at least 1.
        samples: Number of draws of the bound, at least 2.

    Returns:
        A [`Codelength`][estimators.diagnostics.Codelength].

    Raises:
        PPLError: `particles` or `samples` is too small, or the model is unnormalised: it has a factor, or a prior that
            is known by its score.
        AddressError: Model and guide do not fit.

    Example:
        >>> import jax, ppl
        >>> from estimators import codelength_bound
        >>> model = ppl.gen(lambda params: ppl.normal(ppl.normal(0.0, 1.0) @ "z", 1.0) @ "x")
        >>> guide = ppl.gen(lambda params, observed: ppl.normal(observed["x"] / 2, 0.5**0.5) @ "z")
        >>> bound = codelength_bound(model, guide, None, {"x": 2.0}, key=jax.random.key(0))  # the exact posterior
        >>> round(bound.nats, 4), round(bound.error, 4)
        (2.2655, 0.0)
    """
    require_programs("codelength_bound", model=model, guide=guide)
    require_draws("codelength_bound", "samples", samples, 2)
    objective = iwelbo(model, guide, particles)
    _require_normalised(model, (params, *inputs))

    @eqx.filter_jit
    def draw(keys: jax.Array, *args: Any) -> jax.Array:
        return jax.lax.map(lambda key: expect(objective)(key, *args), keys, batch_size=min(AT_ONCE, samples))

    draws = -np.asarray(draw(jax.random.split(key, samples), params, observed, *inputs), np.float64)
    return Codelength(float(draws.mean()), float(draws.std(ddof=1) / math.sqrt(samples)), particles, samples)


def _require_normalised(model: GenerativeFunction, args: tuple) -> None:
    stray = unnormalised(model.stage(args)[0].body)
    if stray is not None:
        raise PPLError(
            "`codelength_bound` takes a normalised model: what weighs its runs is no code.",
            where=source_of(stray),
            expected="choices and observations only",
            got=f"{stray.primitive.name}",
            remedy="make the factor an observed choice, or give the prior a density; for log Z, use `elbo`",
        ) from None
