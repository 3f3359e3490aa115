"""The guide of normalising flows, which flowjax provides."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from ppl._errors import PPLError, boundary, user_source
from ppl.continuity import assume_continuous
from ppl.generative import GenerativeFunction
from ppl.guides.latents import Latents, find_latents
from ppl.guides.parameters import initial, starting_point
from ppl.guides.source import chain, part, program
from ppl.transforms.programs import check_key


@boundary
def flow(
    model: GenerativeFunction,
    observed: Any,
    *inputs: Any,
    key: jax.Array,
    params: Any = None,
    start: Any = None,
    layers: int = 2,
    width: int = 32,
    knots: int = 8,
) -> tuple[GenerativeFunction, dict[str, Any]]:
    """Make a guide of spline flows over the unconstrained forms of all unobserved choices.

    One masked autoregressive flow (Papamakarios et al. 2017) of rational quadratic splines (Durkan et al. 2019) for
    each choice, conditional on all choices before it, around a standard normal. Needs flowjax, of the extra `flows`.

    Args:
        model: Called as `model(params, *inputs)`; it reads its own parameters, if it has any, at `params["model"]`.
        observed: Nested dict of observed choices; only addresses, shapes and types are used.
        *inputs: Inputs of the model.
        key: A typed key, for the initial parameters of the flows.
        params: Initial parameters of the model, which become `init["model"]`.
        start: Choices around which to start, nested; by default those whose unconstrained form is 0.
        layers: Number of layers of each flow.
        width: Width of its networks.
        knots: Number of knots of its splines, which reach from -4 to 4; beyond, they are the identity.

    Returns:
        `(guide, init)`: the guide reads `params["guide"]`, `loc` and `log_scale` of shape (n,), and `flows`, a list of
        flowjax modules whose draws they shift and scale; `init` is `{"guide": ..., "model": params}`.

    Raises:
        PPLError: As `mean_field` does, or if flowjax is not installed.

    Example:
        >>> import jax, ppl
        >>> model = ppl.gen(lambda params: ppl.normal(ppl.normal(0.0, 1.0) @ "z", 1.0) @ "y")
        >>> guide, init = ppl.guides.flow(model, {"y": 2.0}, key=jax.random.key(0))  # doctest: +SKIP
    """
    params = {} if params is None else params
    flowjax = _flowjax()
    check_key(key, "guides.flow(..., key=...)")
    latents = find_latents("flow", model, observed, inputs, params)
    flows = _flows(flowjax, key, latents, layers, width, knots)
    loc = starting_point(latents, start)
    choose = lambda latent: f"choice(Around(at, scale, flows[{_index(latents, latent)}], before), grad=pathwise())"
    learn = lambda latent, free: f"before = jnp.concatenate([before, {free}])"
    given = lambda latent: [f"at, scale = {part('loc', latent)}, {part('scales', latent)}"]
    guide = program(
        "flow",
        latents,
        [
            "import jax.numpy as jnp",
            "",
            "from ppl import choice, gen, pathwise",
            "from ppl.guides import Around, onto, unconstrain",
        ],
        f"A flow for each unconstrained choice of {latents.model}, given those before it.",
        [
            'loc, scales = params["guide"]["loc"], jnp.exp(params["guide"]["log_scale"])',
            'flows, before = params["guide"]["flows"], jnp.zeros(0)',
            *chain(latents, given, choose, learn),
        ],
    )
    return guide, initial({"loc": loc, "log_scale": jnp.zeros_like(loc), "flows": flows}, params)


def _index(latents: Latents, latent) -> int:
    return latents.choices.index(latent)


def _flowjax():
    try:
        import flowjax.bijections
        import flowjax.distributions
        import flowjax.flows
    except ImportError:
        raise PPLError(
            "`guides.flow` needs the package `flowjax`, which is not installed.",
            where=user_source(),
            expected="flowjax 17 or later",
            got="no module `flowjax`",
            remedy="pip install 'programmable-vi[flows]'",
        ) from None
    return flowjax


def _flows(flowjax, key: jax.Array, latents: Latents, layers: int, width: int, knots: int) -> list:
    """Make one flow for each choice; the first has nothing to be conditional on."""
    return [
        flowjax.flows.masked_autoregressive_flow(
            jax.random.fold_in(key, index),
            base_dist=flowjax.distributions.Normal(jnp.zeros(latent.size, latents.dtype)),
            transformer=flowjax.bijections.RationalQuadraticSpline(knots=knots, interval=4),
            cond_dim=latent.start or None,
            flow_layers=layers,
            nn_width=width,
            invert=False,  # Draws are made in one pass; densities by inversion, one number after another.
        )
        for index, latent in enumerate(latents.choices)
    ]


@dataclasses.dataclass(frozen=True)
class Around:
    """A flow whose draws are shifted and scaled, given a condition: an object for `ppl.choice`.

    Draws and densities of flows of splines are continuous, whatever knots they are compared with on the way.

    Attributes:
        loc: Shape (n,).
        scale: Shape (n,).
        flow: A flowjax distribution over vectors of length n.
        condition: Vector that it is conditional on; of length 0, if it is not.
    """

    loc: jax.Array
    scale: jax.Array
    flow: Any
    condition: jax.Array

    def _given(self) -> dict[str, Any]:
        return {"condition": self.condition} if self.condition.size else {}

    def sample(self, key: jax.Array) -> jax.Array:
        """Draw one vector."""
        return self.loc + self.scale * assume_continuous(self.flow.sample(key, **self._given()))

    def log_prob(self, value: jax.Array) -> jax.Array:
        """Evaluate the log density of a vector."""
        log_prob = self.flow.log_prob((value - self.loc) / self.scale, **self._given())
        return assume_continuous(log_prob) - jnp.log(self.scale).sum()
