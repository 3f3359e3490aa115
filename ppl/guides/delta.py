"""The guide of one point: its optimum is the mode of the posterior."""

from __future__ import annotations

import functools
from typing import Any

import jax.numpy as jnp

from ppl._errors import boundary
from ppl.choice import Choice
from ppl.family import Family, Parameter, Spec
from ppl.generative import GenerativeFunction
from ppl.guides.bijectors import BOUNDS, SUPPORTS, bijector, event_ndim
from ppl.guides.latents import find_latents
from ppl.guides.parameters import initial, starting_point
from ppl.guides.source import address, edges, elements, program
from ppl.strategies import pathwise


@boundary
def delta(
    model: GenerativeFunction, observed: Any, *inputs: Any, params: Any = None, start: Any = None
) -> tuple[GenerativeFunction, dict[str, Any]]:
    """Make a guide that chooses one point: the ELBO with it is log p(x, y), its optimum the posterior's mode.

    The mode is that of the density of the choices themselves, without the Jacobian of their unconstrained forms, which
    `laplace` has: of a positive choice, the two differ.

    Args:
        model: Called as `model(params, *inputs)`; it reads its own parameters, if it has any, at `params["model"]`.
        observed: Nested dict of observed choices; only addresses, shapes and types are used.
        *inputs: Inputs of the model.
        params: Initial parameters of the model, which become `init["model"]`.
        start: Choices at which to start, nested; by default those whose unconstrained form is 0.

    Returns:
        `(guide, init)`: the guide reads `params["guide"]["loc"]` of shape (n,); `init` also holds `params`.

    Raises:
        PPLError: As `mean_field` does.

    Example:
        >>> import jax, ppl
        >>> model = ppl.gen(lambda params: ppl.normal(ppl.half_normal(1.0) @ "s", 1.0) @ "y")
        >>> guide, init = ppl.guides.delta(model, {"y": 2.0}, start={"s": 3.0})
        >>> round(float(guide.simulate(jax.random.key(0), init, {"y": 2.0})["s"]), 4)
        3.0
    """
    params = {} if params is None else params
    latents = find_latents("delta", model, observed, inputs, params)
    point = lambda latent: f'point("{latent.support}", {elements("loc", latent)}{edges(latent)}) @ {address(latent)}'
    arrays = any(not isinstance(bound, float) for latent in latents.choices for bound in latent.bounds.values())
    guide = program(
        "delta",
        latents,
        [*(["import jax.numpy as jnp", ""] if arrays else []), "from ppl import gen", "from ppl.guides import point"],
        f"One point of the unconstrained choices of {latents.model}.",
        ['loc = params["guide"]["loc"]', *map(point, latents.choices)],
    )
    return guide, initial({"loc": starting_point(latents, start)}, params)


@boundary
def point(support: str, free: Any, *, low: Any = None, high: Any = None) -> Choice:
    """Choose a point of a support for certain: the image of an unconstrained value under the support's bijection.

    Args:
        support: Name of the support, as for `onto`.
        free: The unconstrained value.
        low: Lower edge of an interval.
        high: Upper edge.

    Returns:
        A choice whose log density is 0 at that point, and -inf elsewhere.

    Example:
        >>> import jax, ppl
        >>> from ppl.guides import point
        >>> ppl.gen(lambda: point("positive", 0.0) @ "s").simulate(jax.random.key(0))["s"].tolist()
        1.0
    """
    bounds = {"low": low, "high": high}
    names = BOUNDS.get(support, ())
    value = bijector(support, bounds)(jnp.asarray(free))
    edges = [jnp.asarray(bounds[name], value.dtype) for name in names]
    return Choice(_spec(support), [value, *edges], None, pathwise())


@functools.cache
def _spec(support: str) -> Spec:
    ndim, edges = event_ndim(support), BOUNDS.get(support, ())
    axes = tuple(f"event{i}" for i in range(ndim))

    def density(value, params):
        same = value == params["v"]
        return jnp.where(same.all(tuple(range(same.ndim - ndim, same.ndim))), 0.0, -jnp.inf).astype(value.dtype)

    family = Family(
        name=f"point_of_{support}",
        numpyro_name="",
        parameters=(Parameter("v", ndim, axes=axes), *(Parameter(name) for name in edges)),
        support=SUPPORTS[support],
        event_ndim=ndim,
        axes=axes,
        density=density,
        sampler=lambda key, params, shape: jnp.broadcast_to(params["v"], shape + params["v"].shape[-ndim or 99 :]),
    )
    return Spec(family, ("v", *edges))
