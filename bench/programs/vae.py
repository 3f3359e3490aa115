"""The auto-encoder, written for one image; the batch is a `vmap`."""

import jax
import jax.numpy as jnp

from bench.floors import affine
from estimators import elbo
from ppl import bernoulli, gen, normal


@gen
def model(params):
    """Decode standard normal latents into the pixels of an image."""
    z = normal(jnp.zeros(params["decoder_hidden"][0].shape[1]), 1.0) @ "z"
    bernoulli(logits=affine(params["logits"], jnp.tanh(affine(params["decoder_hidden"], z)))) @ "x"


@gen
def guide(params, observed):
    """Propose the latents of an image."""
    hidden = jnp.tanh(affine(params["encoder_hidden"], observed["x"].astype(float)))
    normal(affine(params["loc"], hidden), jnp.exp(affine(params["log_variance"], hidden) / 2)) @ "z"


def over_images(bound):
    """Return the mean of an objective over the rows of a batch."""
    return lambda params, images: jnp.mean(jax.vmap(lambda image: bound(params, {"x": image}))(images))


def objective(**_):
    """Return the mean ELBO of a batch."""
    return over_images(elbo(model, guide))
