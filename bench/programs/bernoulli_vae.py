"""The auto-encoder with Bernoulli latents, by the score function with the floor's constant baseline."""

import jax.numpy as jnp

from bench.floors import affine
from bench.floors.bernoulli_vae import BASELINE
from bench.programs.vae import over_images
from estimators import constant, elbo
from ppl import bernoulli, gen, reinforce, with_grad


@gen
def model(params):
    """Decode fair coins into the pixels of an image."""
    z = bernoulli(0.5 * jnp.ones(params["decoder_hidden"][0].shape[1])) @ "z"
    bernoulli(logits=affine(params["logits"], jnp.tanh(affine(params["decoder_hidden"], z.astype(float))))) @ "x"


@gen
def guide(params, observed):
    """Propose the latents of an image."""
    hidden = jnp.tanh(affine(params["encoder_hidden"], observed["x"].astype(float)))
    bernoulli(logits=affine(params["encoder_logits"], hidden)) @ "z"


def objective(pixels=784, **_):
    """Return the mean ELBO of a batch."""
    strategy = reinforce(baseline=constant(BASELINE * pixels))
    return over_images(elbo(model, with_grad(guide, {"z": strategy})))
