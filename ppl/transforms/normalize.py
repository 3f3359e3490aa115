"""`normalize`: a generative function that approximates a posterior."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from ppl import choicemap
from ppl._errors import boundary
from ppl.generative import GenerativeFunction
from ppl.stochastic.function import StochasticFunction
from ppl.stochastic.particles import require_count
from ppl.transforms.assess import assess
from ppl.transforms.marginal import as_method
from ppl.transforms.run import require_gf, run
from ppl.transforms.simulate import simulate


@dataclasses.dataclass(frozen=True)
class Normalisation:
    """A posterior to be approximated.

    Attributes:
        gf: The program.
        proposal: Proposes the latent choices; None: the program itself, forward.
        particles: Number of particles.
        resolve: Maps the arguments of the posterior to what is observed, the arguments of the program and those of the
            proposal.
    """

    gf: GenerativeFunction
    proposal: GenerativeFunction | None
    particles: int
    resolve: Callable[[tuple], tuple[Any, tuple, tuple]]

    def propose(self, args: tuple) -> tuple[dict, Any, Any, Any]:
        """Draw a particle: its choices, the program's result, the log density of the target, the log weight."""
        observed, inputs, proposal_args = self.resolve(args)
        if self.proposal is None:
            outcome = run(self.gf, choicemap.flatten(observed), inputs, "observe", valued=True)
            latent = _without(outcome.trace.choices, observed)
            return latent, outcome.trace.retval, outcome.trace.log_density, outcome.log_weight
        proposed = simulate(self.proposal)(*proposal_args)
        log_joint, retval = assess(self.gf)(choicemap.merge(proposed.choices, observed), *inputs)
        return proposed.choices, retval, log_joint, log_joint - proposed.log_density

    def retain(self, choices: Any, args: tuple) -> tuple[Any, Any, Any]:
        """Make a particle of given choices: the program's result, the log density of the target, the log weight."""
        observed, inputs, proposal_args = self.resolve(args)
        everything = choicemap.merge(choices, observed)
        if self.proposal is None:
            given, fixed = choicemap.flatten(everything), frozenset(choicemap.flatten(observed))
            outcome = run(self.gf, given, inputs, "assess", valued=True, weighed=lambda _: fixed)
            return outcome.trace.retval, outcome.trace.log_density, outcome.log_weight
        log_joint, retval = assess(self.gf)(everything, *inputs)
        return retval, log_joint, log_joint - assess(self.proposal)(choices, *proposal_args)[0]


def _without(choices: Any, observed: Any) -> dict:
    known = choicemap.flatten(observed)
    return choicemap.nest({path: leaf for path, leaf in choicemap.flatten(choices).items() if path not in known})


@boundary
def normalize(
    gf: GenerativeFunction,
    observed: Any = None,
    proposal: GenerativeFunction | None = None,
    particles: int = 10,
    method: Any = None,
) -> GenerativeFunction:
    """Return a generative function that approximates the posterior of a program.

    Its choices are the latent ones. Its law is that of the method's result with so many particles, not the posterior
    itself, and its density is estimated without bias: a guide like any other. The ELBO of `normalize(model, proposal)`
    with K particles is the importance-weighted bound of K samples of the proposal.

    It can be called in two ways. With `observed` given here, or a program that is unnormalised (`condition`, `factor`,
    `scale`), as `posterior(*args)` with the program's arguments; the proposal is called as `proposal(observed, *args)`.
    Without, as a guide: `posterior(params, observed, *inputs)` for `gf(params, *inputs)`, and the proposal is a guide,
    too: `proposal(params, observed, *inputs)`.

    Args:
        gf: The program.
        observed: Nested dict of observed choices.
        proposal: Makes the latent choices. None: the program itself, forward.
        particles: Number of particles.
        method: A member of `ppl.methods`; by default `ppl.methods.sir()`.

    Returns:
        A generative function, which returns what the program returns for the chosen particle.

    Raises:
        AddressError: The proposal does not make just the latent choices.
        PPLError: `particles` is not a positive int.

    Example:
        >>> import jax, ppl
        >>> @ppl.gen
        ... def model():
        ...     z = ppl.normal(0.0, 1.0) @ "z"
        ...     ppl.normal(z, 1.0) @ "x"
        >>> posterior = ppl.normalize(model, {"x": 2.0}, particles=100)
        >>> posterior.simulate(jax.random.key(0))["z"].shape
        ()
    """
    from ppl.methods.importance_resampling import sir  # Methods are written against this module.

    require_gf(gf, "normalize")
    if proposal is not None:
        require_gf(proposal, "normalize")
    method = as_method(method if method is not None else sir(), "normalize")

    def resolve(args: tuple) -> tuple[Any, tuple, tuple]:
        if observed is not None:
            return observed, args, (observed, *args)
        if _is_guide_call(gf, args):
            return args[1], (args[0], *args[2:]), args
        return {}, args, ({}, *args)

    problem = Normalisation(gf, proposal, require_count("normalize", particles), resolve)
    return StochasticFunction(f"normalize({gf.name})", *method.normalize(problem))


def _is_guide_call(gf: GenerativeFunction, args: tuple) -> bool:
    """Tell whether the arguments are those of a guide: parameters, then values at addresses of the program."""
    if len(args) < 2 or not isinstance(args[1], Mapping):
        return False
    try:
        inspect.signature(gf.function).bind(args[0], *args[2:])
    except TypeError:  # The program takes other arguments: those that were given, to be called with them.
        return False
    addresses = gf.addresses(args[0], *args[2:])
    given = choicemap.flatten(args[1])
    return bool(given) and all(choicemap.show(path) in addresses for path in given)
