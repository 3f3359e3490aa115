"""The guide of low rank."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from ppl._errors import PPLError, boundary, user_source
from ppl.generative import GenerativeFunction
from ppl.guides.latents import find_latents
from ppl.guides.parameters import initial, require_scale, starting_point
from ppl.guides.source import chain, part, program


@boundary
def low_rank(
    model: GenerativeFunction,
    observed: Any,
    *inputs: Any,
    rank: int = 2,
    params: Any = None,
    start: Any = None,
    scale: float = 0.1,
) -> tuple[GenerativeFunction, dict[str, Any]]:
    """Make a guide with one normal of covariance W W' + diag(s**2) over the unconstrained forms of all choices.

    Ong, Nott and Smith 2018, section 3. Each choice is made given those before it: what these say about the common
    factors u, of which z = loc + W u + s e, is normal, too. n numbers cost O(n rank**2).

    Args:
        model: Called as `model(params, *inputs)`; it reads its own parameters, if it has any, at `params["model"]`.
        observed: Nested dict of observed choices; only addresses, shapes and types are used.
        *inputs: Inputs of the model.
        rank: Number of common factors, between 1 and n.
        params: Initial parameters of the model, which become `init["model"]`.
        start: Choices around which to start, nested; by default those whose unconstrained form is 0.
        scale: Initial standard deviation of every unconstrained number, half of its variance from common factors.

    Returns:
        `(guide, init)`: the guide reads `params["guide"]`, `loc` and `log_scale` of shape (n,), `factor` of shape
        (n, rank); `init` is `{"guide": ..., "model": params}`.

    Raises:
        PPLError: As `mean_field` does, or if the rank is not a number from 1 to n.

    Example:
        >>> import jax, ppl
        >>> model = ppl.gen(lambda params: ppl.normal(ppl.normal(0.0, 1.0) @ "a", ppl.half_normal(1.0) @ "s") @ "y")
        >>> guide, init = ppl.guides.low_rank(model, {"y": 2.0}, rank=1)
        >>> init["guide"]["factor"].shape
        (2, 1)
    """
    params = {} if params is None else params
    latents = find_latents("low_rank", model, observed, inputs, params)
    _require_rank(rank, latents.size)
    loc, half = starting_point(latents, start), require_scale(scale) / math.sqrt(2)
    # Directions that differ, or the factors would stay alike for ever; a fixed key, as the guide is no random choice.
    factor = jax.random.normal(jax.random.key(0), (latents.size, rank), latents.dtype)
    factor = half * factor / jnp.linalg.norm(factor, axis=1, keepdims=True)
    log_scale = jnp.full(latents.size, math.log(half), latents.dtype)

    def given(latent) -> list[str]:
        return [f"at, common, own = {', '.join(part(name, latent) for name in ('loc', 'factor', 'scale'))}"]

    choose = lambda latent: "low_rank_multivariate_normal(at + common @ mean, common @ root, own**2)"
    update = lambda latent, free: f"mean, root = learn(mean, root, common, own, {free} - at)"
    guide = program(
        "low_rank",
        latents,
        [
            "import jax.numpy as jnp",
            "",
            "from ppl import gen, low_rank_multivariate_normal",
            "from ppl.guides import learn, onto, unconstrain",
        ],
        f"One normal with common factors over the unconstrained choices of {latents.model}.",
        [
            'loc, factor = params["guide"]["loc"], params["guide"]["factor"]',
            'scale = jnp.exp(params["guide"]["log_scale"])',
            "mean, root = jnp.zeros(factor.shape[1]), jnp.eye(factor.shape[1])  # of the common factors",
            *chain(latents, given, choose, update),
        ],
    )
    return guide, initial({"loc": loc, "factor": factor, "log_scale": log_scale}, params)


def _require_rank(rank: Any, size: int) -> None:
    if isinstance(rank, bool) or not isinstance(rank, int) or not 0 < rank <= size:
        raise PPLError(
            "`rank` is the number of common factors.",
            where=user_source(),
            expected=f"an int from 1 to {size}, the number of unconstrained numbers",
            got=repr(rank),
            remedy="use `guides.mean_field` for none, and `guides.full` for any covariance",
        )
