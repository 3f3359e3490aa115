"""Sampling importance resampling: the default approximation of a posterior."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ppl import choicemap
from ppl.distributions import categorical
from ppl.methods.importance_sampling import importance
from ppl.stochastic.function import Halves
from ppl.stochastic.particles import log_normaliser, particles_of
from ppl.strategies import Strategy, enum
from ppl.transforms.marginal import Marginalisation
from ppl.transforms.normalize import Normalisation


@dataclasses.dataclass(frozen=True)
class sir:  # noqa: N801 - written like a call in programs: `ppl.methods.sir()`.
    r"""Draw K particles from a proposal and choose one of them by its weight.

    For a target gamma(x) and a proposal r(x) with weights w_k = gamma(x_k) / r(x_k), the chosen particle x has a law
    s_K whose density is estimated by gamma(x) / Z, Z the mean weight (Cremer et al. 2017; Lew et al. 2023, section 3):

        E[Z / gamma(x) | x] = 1 / s_K(x)    for what was chosen,
        E[gamma(x) / Z] = s_K(x)            for a given x that takes the place of the first particle.

    s_K approaches the posterior as K grows. For a marginal, the same as `importance`.

    Args:
        index: Strategy of the choice among the particles. `enum()` evaluates what follows for each of them and has no
            variance of its own; `reinforce()` evaluates it once.
    """

    index: Strategy = dataclasses.field(default_factory=enum)

    def marginal(self, problem: Marginalisation) -> Halves:
        """Return the two halves of a marginal."""
        return importance().marginal(problem)

    def normalize(self, problem: Normalisation) -> Halves:
        """Return the two halves of a posterior."""

        def draw(*args: Any):
            proposed = particles_of(lambda: problem.propose(args), problem.particles)
            choices, retval, log_joints, log_weights = proposed
            log_mean = log_normaliser(log_weights)
            chosen = 0 if problem.particles == 1 else choose(log_weights, self.index)
            take = lambda leaf: leaf[chosen]
            return jax.tree.map(take, choices), jax.tree.map(take, retval), take(log_joints) - log_mean

        def estimate(choices: Any, *args: Any):
            retval, log_joint, first = problem.retain(choices, args)
            if problem.particles == 1:
                return retval, log_joint - first
            others = particles_of(lambda: problem.propose(args)[-1], problem.particles - 1)
            return retval, log_joint - log_normaliser(jnp.concatenate([first[None], others]))

        return draw, estimate

    def move(self, problem: Normalisation) -> Callable:
        """Return a step of iterated sampling importance resampling: the current state is the first particle."""

        def step(choices: Any, *args: Any) -> Any:
            _, _, first = problem.retain(choices, args)
            others, _, _, log_weights = particles_of(lambda: problem.propose(args), problem.particles - 1)
            chosen = choose(jnp.concatenate([first[None], log_weights]), self.index)
            join = lambda one, more: jnp.concatenate([jnp.asarray(one, more.dtype)[None], more])[chosen]
            current, drawn = choicemap.flatten(choices), choicemap.flatten(others)
            return choicemap.nest({path: join(current[path], leaf) for path, leaf in drawn.items()})

        return step


def choose(log_weights: jax.Array, strategy: Strategy) -> jax.Array:
    """Choose a particle; where no weight is positive, any."""
    some = jnp.isfinite(log_weights).any()
    return categorical(logits=jnp.where(some, log_weights, 0.0), grad=strategy).sample("particle")
