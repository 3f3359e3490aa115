"""The three auto-encoders as programs; whether they are linear is up to the maps in their parameters.

Every choice is pathwise, the default. `noise` is eta_dec and `prior` eta_enc of the paper.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from estimators import elbo
from estimators.objectives.closed_divergence import closed_divergences
from models.posterior_collapse.networks import Networks
from ppl import GenerativeFunction, assess, gen, merge, normal, simulate

Scale = float | Float[Array, ""]
Pair = tuple[GenerativeFunction, GenerativeFunction]


def vae(latents: int, noise: Scale, prior: Scale = 1.0) -> Pair:
    """Return model and guide of an auto-encoder: z ~ N(0, prior^2), y | z ~ N(decoder(z), noise^2)."""

    @gen
    def model(params: Networks):
        """Decode latents."""
        z = normal(jnp.zeros(latents), prior) @ "z"
        normal(params.decoder(z), noise) @ "y"

    @gen
    def guide(params: Networks, observed: dict):
        """Propose latents of an observation."""
        normal(*params.encoder(observed["y"])) @ "z"

    return model, guide


def cvae(latents: int, noise: Scale, prior: Scale = 1.0) -> Pair:
    """Return model and guide of a conditional auto-encoder: y | x, z ~ N(decoder(z) + direct(x), noise^2)."""

    @gen
    def model(params: Networks, x: Float[Array, " inputs"]):
        """Decode latents and inputs."""
        z = normal(jnp.zeros(latents), prior) @ "z"
        normal(params.decoder(z) + params.direct(x), noise) @ "y"

    @gen
    def guide(params: Networks, observed: dict, x: Float[Array, " inputs"]):
        """Propose latents of an observation with its inputs."""
        normal(*params.encoder(x, observed["y"])) @ "z"

    return model, guide


def mhvae(latents: int, noise: Scale, prior: Scale = 1.0) -> Pair:
    """Return model and guide of a Markovian hierarchy: z2, then z1 | z2, then y | z1; the guide goes the other way."""

    @gen
    def model(params: Networks):
        """Decode the second latents into the first, and these into an observation."""
        z2 = normal(jnp.zeros(latents), prior) @ "z2"
        z1 = normal(params.top(z2), noise) @ "z1"
        normal(params.decoder(z1), noise) @ "y"

    @gen
    def guide(params: Networks, observed: dict):
        """Propose the first latents of an observation, and of these the second."""
        z1 = normal(*params.encoder(observed["y"])) @ "z1"
        normal(*params.upper(z1)) @ "z2"

    return model, guide


def of_rows(objective: Callable, y: Float[Array, "n pixels"], *x: Float[Array, "n inputs"]) -> Callable:
    """Turn an objective of `(params, observed, *inputs)` into its mean over rows, a function of parameters."""
    row = lambda params, y, *x: objective(params, {"y": y}, *x)
    return lambda params: jnp.mean(jax.vmap(partial(row, params))(y, *x))


def weighed(pair: Pair, weights: Mapping[str, Any]) -> Callable:
    """Return the ELBO with a weight on log p - log q of some addresses, those of latents; `{"z": beta}` of a VAE."""
    return elbo(*pair, weights=weights)


def with_free_bits(pair: Pair, weights: Mapping[str, Any], free: float) -> Callable:
    """Return an objective of `(params, y, *x)` in which each latent's mean divergence counts from `free` nats on.

    Kingma et al. 2016, equation 15: the mean is over rows, the divergence in closed form.
    """
    model, guide = pair

    def of_row(params: Networks, y: Array, *x: Array) -> tuple[Array, dict[str, Array]]:
        observed = {"y": y}
        drawn = simulate(guide)(params, observed, *x).choices
        choices = merge(drawn, observed)
        nats = closed_divergences(model, guide, drawn, choices, (params, *x), (params, observed, *x))
        return assess(model, dict.fromkeys(weights, 0.0))(choices, params, *x)[0], nats

    def objective(params: Networks, y: Array, *x: Array) -> Array:
        likelihood, nats = jax.vmap(partial(of_row, params))(y, *x)
        paid = [weights[name] * jnp.sum(jnp.maximum(free, jnp.mean(one, 0))) for name, one in nats.items()]
        return jnp.mean(likelihood) - sum(paid)

    return objective
