"""The guide of full rank."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp

from ppl._errors import boundary
from ppl.generative import GenerativeFunction
from ppl.guides.latents import Latents, find_latents
from ppl.guides.parameters import initial, require_scale, starting_point
from ppl.guides.source import chain, part, program


@boundary
def full(
    model: GenerativeFunction, observed: Any, *inputs: Any, params: Any = None, start: Any = None, scale: float = 0.1
) -> tuple[GenerativeFunction, dict[str, Any]]:
    """Make a guide with one normal of any covariance over the unconstrained forms of all unobserved choices.

    Kucukelbir et al. 2017, equation 5, with covariance L L'. Each choice is made given those before it: with L e = z -
    loc for the noise e, z_i | z_<i is normal around loc_i + L_i,<i e_<i with the Cholesky factor L_ii.

    Args:
        model: Called as `model(params, *inputs)`; it reads its own parameters, if it has any, at `params["model"]`.
        observed: Nested dict of observed choices; only addresses, shapes and types are used.
        *inputs: Inputs of the model.
        params: Initial parameters of the model, which become `init["model"]`.
        start: Choices around which to start, nested; by default those whose unconstrained form is 0.
        scale: Initial standard deviation of every unconstrained number.

    Returns:
        `(guide, init)`: the guide reads `params["guide"]`, `loc` of shape (n,) and `scale_tril` of shape (n, n), of
        which `ppl.guides.lower` makes L; `init` is `{"guide": ..., "model": params}`.

    Raises:
        PPLError: As `mean_field` does.

    Example:
        >>> import jax, ppl
        >>> model = ppl.gen(lambda params: ppl.normal(ppl.normal(0.0, 1.0) @ "a", ppl.half_normal(1.0) @ "s") @ "y")
        >>> guide, init = ppl.guides.full(model, {"y": 2.0})
        >>> init["guide"]["scale_tril"].shape
        (2, 2)
    """
    params = {} if params is None else params
    latents = find_latents("full", model, observed, inputs, params)
    loc = starting_point(latents, start)
    raw = jnp.diag(jnp.full(latents.size, math.log(require_scale(scale)), latents.dtype))
    return full_program("full", latents), initial({"loc": loc, "scale_tril": raw}, params)


def full_program(kind: str, latents: Latents) -> GenerativeFunction:
    """Write the guide of full rank."""
    block = lambda latent: f"tril[{latent.start}:{latent.stop}, {latent.start}:{latent.stop}]"

    def given(latent) -> list[str]:
        before = f" + tril[{latent.start}:{latent.stop}, :{latent.start}] @ noise" if latent.start else ""
        return [f"mean, scale = {part('loc', latent)}{before}, {block(latent)}"]

    def learn(latent, free: str) -> str:
        found = f"whiten(scale, {free} - mean)"
        return f"noise = jnp.concatenate([noise, {found}])" if latent.start else f"noise = {found}"

    choose = lambda latent: "multivariate_normal(mean, scale_tril=scale)"
    imports = ["import jax.numpy as jnp", "", "from ppl import gen, multivariate_normal"]
    return program(
        kind,
        latents,
        [*imports, "from ppl.guides import lower, onto, unconstrain, whiten"],
        f"One normal over the unconstrained choices of {latents.model}; each is made given those before it.",
        [
            'loc, tril = params["guide"]["loc"], lower(params["guide"]["scale_tril"])',
            *chain(latents, given, choose, learn),
        ],
    )
