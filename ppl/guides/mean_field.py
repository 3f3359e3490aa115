"""The mean-field guide."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp

from ppl._errors import boundary
from ppl.generative import GenerativeFunction
from ppl.guides.latents import Latent, find_latents
from ppl.guides.parameters import initial, require_scale, starting_point
from ppl.guides.source import address, edges, elements, program


@boundary
def mean_field(
    model: GenerativeFunction, observed: Any, *inputs: Any, params: Any = None, start: Any = None, scale: float = 0.1
) -> tuple[GenerativeFunction, dict[str, Any]]:
    """Make a guide of independent normals over the unconstrained forms of all unobserved choices.

    Kucukelbir et al. 2017, equation 4: log q(x) = sum_i log N(z_i; loc_i, scale_i) - log |det dx/dz|, z = T^-1(x), with
    the bijections T of `log_joint`.

    Args:
        model: Called as `model(params, *inputs)`; it reads its own parameters, if it has any, at `params["model"]`.
        observed: Nested dict of observed choices; only addresses, shapes and types are used.
        *inputs: Inputs of the model.
        params: Initial parameters of the model, which become `init["model"]`.
        start: Choices around which to start, nested; by default those whose unconstrained form is 0.
        scale: Initial standard deviation of every unconstrained number.

    Returns:
        `(guide, init)`: the guide reads `params["guide"]`, `{"loc", "log_scale"}` of shape (n,) for n unconstrained
        numbers in the order of `log_joint`; `init` is `{"guide": ..., "model": params}`.

    Raises:
        AddressError: An observed choice is unknown or has the wrong shape.
        StrategyError: An unobserved choice is discrete or foreign.
        ControlFlowError: An unobserved choice is made only sometimes.
        SupportError: The edges of a support are not fixed numbers.
        PPLError: The model reads parameters that are not given, or has nothing to guess.

    Example:
        >>> import jax, optax, ppl
        >>> from estimators import elbo
        >>> @ppl.gen
        ... def model(params):
        ...     z = ppl.normal(0.0, 1.0) @ "z"
        ...     ppl.normal(z, 1.0) @ "y"
        >>> guide, init = ppl.guides.mean_field(model, {"y": 2.0})
        >>> bound = lambda params: elbo(model, guide)(params, {"y": 2.0})
        >>> fit = ppl.maximize(bound, init, None, optax.adam(0.05), steps=300, key=jax.random.key(0))
        >>> bool(abs(fit.params["guide"]["loc"][0] - 1.0) < 0.2)
        True
    """
    params = {} if params is None else params
    latents = find_latents("mean_field", model, observed, inputs, params)
    loc = starting_point(latents, start)
    start_scale = jnp.full(latents.size, math.log(require_scale(scale)), latents.dtype)
    guide = program(
        "mean_field",
        latents,
        ["import jax.numpy as jnp", "", "from ppl import gen, normal", "from ppl.guides import onto"],
        f"Independent normals over the unconstrained choices of {latents.model}.",
        [
            'loc, scale = params["guide"]["loc"], jnp.exp(params["guide"]["log_scale"])',
            *(_line(latent) for latent in latents.choices),
        ],
    )
    return guide, initial({"loc": loc, "log_scale": start_scale}, params)


def _line(latent: Latent) -> str:
    base = f"normal({elements('loc', latent)}, {elements('scale', latent)})"
    if latent.support != "real":
        base = f'onto("{latent.support}", {base}{edges(latent)})'
    return f"{base} @ {address(latent)}"
