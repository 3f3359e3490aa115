"""More estimators written by hand, after `floor.py`: baselines, measure-valued derivatives, two particles, wake-sleep.

Everything that presence decides is known once all objects were looked for, so each evaluates the chain of objects
once: the value of an image is a table over the number of objects, and a number that another toss would have led to is
one more entry to be read.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
from jax.lax import stop_gradient
from jaxtyping import Array, Bool, Float, Int, Key

from models.air.floor import LOG_2PI, chain, log_fit
from models.air.networks import WHERE, WHERE_SCALE, Networks
from models.air.scenes import ANOTHER
from models.air.windows import attend, place


class Table(NamedTuple):
    """What each number of objects is worth: leading axis of numbers, then of particles and images.

    Attributes:
        log_weight: log p(image, objects) - log q(objects).
        log_q: Log probability of the number under the guide.
        logits: Of another object, at each step.
    """

    log_weight: Float[Array, "more ..."]
    log_q: Float[Array, "more ..."]
    logits: Float[Array, "steps ..."]


def numbers(logits: Float[Array, "steps ..."], fit: Float[Array, "more ..."], gain: Float[Array, "steps ..."]) -> Table:
    """Add up what each number of objects is worth."""
    most = len(logits)
    more, none = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    nothing = jnp.zeros_like(logits[:1])
    log_q = jnp.concatenate([nothing, jnp.cumsum(more, axis=0)]).at[:-1].add(none)
    gained = jnp.concatenate([nothing, jnp.cumsum(gain, axis=0)])
    count = jnp.arange(most + 1)
    log_prior = count * math.log(ANOTHER) + jnp.where(count < most, math.log(1 - ANOTHER), 0.0)
    log_prior = log_prior.reshape(-1, *[1] * (logits.ndim - 1))
    return Table(fit + gained + log_prior - log_q, log_q, logits)


def table(key: Key[Array, ""], params: Networks, images: Float[Array, "n side side"], most: int, copies: int) -> Table:
    """Look for all objects in copies of each image: lanes (copies, images)."""
    code = params.encoder.layers.out.out_features // 2
    noise = jr.normal(key, (most, copies * len(images), 3 + code))
    found = chain(params, jnp.tile(images, (copies, 1, 1)), noise)
    split = lambda x: x.reshape(len(x), copies, -1)
    return numbers(split(found.logits), split(found.log_fit), split(found.gain))


def stop_after(tossed: Bool[Array, "steps ..."]) -> Int[Array, "..."]:
    """Count the tosses before the first that says no."""
    return jnp.sum(jnp.cumprod(tossed.astype(jnp.int32), axis=0), axis=0)


def read(x: Float[Array, "more ..."], number: Int[Array, "..."]) -> Float[Array, "..."]:
    """Read a table at each lane's number of objects."""
    return jnp.take_along_axis(x, number[None], axis=0)[0]


def log_mean_exp(x: Float[Array, "copies n"]) -> Float[Array, " n"]:
    """Return the bound of particles: that of one is its log weight."""
    return jax.nn.logsumexp(x, axis=0) - math.log(len(x))


def by_score(copies: int, baseline: bool) -> Callable:
    """Return a bound of sampled numbers, whose derivative is that of the score function.

    Args:
        copies: Particles.
        baseline: Whether the mean of the other images' bounds is taken off.
    """

    def objective(key, params, images, most):
        draw_key, noise_key = jr.split(key)
        found = table(noise_key, params, images, most, copies)
        number = stop_after(jr.uniform(draw_key, found.logits.shape) < jax.nn.sigmoid(found.logits))
        value = log_mean_exp(read(found.log_weight, number))
        cost, score = stop_gradient(value), jnp.sum(read(found.log_q, number), axis=0)
        if baseline:
            cost -= (jnp.sum(cost) - cost) / (len(cost) - 1)
        return jnp.mean(value + cost * (score - stop_gradient(score)))

    return objective


def by_measures(copies: int) -> Callable:
    """Return a bound of sampled numbers, whose derivative compares a yes with a no at each toss that is made.

    After a no the objects end; after a yes the tosses that follow decide, which are drawn whether they are needed or
    not.
    """

    def objective(key, params, images, most):
        draw_key, noise_key = jr.split(key)
        found = table(noise_key, params, images, most, copies)
        chance = jax.nn.sigmoid(found.logits)
        tossed = jr.uniform(draw_key, chance.shape) < chance
        number = stop_after(tossed)
        drawn = read(found.log_weight, number)
        value = log_mean_exp(drawn)
        for step in range(most):
            yes, no = number * 0 + step + 1 + stop_after(tossed[step + 1 :]), number * 0 + step
            with_yes, with_no = (_one_exchanged(drawn, read(found.log_weight, other)) for other in (yes, no))
            difference = stop_gradient(jnp.where(number >= step, with_yes - with_no, 0.0))
            value += jnp.sum(difference * (chance[step] - stop_gradient(chance[step])), axis=0)
        return jnp.mean(value)

    return objective


def _one_exchanged(drawn: Float[Array, "copies n"], other: Float[Array, "copies n"]) -> Float[Array, "copies n"]:
    """Return, for each particle, the bound with that particle's log weight exchanged."""
    mine = jnp.eye(len(drawn), dtype=bool)[:, :, None]
    return jax.vmap(log_mean_exp)(jnp.where(mine, other[None], drawn[None]))


def pairs_by_sum(key: Key[Array, ""], params: Networks, images: Float[Array, "n side side"], most: int) -> Array:
    """Return the bound of two particles, both numbers of objects summed out."""
    found = table(key, params, images, most, 2)
    weight, log_q = found.log_weight, found.log_q
    bound = jnp.logaddexp(weight[:, None, 0], weight[None, :, 1]) - math.log(2.0)
    return jnp.mean(jnp.sum(jnp.exp(log_q[:, None, 0] + log_q[None, :, 1]) * bound, axis=(0, 1)))


def wake(key: Key[Array, ""], params: Networks, images: Float[Array, "n side side"], most: int) -> Array:
    """Return the wake phases of model and guide by the same two particles."""
    draw_key, noise_key = jr.split(key)
    code = params.encoder.layers.out.out_features // 2
    noise = jr.normal(noise_key, (most, 2 * len(images), 3 + code))
    logits, fit, log_p, log_q = detached_chain(params, jnp.tile(images, (2, 1, 1)), noise)
    number = stop_after(jr.uniform(draw_key, logits.shape) < jax.nn.sigmoid(logits))
    made = jnp.arange(most)[:, None] < number
    tossed = numbers(logits, fit, jnp.where(made, log_p - log_q, 0.0))
    of_guide = read(tossed.log_q, number) + jnp.sum(jnp.where(made, log_q, 0.0), axis=0)
    log_weight = read(tossed.log_weight, number).reshape(2, -1)
    of_model = read(fit, number)  # Up to what has no derivative: where and what are detached.
    share = stop_gradient(jax.nn.softmax(log_weight, axis=0)).reshape(-1)
    return jnp.sum(share * (of_model + of_guide)) / len(images)


def detached_chain(
    params: Networks, images: Float[Array, "n side side"], noise: Float[Array, "steps n latents"]
) -> tuple:
    """Look for all objects; what was drawn has no derivative.

    Returns:
        Logits, fits of each number of objects, log densities of each object's latents in model and guide.
    """
    attention, encoder, side = params.attention, params.encoder, params.side
    features = jax.vmap(lambda image: attention.embed(image.reshape(-1)))(images)
    state = jax.tree.map(lambda leaf: jnp.zeros((len(images), *leaf.shape)), attention.start)
    drawn, canvas = jnp.zeros((len(images), noise.shape[-1])), jnp.zeros_like(images)
    logits, fits, log_ps, log_qs = [], [log_fit(images, canvas)], [], []
    for eps in noise:
        state, logit, (loc, scale) = jax.vmap(attention)(features, drawn, state)
        where = stop_gradient(loc + scale * eps[:, :3])
        patches = jax.vmap(lambda image, where: attend(image, where, encoder.window))(images, where)
        what_loc, what_scale = jax.vmap(encoder)(patches)
        what = stop_gradient(what_loc + what_scale * eps[:, 3:])
        canvas = canvas + jax.vmap(lambda what, where: place(params.decoder(what), where, side))(what, where)
        logits.append(logit)
        fits.append(log_fit(images, canvas))
        log_ps.append(log_normal(where, WHERE, WHERE_SCALE) + log_normal(what, 0.0, jnp.ones(what.shape[1])))
        log_qs.append(log_normal(where, loc, scale) + log_normal(what, what_loc, what_scale))
        drawn = jnp.concatenate([where, what], axis=1)
    return jnp.stack(logits), jnp.stack(fits), jnp.stack(log_ps), jnp.stack(log_qs)


def log_normal(x: Float[Array, "n k"], loc: Array | float, scale: Array) -> Float[Array, " n"]:
    """Return the log density of rows of independent normals."""
    return jnp.sum(-(((x - loc) / scale) ** 2) / 2 - jnp.log(scale) - LOG_2PI / 2, axis=1)
