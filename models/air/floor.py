"""The same estimators of the ELBO written by hand in JAX, with neither `ppl` nor NumPyro.

They are the floor under the program's step: same networks, same sums. What an image shows after each number of objects
follows from one chain of objects, so the sum over presence costs no more than looking for all objects once. Batches go
through matrix products, densities are written out, noise is drawn at once.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Key

from models.air.networks import WHERE, WHERE_SCALE, Networks
from models.air.scenes import ANOTHER, PIXEL_SCALE
from models.air.windows import attend, place

LOG_2PI = math.log(2 * math.pi)


class Chain(NamedTuple):
    """What is found when there is always another object: leading axis of steps, then images.

    Attributes:
        logits: Of another object, at each step.
        log_fit: log p(image | the first n objects), n from 0 to the number of steps.
        gain: log p - log q of where and what, at each step.
    """

    logits: Float[Array, "steps n"]
    log_fit: Float[Array, "more n"]
    gain: Float[Array, "steps n"]


def chain(params: Networks, images: Float[Array, "n side side"], noise: Float[Array, "steps n latents"]) -> Chain:
    """Look for as many objects as there are steps."""
    attention, encoder, side = params.attention, params.encoder, params.side
    features = jax.vmap(lambda image: attention.embed(image.reshape(-1)))(images)
    state = jax.tree.map(lambda leaf: jnp.zeros((len(images), *leaf.shape)), attention.start)
    found, canvas = jnp.zeros((len(images), noise.shape[-1])), jnp.zeros_like(images)
    logits, fits, gains = [], [log_fit(images, canvas)], []
    for eps in noise:
        state, logit, (loc, scale) = jax.vmap(attention)(features, found, state)
        where = loc + scale * eps[:, :3]
        patches = jax.vmap(lambda image, where: attend(image, where, encoder.window))(images, where)
        what_loc, what_scale = jax.vmap(encoder)(patches)
        what = what_loc + what_scale * eps[:, 3:]
        canvas = canvas + jax.vmap(lambda what, where: place(params.decoder(what), where, side))(what, where)
        gain = jnp.sum(jnp.log(scale / WHERE_SCALE) - ((where - WHERE) / WHERE_SCALE) ** 2 / 2, axis=1)
        gain += jnp.sum(jnp.log(what_scale) - what**2 / 2, axis=1) + jnp.sum(eps**2, axis=1) / 2
        logits.append(logit)
        fits.append(log_fit(images, canvas))
        gains.append(gain)
        found = jnp.concatenate([where, what], axis=1)
    return Chain(jnp.stack(logits), jnp.stack(fits), jnp.stack(gains))


def log_fit(images: Float[Array, "n side side"], canvas: Float[Array, "n side side"]) -> Float[Array, " n"]:
    """Return the log density of images around canvases."""
    pixels = math.prod(images.shape[1:])
    squares = jnp.sum((images - canvas) ** 2, axis=(1, 2))
    return -squares / (2 * PIXEL_SCALE**2) - pixels * (LOG_2PI / 2 + math.log(PIXEL_SCALE))


def elbo_by_sum(key: Key[Array, ""], params: Networks, images: Float[Array, "n side side"], most: int) -> Array:
    """Return the mean ELBO of images, the number of objects summed out."""
    code = params.encoder.layers.out.out_features // 2
    found = chain(params, images, jr.normal(key, (most, len(images), 3 + code)))
    more, none = jax.nn.log_sigmoid(found.logits), jax.nn.log_sigmoid(-found.logits)
    reached = jnp.concatenate([jnp.zeros_like(more[:1]), jnp.cumsum(more, axis=0)])
    log_q = reached.at[:-1].add(none)  # After the last step there is no further choice.
    gained = jnp.concatenate([jnp.zeros_like(found.gain[:1]), jnp.cumsum(found.gain, axis=0)])
    numbers = jnp.arange(most + 1)
    log_prior = numbers * math.log(ANOTHER) + jnp.where(numbers < most, math.log(1 - ANOTHER), 0.0)
    value = found.log_fit + gained + log_prior[:, None] - log_q
    return jnp.mean(jnp.sum(jnp.exp(log_q) * value, axis=0))


def elbo_by_score(key: Key[Array, ""], params: Networks, images: Float[Array, "n side side"], most: int) -> Array:
    """Return an ELBO of a sampled number of objects; its derivative is that of the plain score function."""
    draw_key, noise_key = jr.split(key)
    code = params.encoder.layers.out.out_features // 2
    found = chain(params, images, jr.normal(noise_key, (most, len(images), 3 + code)))
    tossed = jr.uniform(draw_key, found.logits.shape) < jax.nn.sigmoid(found.logits)
    alive = jnp.concatenate([jnp.ones_like(tossed[:1]), jnp.cumprod(tossed, axis=0).astype(bool)])
    present = alive[1:]
    toss = jnp.where(present, jax.nn.log_sigmoid(found.logits), jax.nn.log_sigmoid(-found.logits))
    log_q = jnp.sum(jnp.where(alive[:-1], toss, 0.0), axis=0)
    prior = jnp.where(present, math.log(ANOTHER), math.log(1 - ANOTHER))
    gain = jnp.sum(jnp.where(present, found.gain, 0.0) + jnp.where(alive[:-1], prior, 0.0), axis=0)
    number = jnp.sum(present, axis=0)
    fit = jnp.take_along_axis(found.log_fit, number[None], axis=0)[0]
    value = fit + gain - log_q
    return jnp.mean(value + jax.lax.stop_gradient(value) * (log_q - jax.lax.stop_gradient(log_q)))


gradient_by_sum = functools.partial(jax.value_and_grad, argnums=1)(elbo_by_sum)
