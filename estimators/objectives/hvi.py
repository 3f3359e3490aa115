"""Hierarchical variational inference: guides with auxiliary choices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from estimators.objectives.checks import require_programs
from estimators.objectives.elbo import elbo
from estimators.objectives.iwelbo import iwelbo
from ppl import GenerativeFunction, marginal
from ppl._errors import boundary


def _marginal_guide(model, guide, reverse, particles: int) -> Callable[..., GenerativeFunction]:
    """Return the guide without its auxiliary choices, given the arguments that tell which these are."""

    def of(params: Any, observed: Any, *inputs: Any) -> GenerativeFunction:
        latent = model.addresses(params, *inputs)
        keep = [address for address in guide.addresses(params, observed, *inputs) if address in latent]
        return marginal(guide, keep, proposal=reverse, particles=particles)

    return of


@boundary
def iwhvi(
    model: GenerativeFunction, guide: GenerativeFunction, reverse: GenerativeFunction, particles: int
) -> Callable[..., jax.Array]:
    """Make the importance-weighted hierarchical bound (Sobolev and Vetrov 2019, eq. 8).

    The ELBO with the guide q(z) = integral of q(z, u), whose density is estimated with M particles of r(u; z):

        E log p(x, z) - log 1/M sum_j q(z, u_j) / r(u_j; z),    (z, u_1) from q, the other u_j from r.

    Args:
        model: Called as `model(params, *inputs)`.
        guide: Called as `guide(params, observed, *inputs)`; its choices that the model does not make are auxiliary.
        reverse: Proposes them: `reverse(kept, params, observed, *inputs)`, `kept` the guide's other choices.
        particles: Number M of particles; with 1 it is [`hvi`][estimators.hvi].

    Returns:
        A stochastic function of `(params, observed, *inputs)` that returns a scalar, to be maximised.

    Raises:
        AddressError: The reverse program does not make just the auxiliary choices.

    Example:
        >>> import jax, ppl
        >>> from estimators import iwhvi
        >>> @ppl.gen
        ... def model(params):
        ...     z = ppl.normal(0.0, 1.0) @ "z"
        ...     ppl.normal(z, 1.0) @ "x"
        >>> @ppl.gen
        ... def guide(params, observed):
        ...     u = ppl.normal(params, 1.0) @ "u"
        ...     ppl.normal(u, 0.5) @ "z"
        >>> reverse = ppl.gen(lambda kept, params, observed: ppl.normal(kept["z"], 1.0) @ "u")
        >>> bound = iwhvi(model, guide, reverse, particles=5)
        >>> ppl.expect(bound)(jax.random.key(0), 0.5, {"x": 2.0}).shape
        ()
    """
    require_programs("iwhvi", model=model, guide=guide, reverse=reverse)
    marginal_guide = _marginal_guide(model, guide, reverse, particles)

    def objective(params: Any, observed: Any, *inputs: Any) -> jax.Array:
        return elbo(model, marginal_guide(params, observed, *inputs))(params, observed, *inputs)

    return objective


@boundary
def hvi(model: GenerativeFunction, guide: GenerativeFunction, reverse: GenerativeFunction) -> Callable[..., jax.Array]:
    """Make the hierarchical bound E log p(x, z) + log r(u; z) - log q(z, u) (Ranganath et al. 2016, eq. 6).

    Args:
        model: Called as `model(params, *inputs)`.
        guide: Called as `guide(params, observed, *inputs)`; its choices that the model does not make are auxiliary.
        reverse: Proposes them: `reverse(kept, params, observed, *inputs)`.

    Returns:
        A stochastic function of `(params, observed, *inputs)` that returns a scalar, to be maximised.

    Raises:
        AddressError: The reverse program does not make just the auxiliary choices.

    Example:
        >>> import jax, ppl
        >>> from estimators import hvi
        >>> model = ppl.gen(lambda params: ppl.normal(0.0, 1.0) @ "z")
        >>> @ppl.gen
        ... def guide(params, observed):
        ...     u = ppl.normal(params, 1.0) @ "u"
        ...     ppl.normal(u, 0.5) @ "z"
        >>> reverse = ppl.gen(lambda kept, params, observed: ppl.normal(kept["z"], 1.0) @ "u")
        >>> ppl.expect(hvi(model, guide, reverse))(jax.random.key(0), 0.5, {}).shape
        ()
    """
    return iwhvi(model, guide, reverse, 1)


@boundary
def diwhvi(
    model: GenerativeFunction,
    guide: GenerativeFunction,
    reverse: GenerativeFunction,
    particles: int,
    inner_particles: int,
) -> Callable[..., jax.Array]:
    """Make the doubly importance-weighted hierarchical bound (Sobolev and Vetrov 2019, eq. 13).

    The importance-weighted bound of N particles of a guide whose density is estimated with M inner ones.

    Args:
        model: Called as `model(params, *inputs)`.
        guide: Called as `guide(params, observed, *inputs)`; its choices that the model does not make are auxiliary.
        reverse: Proposes them: `reverse(kept, params, observed, *inputs)`.
        particles: Number N of particles of the guide.
        inner_particles: Number M of particles for the density of each.

    Returns:
        A stochastic function of `(params, observed, *inputs)` that returns a scalar, to be maximised.

    Raises:
        AddressError: The reverse program does not make just the auxiliary choices.

    Example:
        >>> import jax, ppl
        >>> from estimators import diwhvi
        >>> model = ppl.gen(lambda params: ppl.normal(0.0, 1.0) @ "z")
        >>> @ppl.gen
        ... def guide(params, observed):
        ...     u = ppl.normal(params, 1.0) @ "u"
        ...     ppl.normal(u, 0.5) @ "z"
        >>> reverse = ppl.gen(lambda kept, params, observed: ppl.normal(kept["z"], 1.0) @ "u")
        >>> ppl.expect(diwhvi(model, guide, reverse, 3, 2))(jax.random.key(0), 0.5, {}).shape
        ()
    """
    require_programs("diwhvi", model=model, guide=guide, reverse=reverse)
    marginal_guide = _marginal_guide(model, guide, reverse, inner_particles)

    def objective(params: Any, observed: Any, *inputs: Any) -> jax.Array:
        return iwelbo(model, marginal_guide(params, observed, *inputs), particles)(params, observed, *inputs)

    return objective
