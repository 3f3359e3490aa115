"""`particle_gibbs`: a Markov chain on the posterior of a program, whose step runs particles past the current state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ppl import choicemap
from ppl._errors import AddressError, PPLError, boundary, user_source
from ppl.generative import GenerativeFunction
from ppl.stochastic.particles import require_count
from ppl.transforms.normalize import Normalisation
from ppl.transforms.run import require_gf
from ppl.transforms.seed import seed


@boundary
def particle_gibbs(
    gf: GenerativeFunction,
    observed: Any = None,
    proposal: GenerativeFunction | None = None,
    particles: int = 10,
    method: Any = None,
) -> Callable[..., Any]:
    """Return a Markov kernel that leaves the posterior of a program as it is.

    The current values of the latent choices are the first of the particles throughout; the next ones are those of a
    particle chosen by its weight (Andrieu et al. 2010, section 2.4.3: conditional SMC; with `methods.sir()`, iterated
    sampling importance resampling). This holds for any number of particles from 2 on; the more there are, the less the
    next state depends on the current one. The chain draws; it has no derivative.

    Args:
        gf: The program; it may be unnormalised.
        observed: Nested dict of observed choices; None: none.
        proposal: Makes the latent choices: `proposal(observed, *args)`. None: the program itself, forward.
        particles: Number of particles, at least 2.
        method: `ppl.methods.smc(...)` for programs that are sequences (the default), or `ppl.methods.sir()`.

    Returns:
        `kernel(key, choices, *args)`, which maps a nested dict of all latent choices to the next one, of the same
        shapes.

    Raises:
        AddressError: The choices given are not just the latent ones.
        ControlFlowError: The program is not a sequence that `smc` could follow.
        PPLError: There are fewer than 2 particles, or the method or its resampling has no conditional version.

    Example:
        >>> import jax, jax.numpy as jnp, ppl
        >>> @ppl.gen
        ... def walk():
        ...     def step(z, _):
        ...         z = ppl.normal(z, 1.0) @ "z"
        ...         ppl.normal(z, 0.5) @ "y"
        ...         return z, None
        ...     jax.lax.scan(step, 0.0, None, length=3)
        >>> kernel = ppl.particle_gibbs(walk, {"y": jnp.array([0.5, 1.0, 1.5])}, particles=20)
        >>> state = {"z": jnp.zeros(3)}
        >>> for key in jax.random.split(jax.random.key(0), 5):
        ...     state = kernel(key, state)
        >>> state["z"].shape
        (3,)
    """
    from ppl.methods.sequential import smc  # Methods are written against the other transformations.

    require_gf(gf, "particle_gibbs")
    if proposal is not None:
        require_gf(proposal, "particle_gibbs")
    if require_count("particle_gibbs", particles) < 2:
        raise _too_few()
    method = smc() if method is None else method() if isinstance(method, type) else method
    if not hasattr(method, "move"):
        raise _no_move(method)
    known = {} if observed is None else observed
    problem = Normalisation(gf, proposal, particles, lambda args: (known, args, (known, *args)))
    move = method.move(problem)

    @boundary
    def checked(choices: Any, *args: Any) -> Any:
        latent = {*gf.addresses(*args)} - {choicemap.show(path) for path in choicemap.flatten(known)}
        given = {choicemap.show(path) for path in choicemap.flatten(choices)}
        if given != latent:
            raise _other_choices(gf.name, latent, given)
        return move(choices, *args)

    checked.__name__ = f"particle_gibbs({gf.name})"
    return seed(checked)


def _other_choices(name: str, latent: set[str], given: set[str]) -> AddressError:
    listed = lambda names: ", ".join(f'"{one}"' for one in sorted(names)) or "none"
    return AddressError(
        f"The state of a Markov chain on the posterior of `{name}` is made of all of its latent choices.",
        where=user_source(),
        expected=listed(latent),
        got=listed(given),
        remedy="start from `ppl.normalize(...).simulate(key)`, whose choices are just these",
    )


def _too_few() -> PPLError:
    return PPLError(
        "`particle_gibbs` takes at least 2 particles: with the current state alone the chain never moves.",
        where=user_source(),
        got="1",
        remedy="give an int of at least 2",
    )


def _no_move(method: Any) -> PPLError:
    return PPLError(
        "`particle_gibbs` cannot be done by this method.",
        where=user_source(),
        expected="`ppl.methods.smc()` or `ppl.methods.sir()`",
        got=repr(method),
        remedy="leave `method` out",
    )
