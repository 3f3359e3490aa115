"""The bound of a particle filter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from estimators.objectives.checks import require_particles, require_programs
from ppl import GenerativeFunction, PPLError, assess, merge, simulate
from ppl._errors import boundary, user_source
from ppl.methods import Resampling, multinomial
from ppl.stochastic.filtering import advance, resample, start


@boundary
def smc_elbo(
    init: GenerativeFunction,
    step: GenerativeFunction,
    proposal: GenerativeFunction,
    particles: int,
    resampling: Resampling | None = None,
    threshold: float = 1.0,
) -> Callable[..., jax.Array]:
    """Make the filtering bound E log Z of a particle filter, Z unbiased for p(observed).

    (Maddison et al. 2017; Naesseth et al. 2018; Le et al. 2018.) It is below log p(x), and often above the
    importance-weighted bound of as many particles, whose weights degenerate over many steps. The choice of ancestors is
    a random choice of the objective: with the default strategy its gradient is unbiased, which costs variance;
    `resampling=multinomial(grad=dropped())` gives the biased gradient that leaves it out.

    Args:
        init: The first step, called as `init(params)`; it returns the carry.
        step: The others, `step(params, carry, t)`, t = 1, 2, ...; it returns the carry.
        proposal: Makes the latent choices of a step: `proposal(params, carry, observed_t, t)`, carry None at t = 0.
        particles: Number of particles.
        resampling: A scheme of `ppl.methods`; by default `multinomial()`.
        threshold: Below 1, particles are resampled only where their effective sample size is below `threshold` times
            their number.

    Returns:
        A stochastic function of `(params, observed)`, to be maximised; leaves of `observed` have a leading axis of
        steps.

    Raises:
        PPLError: `particles` is not a positive int, `threshold` is not in (0, 1], or the observed leaves have different
            numbers of steps.
        AddressError: The proposed and the observed choices together are not those of a step.

    Example:
        >>> import jax, jax.numpy as jnp, ppl
        >>> from estimators import smc_elbo
        >>> def emit(z):
        ...     ppl.normal(z, 1.0) @ "x"
        ...     return z
        >>> init = ppl.gen(lambda params: emit(ppl.normal(0.0, 1.0) @ "z"))
        >>> step = ppl.gen(lambda params, z, t: emit(ppl.normal(params * z, 1.0) @ "z"))
        >>> proposal = ppl.gen(lambda params, z, now, t: ppl.normal(0.5 * now["x"], 1.0) @ "z")
        >>> bound = smc_elbo(init, step, proposal, particles=10)
        >>> ppl.expect(bound)(jax.random.key(0), 0.9, {"x": jnp.array([1.0, 0.5, 0.2])}).shape
        ()
    """
    require_programs("smc_elbo", init=init, step=step, proposal=proposal)
    require_particles("smc_elbo", particles)
    scheme = multinomial() if resampling is None else resampling
    _require_threshold(threshold)

    def objective(params: Any, observed: Any) -> jax.Array:
        first, rest = _first_and_rest(observed)

        def begin(_):
            return _weigh(init, params, simulate(proposal)(params, None, first, 0), first)

        def move(cloud, inputs):
            now, t = inputs
            cloud, _ = resample(cloud, scheme, threshold)
            one = lambda carry: _weigh(step, params, simulate(proposal)(params, carry, now, t), now, carry, t)
            return advance(cloud, one), None

        cloud = start(*jax.vmap(begin)(jnp.arange(particles)))
        times = 1 + jnp.arange(jax.tree.leaves(rest)[0].shape[0])
        cloud, _ = lax.scan(move, cloud, (rest, times))
        return cloud.total()

    return objective


def _require_threshold(threshold: Any) -> None:
    if not 0 < threshold <= 1:
        raise PPLError(
            "`smc_elbo` takes a threshold in (0, 1].",
            where=user_source(),
            got=repr(threshold),
            remedy="use 1 to resample at every step",
        )


def _weigh(program: GenerativeFunction, params: Any, latent: Any, now: Any, *args: Any) -> tuple[Any, jax.Array]:
    """Return the carry of a step whose latent choices were proposed, and its log weight."""
    log_joint, carry = assess(program)(merge(latent.choices, now), params, *args)
    return carry, log_joint - latent.log_density


def _first_and_rest(observed: Any) -> tuple[Any, Any]:
    """Separate the first step's observations from the others."""
    lengths = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(observed)}
    if len(lengths) != 1 or lengths == {()}:
        raise PPLError(
            "The leaves of `observed` do not have one leading axis of steps.",
            where=user_source(),
            got=", ".join(str(jnp.shape(leaf)) for leaf in jax.tree.leaves(observed)) or "nothing",
            remedy="stack the observations of all steps along the first axis",
        )
    return jax.tree.map(lambda leaf: leaf[0], observed), jax.tree.map(lambda leaf: leaf[1:], observed)
