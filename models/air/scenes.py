"""The model of a scene and its guide: objects are added while there is another one."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from models.air.networks import WHERE, WHERE_SCALE, Networks
from models.air.windows import attend, place
from ppl import bernoulli, gen, normal

PIXEL_SCALE = 0.3
ANOTHER = 0.5
"""Prior probability of another object, after each."""


@gen
def model(params: Networks, most: int):
    """Draw objects one after the other onto a canvas, as long as there is another and there are at most so many."""

    def attempt(canvas):
        present = bernoulli(ANOTHER) @ "present"

        def draw(canvas):
            where = normal(WHERE, WHERE_SCALE) @ "where"
            what = normal(jnp.zeros(params.encoder.layers.out.out_features // 2), 1.0) @ "what"
            return canvas + place(params.decoder(what), where, params.side)

        return present, jax.lax.cond(present == 1, draw, lambda canvas: canvas, canvas)

    def step(carry, _):
        alive, canvas = carry
        return jax.lax.cond(alive == 1, attempt, lambda canvas: (jnp.int32(0), canvas), canvas), None

    start = jnp.int32(1), jnp.zeros((params.side, params.side))
    (_, canvas), _ = jax.lax.scan(step, start, None, length=most)
    normal(canvas, PIXEL_SCALE) @ "image"
    return canvas


@gen
def guide(params: Networks, observed: dict, most: int):
    """Look for objects one after the other: is there another, where, and what does it look like."""
    image: Float[Array, "side side"] = observed["image"]
    attention, encoder = params.attention, params.encoder
    features = attention.embed(image.reshape(-1))
    nothing = jnp.zeros(3), jnp.zeros(encoder.layers.out.out_features // 2)

    def attempt(carry):
        state, where, what = carry
        state, logit, place_of = attention(features, jnp.concatenate([where, what]), state)
        present = bernoulli(logits=logit) @ "present"

        def look():
            where = normal(*place_of) @ "where"
            what = normal(*encoder(attend(image, where, encoder.window))) @ "what"
            return where, what

        return present, (state, *jax.lax.cond(present == 1, look, lambda: nothing))

    def step(carry, _):
        alive, found = carry
        return jax.lax.cond(alive == 1, attempt, lambda found: (jnp.int32(0), found), found), None

    jax.lax.scan(step, (jnp.int32(1), (attention.start, *nothing)), None, length=most)
