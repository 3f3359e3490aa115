"""Importance sampling of the auxiliary choices of a marginal."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from ppl.stochastic.function import Halves
from ppl.stochastic.particles import log_normaliser, particles_of
from ppl.transforms.marginal import Marginalisation


@dataclasses.dataclass(frozen=True)
class importance:  # noqa: N801 - written like a call in programs: `ppl.methods.importance()`.
    r"""Estimate a marginal density by importance sampling, and its reciprocal by conditional importance sampling.

    With the target p(x, u) and a proposal r(u; x), M particles give

        p(x) = E [ 1/M sum_j p(x, u_j) / r(u_j; x) ],    all u_j from r,
        1/p(x) = E [ 1 / (1/M sum_j p(x, u_j) / r(u_j; x)) ],    u_1 from p(u | x), the others from r

    (Andrieu and Roberts 2009; Sobolev and Vetrov 2019, theorem 1). The second is used where x was drawn together with
    u_1. Both are differentiable wherever the choices of the program and of the proposal are.

    Cost: M runs of the proposal and densities of the program, under one `jax.vmap`.
    """

    def marginal(self, problem: Marginalisation) -> Halves:
        """Return the two halves."""

        def others(kept: Any, args: tuple, number: int) -> jax.Array:
            return particles_of(lambda: problem.fresh_weight(kept, args), number)

        def draw(*args: Any):
            kept, rest, log_joint, log_kept = problem.run_forward(args)
            if not rest:
                return kept, kept, log_joint
            first = problem.retained_weight(kept, rest, log_joint, log_kept, args)
            if problem.particles == 1:
                return kept, kept, first
            weights = jnp.concatenate([first[None], others(kept, args, problem.particles - 1)])
            return kept, kept, log_normaliser(weights)

        def estimate(kept: Any, *args: Any):
            if problem.particles == 1:
                return kept, problem.fresh_weight(kept, args)
            return kept, log_normaliser(others(kept, args, problem.particles))

        return draw, estimate
