"""Laplace's approximation."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from ppl._errors import PPLError, boundary, user_source
from ppl.generative import GenerativeFunction
from ppl.guides.full import full_program
from ppl.guides.latents import Latents, find_latents
from ppl.guides.parameters import initial, raw_lower, starting_point
from ppl.transforms.log_joint import log_joint


@boundary
def laplace(
    model: GenerativeFunction, observed: Any, *inputs: Any, params: Any = None, start: Any = None, steps: int = 500
) -> tuple[GenerativeFunction, dict[str, Any]]:
    """Make a guide with Laplace's approximation: a normal at the mode, with the curvature there.

    MacKay 2003, chapter 27: N(mode, H**-1), H the Hessian of -log p(x(z), y) |dx/dz| over the unconstrained forms z,
    with parameters of the model fixed. The mode is found here (L-BFGS, then Newton); nothing has to be trained.

    Args:
        model: Called as `model(params, *inputs)`; it reads its own parameters, if it has any, at `params["model"]`.
        observed: Nested dict of observed choices.
        *inputs: Inputs of the model.
        params: Parameters of the model.
        start: Choices from which to climb, nested; by default those whose unconstrained form is 0.
        steps: Most steps of the search.

    Returns:
        `(guide, init)`: the guide and the parameters of `full`, at the approximation.

    Raises:
        PPLError: As `mean_field` does, or if no mode is found: the density rises for ever, or has no curvature there.

    Example:
        >>> import ppl
        >>> model = ppl.gen(lambda params: ppl.normal(ppl.normal(0.0, 1.0) @ "z", 1.0) @ "y")
        >>> guide, init = ppl.guides.laplace(model, {"y": 2.0})
        >>> scale = ppl.guides.lower(init["guide"]["scale_tril"])
        >>> round(float(init["guide"]["loc"][0]), 4), round(float(scale[0, 0] ** 2), 4)
        (1.0, 0.5)
    """
    params = {} if params is None else params
    latents = find_latents("laplace", model, observed, inputs, params)
    log_density, _ = log_joint(model, observed, {"guide": {}, "model": params}, *inputs)
    energy = lambda z: -log_density(z)
    mode, gradient, hessian = jax.jit(lambda z: _descend(energy, z, steps))(starting_point(latents, start))
    cholesky = _require_mode(latents, mode, gradient, hessian)
    factor = jnp.linalg.cholesky(jnp.linalg.inv(cholesky @ cholesky.T))
    return full_program("laplace", latents), initial({"loc": mode, "scale_tril": raw_lower(factor)}, params)


def _descend(energy, z: jax.Array, steps: int):
    """Return the lowest point found, with gradient and Hessian."""
    import optax

    search = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(energy)
    small = jnp.finfo(z.dtype).eps ** 0.5

    def step(carry):
        z, state, count, _ = carry
        value, gradient = value_and_grad(z, state=state)
        updates, state = search.update(gradient, state, z, value=value, grad=gradient, value_fn=energy)
        return optax.apply_updates(z, updates), state, count + 1, jnp.abs(gradient).max()

    go_on = lambda carry: (carry[2] < steps) & (carry[3] > small)
    z, *_ = jax.lax.while_loop(go_on, step, (z, search.init(z), 0, jnp.asarray(jnp.inf, z.dtype)))
    gradient, hessian = jax.grad(energy), jax.hessian(energy)

    def polish(z, _):
        proposal = z - jnp.linalg.solve(hessian(z), gradient(z))
        better = jnp.abs(gradient(proposal)).max() < jnp.abs(gradient(z)).max()  # False for NaN
        return jnp.where(better, proposal, z), None

    z, _ = jax.lax.scan(polish, z, None, length=3)
    return z, gradient(z), hessian(z)


def _require_mode(latents: Latents, mode, gradient, hessian) -> jax.Array:
    """Return the Hessian's Cholesky factor; refuse a point that is no minimum of the energy."""
    cholesky = jnp.linalg.cholesky(hessian)
    flat = jnp.abs(gradient).max() <= 1e-2 * jnp.maximum(1.0, jnp.sqrt(jnp.abs(jnp.diag(hessian)).max()))
    if bool(flat) and bool(jnp.isfinite(cholesky).all()):
        return cholesky
    raise PPLError(
        f"`guides.laplace` finds no mode of `{latents.model}`.",
        where=user_source(),
        expected="a point with zero gradient and positive curvature, over unconstrained choices",
        got=f"a gradient of up to {float(jnp.abs(gradient).max()):.3g} and curvatures (Hessian's diagonal) from "
        f"{float(jnp.diag(hessian).min()):.3g} to {float(jnp.diag(hessian).max()):.3g}",
        remedy="give another `start` or more `steps`; a density that rises for ever (a hierarchy whose spread goes to "
        "0) has no mode: write the model non-centred, or use `guides.full`",
    )
