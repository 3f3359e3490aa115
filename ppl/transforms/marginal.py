"""`marginal`: a generative function without its auxiliary choices."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from ppl import choicemap
from ppl._errors import PPLError, boundary, user_source
from ppl.choicemap import Path
from ppl.generative import GenerativeFunction
from ppl.stochastic.function import StochasticFunction
from ppl.stochastic.particles import require_count
from ppl.transforms.assess import assess
from ppl.transforms.run import require_gf, run
from ppl.transforms.simulate import simulate


@dataclasses.dataclass(frozen=True)
class Marginalisation:
    """A marginal to be estimated.

    Attributes:
        gf: The program.
        keep: Globs of the choices that are kept.
        proposal: Proposes the others: `proposal(kept, *args)`; None: the program itself, forward.
        particles: Number of particles.
    """

    gf: GenerativeFunction
    keep: tuple[str, ...]
    proposal: GenerativeFunction | None
    particles: int

    def split(self, choices: Any) -> tuple[dict, dict]:
        """Separate the kept choices from the others, as nested dicts."""
        flat = choicemap.flatten(choices)
        kept = self.kept(flat)
        inside = {path: leaf for path, leaf in flat.items() if path in kept}
        return choicemap.nest(inside), choicemap.nest({p: leaf for p, leaf in flat.items() if p not in kept})

    def kept(self, paths: Mapping[Path, Any]) -> frozenset[Path]:
        """Return the paths that are kept."""
        return frozenset(choicemap.select(self.keep, paths))

    def run_forward(self, args: tuple) -> tuple[dict, dict, Any, Any]:
        """Run the program: kept choices, the others, the log density of all and of the kept choices."""
        outcome = run(self.gf, {}, args, "observe", normalised=True, weighed=self.kept)
        return *self.split(outcome.trace.choices), outcome.trace.log_density, outcome.log_weight

    def fresh_weight(self, kept: Any, args: tuple) -> jax.Array:
        """Propose the other choices; return the log weight, unbiased for the density of the kept ones."""
        if self.proposal is None:
            flat = choicemap.flatten(kept)
            return run(self.gf, flat, args, "observe", valued=True).log_weight
        proposed = simulate(self.proposal)(kept, *args)
        log_joint, _ = assess(self.gf)(choicemap.merge(proposed.choices, kept), *args)
        return log_joint - proposed.log_density

    def retained_weight(self, kept, others, log_joint, log_kept, args) -> jax.Array:
        """Return the log weight of choices that the program itself has made."""
        if self.proposal is None:
            return log_kept
        return log_joint - assess(self.proposal)(others, kept, *args)[0]


@boundary
def marginal(
    gf: GenerativeFunction,
    keep: Any,
    proposal: GenerativeFunction | None = None,
    particles: int = 1,
    method: Any = None,
) -> GenerativeFunction:
    """Return the generative function of some choices of another, whose other choices are auxiliary.

    Its density p(x) = sum or integral of p(x, u) over u is estimated, or found exactly, by the method. It may stand
    wherever a generative function may: as a model, as a guide, inside another program, in `vmap` and `scan`, inside
    another marginal. Where x is drawn, the reciprocal of its density is estimated without bias; where x is given, the
    density is (Lew et al. 2023).

    Args:
        gf: The generative function.
        keep: The choices that are kept: a glob on paths, or a tuple or list of globs.
        proposal: Proposes the others: called as `proposal(kept, *args)`, `kept` a nested dict, it makes the auxiliary
            choices under their addresses. None: the program itself, with the kept choices given.
        particles: Number of particles of the methods that use any.
        method: A member of `ppl.methods`; by default `ppl.methods.importance()`.

    Returns:
        A generative function of the same arguments, which returns the kept choices as a nested dict.

    Raises:
        AddressError: A glob matches no choice, or the proposal does not make just the auxiliary choices.
        PPLError: The program is unnormalised, or a kept choice is made only sometimes.

    Example:
        >>> import jax, ppl
        >>> @ppl.gen
        ... def mixture():
        ...     k = ppl.bernoulli(0.3) @ "k"
        ...     ppl.normal(4.0 * k, 1.0) @ "x"
        >>> x = ppl.marginal(mixture, keep="x", particles=10)
        >>> trace = x.simulate(jax.random.key(0))
        >>> sorted(trace.choices), trace.log_density.shape
        (['x'], ())
    """
    from ppl.methods.importance_sampling import importance  # Methods are written against this module.

    require_gf(gf, "marginal")
    if proposal is not None:
        require_gf(proposal, "marginal")
    globs = (keep,) if isinstance(keep, str) else tuple(keep)
    if not globs or not all(isinstance(glob, str) for glob in globs):
        raise PPLError("`marginal` keeps at least one choice.", where=user_source(), got=repr(keep))
    problem = Marginalisation(gf, globs, proposal, require_count("marginal", particles))
    method = as_method(method if method is not None else importance(), "marginal")
    return StochasticFunction(f"marginal({gf.name})", *method.marginal(problem))


def as_method(method: Any, usage: str) -> Any:
    """Return a method that can do this; a class stands for its default instance."""
    method = method() if isinstance(method, type) else method
    if hasattr(method, {"marginal": "marginal", "normalize": "normalize"}[usage]):
        return method
    raise PPLError(
        f"`{usage}` cannot be done by this method.",
        where=user_source(),
        expected="a member of `ppl.methods`",
        got=repr(method),
        remedy="use `ppl.methods.importance()` or `exact()` for marginals, `sir()` or `smc()` to normalise",
    )
