"""Sequential Monte Carlo over the steps of a program."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from ppl import choicemap
from ppl._errors import PPLError, user_source
from ppl.methods.importance_resampling import choose
from ppl.methods.resampling import Resampling, multinomial
from ppl.stochastic.filter import ParticleFilter
from ppl.stochastic.function import Halves
from ppl.strategies import Strategy, enum
from ppl.transforms.assess import assess
from ppl.transforms.marginal import Marginalisation
from ppl.transforms.normalize import Normalisation


@dataclasses.dataclass(frozen=True)
class smc:  # noqa: N801 - written like a call in programs: `ppl.methods.smc()`.
    r"""Follow a program's scan with particles, resampled on the way, and choose one of the trajectories.

    Z, the estimate of the normalising constant, is unbiased; with conditional SMC, in which one trajectory is given,
    its reciprocal is unbiased for 1 / Z (Andrieu et al. 2010). What SIR does with importance sampling, this does with
    SMC: the density of a chosen trajectory x is estimated by gamma(x) / Z (Naesseth et al. 2018).

    Args:
        resampling: How ancestors are chosen. Densities of given values need a scheme with a conditional version:
            `multinomial()`.
        threshold: Below 1, particles are resampled only where their effective sample size is below `threshold` times
            their number.
        index: Strategy of the choice among the final trajectories.
    """

    resampling: Resampling = dataclasses.field(default_factory=multinomial)
    threshold: float = 1.0
    index: Strategy = dataclasses.field(default_factory=enum)

    def __post_init__(self):
        if not 0 < self.threshold <= 1:
            raise PPLError("`smc` takes a threshold in (0, 1].", where=user_source(), got=repr(self.threshold))

    def marginal(self, problem: Marginalisation) -> Halves:
        """Return the two halves of a marginal: the auxiliary choices are those of the steps."""

        def filter_of(kept: Any, args: tuple) -> ParticleFilter:
            observed = choicemap.flatten(kept)
            rest = (kept, *args)
            return self._filter(problem.gf, args, observed, problem.proposal, rest, problem.particles)

        def draw(*args: Any):
            kept, others, _, _ = problem.run_forward(args)
            return kept, kept, filter_of(kept, args).run(self._retained(others)).log_normaliser

        def estimate(kept: Any, *args: Any):
            return kept, filter_of(kept, args).run().log_normaliser

        return draw, estimate

    def normalize(self, problem: Normalisation) -> Halves:
        """Return the two halves of a posterior."""

        def filter_of(args: tuple) -> ParticleFilter:
            observed, inputs, proposal_args = problem.resolve(args)
            flat = choicemap.flatten(observed)
            return self._filter(problem.gf, inputs, flat, problem.proposal, proposal_args, problem.particles)

        def log_joint(choices: Any, args: tuple) -> tuple[Any, Any]:
            observed, inputs, _ = problem.resolve(args)
            return assess(problem.gf)(choicemap.merge(choices, observed), *inputs)

        def draw(*args: Any):
            swarm = filter_of(args).run()
            chosen = choose(swarm.log_weights, self.index) if problem.particles > 1 else 0
            choices = choicemap.nest(jax.tree.map(lambda leaf: leaf[chosen], swarm.choices))
            log_density, retval = log_joint(choices, args)
            return choices, retval, log_density - swarm.log_normaliser

        def estimate(choices: Any, *args: Any):
            log_density, retval = log_joint(choices, args)
            swarm = filter_of(args).run(self._retained(choices))
            return retval, log_density - swarm.log_normaliser

        return draw, estimate

    def move(self, problem: Normalisation) -> Callable:
        """Return a step of particle Gibbs: conditional SMC, and a choice among its trajectories."""

        def step(choices: Any, *args: Any) -> Any:
            observed, inputs, proposal_args = problem.resolve(args)
            flat, count = choicemap.flatten(observed), problem.particles
            moved = self._filter(problem.gf, inputs, flat, problem.proposal, proposal_args, count)
            swarm = moved.run(self._retained(choices))
            chosen = choose(swarm.log_weights, self.index)
            return choicemap.nest(jax.tree.map(lambda leaf: leaf[chosen], swarm.choices))

        return step

    def _retained(self, choices: Any) -> dict:
        if not self.resampling.conditional:
            raise PPLError(
                f"`{type(self.resampling).__name__}` has no conditional version, which estimates densities.",
                where=user_source(),
                expected="multinomial()",
                got=repr(self.resampling),
                remedy="use `ppl.methods.smc(resampling=ppl.methods.multinomial())`",
            )
        return choicemap.flatten(choices)

    def _filter(self, gf, args, observed, proposal, proposal_args, particles) -> ParticleFilter:
        return ParticleFilter(gf, args, observed, proposal, proposal_args, particles, self.resampling, self.threshold)
