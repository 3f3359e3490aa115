"""The networks: what a digit looks like, and what to look at next."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Key

WHERE = jnp.array([math.log(3.0), 0.0, 0.0])
"""Prior mean of log shrink, row and column: a window takes about a third of the canvas along each axis."""
WHERE_SCALE = jnp.array([0.1 / 3.0, 1.0, 1.0])


class Layers(eqx.Module):
    """Two affine maps with a softplus between them."""

    hidden: eqx.nn.Linear
    out: eqx.nn.Linear

    def __init__(self, inputs: int, hidden: int, outputs: int, key: Key[Array, ""]):
        first, second = jr.split(key)
        self.hidden = eqx.nn.Linear(inputs, hidden, key=first)
        self.out = eqx.nn.Linear(hidden, outputs, key=second)

    def __call__(self, inputs: Float[Array, " inputs"]) -> Float[Array, " outputs"]:
        """Map one vector."""
        return self.out(jax.nn.softplus(self.hidden(inputs)))


class Decoder(eqx.Module):
    """What an object looks like: its code to the pixels of its window."""

    layers: Layers
    window: int = eqx.field(static=True)

    def __init__(self, code: int, hidden: int, window: int, key: Key[Array, ""]):
        self.layers = Layers(code, hidden, window**2, key)
        self.window = window

    def __call__(self, what: Float[Array, " code"]) -> Float[Array, "window window"]:
        """Return intensities between 0 and 1; without training they are dark."""
        return jax.nn.sigmoid(self.layers(what) - 2.0).reshape(self.window, self.window)


class Encoder(eqx.Module):
    """What is seen in a window: its pixels to location and scale of the code."""

    layers: Layers
    window: int = eqx.field(static=True)

    def __init__(self, code: int, hidden: int, window: int, key: Key[Array, ""]):
        self.layers = Layers(window**2, hidden, 2 * code, key)
        self.window = window

    def __call__(self, patch: Float[Array, "window window"]) -> tuple[Float[Array, " code"], Float[Array, " code"]]:
        """Return location and scale."""
        loc, scale = jnp.split(self.layers(patch.reshape(-1)), 2)
        return loc, jax.nn.softplus(scale)


class Attention(eqx.Module):
    """Where to look next: a recurrent network that sees the image and what was found before."""

    embed: eqx.nn.Linear
    cell: eqx.nn.LSTMCell
    predict: Layers

    def __init__(self, pixels: int, code: int, recurrent: int, hidden: int, key: Key[Array, ""]):
        embed_key, cell_key, predict_key = jr.split(key, 3)
        self.embed = eqx.nn.Linear(pixels, recurrent, key=embed_key)
        self.cell = eqx.nn.LSTMCell(recurrent + 3 + code, recurrent, key=cell_key)
        predict = Layers(recurrent, hidden, 7, predict_key)
        self.predict = eqx.tree_at(lambda layers: layers.out.weight, predict, predict.out.weight * 0.1)

    @property
    def start(self) -> tuple[Float[Array, " recurrent"], Float[Array, " recurrent"]]:
        """Return the state before the first step."""
        return jnp.zeros(self.cell.hidden_size), jnp.zeros(self.cell.hidden_size)

    def __call__(
        self, features: Float[Array, " recurrent"], found: Float[Array, " found"], state: tuple[Array, Array]
    ) -> tuple[tuple[Array, Array], Float[Array, ""], tuple[Float[Array, "3"], Float[Array, "3"]]]:
        """Return the new state, the logit of another object, and location and scale of its place."""
        state = self.cell(jnp.concatenate([features, found]), state)
        out = self.predict(state[0])
        return state, out[0], (WHERE + out[1:4], WHERE_SCALE * jax.nn.softplus(out[4:7]) / jnp.log(2.0))


class Networks(eqx.Module):
    """The parameters of model and guide.

    Args:
        side: Pixels along a canvas.
        window: Pixels along a window.
        code: Numbers that describe what an object looks like.
        recurrent: Units of the recurrent network.
        hidden: Units of each other hidden layer.
        key: Of the initial weights.
    """

    decoder: Decoder
    encoder: Encoder
    attention: Attention
    side: int = eqx.field(static=True)

    def __init__(self, side: int, window: int, code: int, recurrent: int, hidden: int, key: Key[Array, ""]):
        decoder_key, encoder_key, attention_key = jr.split(key, 3)
        self.decoder = Decoder(code, hidden, window, decoder_key)
        self.encoder = Encoder(code, hidden, window, encoder_key)
        self.attention = Attention(side**2, code, recurrent, hidden, attention_key)
        self.side = side
