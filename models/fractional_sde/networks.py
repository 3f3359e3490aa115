"""The networks of the video model: small ones of dense layers, and the paper's convolutions."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Key

from models.fractional_sde.process import State


def tanh_network(inputs: int, width: int, outputs: int, key: Key[Array, ""], *, still: bool = False) -> eqx.nn.MLP:
    """Return two hidden layers of tanh; with a last layer of zeros if it is to begin at zero."""
    network = eqx.nn.MLP(inputs, outputs, width, 2, jnp.tanh, key=key)
    last = lambda network: (network.layers[-1].weight, network.layers[-1].bias)
    return eqx.tree_at(last, network, jax.tree.map(jnp.zeros_like, last(network))) if still else network


class Drift(eqx.Module):
    """b(X), the same at all times."""

    network: eqx.nn.MLP

    def __call__(self, t: Array, x: Float[Array, " d"]) -> Float[Array, " d"]:
        """Return the drift."""
        return self.network(x)


class Diffusion(eqx.Module):
    """s(X), whose d-th component is a network of X_d alone: so the noise commutes, as Milstein's scheme needs."""

    networks: eqx.nn.MLP

    def __init__(self, dimension: int, width: int, key: Key[Array, ""]):
        self.networks = eqx.filter_vmap(lambda key: tanh_network(1, width, 1, key))(jr.split(key, dimension))

    def __call__(self, t: Array, x: Float[Array, " d"]) -> Float[Array, " d"]:
        """Return the positive scales."""
        each = eqx.filter_vmap(lambda network, x: network(x[None])[0])
        return jax.nn.softplus(each(self.networks, x))


class Control(eqx.Module):
    """u(X, Y, context), and log r if it is asked for: zero before training."""

    network: eqx.nn.MLP
    ratio: bool = eqx.field(static=True)

    def __init__(self, dimension: int, number: int, context: int, width: int, key: Key[Array, ""], *, ratio: bool):
        inputs = dimension * (1 + number) + context
        self.network = tanh_network(inputs, width, 2 * dimension if ratio else dimension, key, still=True)
        self.ratio = ratio

    def __call__(self, t: Array, state: State, known: Float[Array, " c"]) -> tuple[Array, Array]:
        """Return u and log r."""
        out = self.network(jnp.concatenate([state.x, state.y.ravel(), known]))
        u, log_ratio = jnp.split(out, 2) if self.ratio else (out, jnp.zeros_like(state.x))
        return u, log_ratio


class DenseFrames(eqx.Module):
    """A frame to features, by two dense layers."""

    network: eqx.nn.MLP

    def __init__(self, side: int, features: int, key: Key[Array, ""]):
        self.network = eqx.nn.MLP(side**2, features, 2 * features, 1, jax.nn.silu, jax.nn.silu, key=key)

    def __call__(self, frame: Float[Array, "side side"]) -> Float[Array, " features"]:
        """Read a frame."""
        return self.network(frame.ravel())


class DenseImages(eqx.Module):
    """Content and X to a frame, by two dense layers."""

    network: eqx.nn.MLP
    side: int = eqx.field(static=True)

    def __init__(self, side: int, features: int, content: int, dimension: int, key: Key[Array, ""]):
        self.network = eqx.nn.MLP(content + dimension, side**2, 2 * features, 2, jax.nn.silu, jax.nn.sigmoid, key=key)
        self.side = side

    def __call__(self, content: Float[Array, " c"], x: Float[Array, " d"]) -> Float[Array, "side side"]:
        """Draw a frame."""
        return self.network(jnp.concatenate([content, x])).reshape(self.side, self.side)


class ConvolutionalFrames(eqx.Module):
    """A frame to features: four times convolution, pooling, normalisation in 8 groups, silu; then a dense layer."""

    convolutions: list[eqx.nn.Conv2d]
    norms: list[eqx.nn.GroupNorm]
    out: eqx.nn.Linear

    def __init__(self, side: int, features: int, key: Key[Array, ""]):
        channels = [1, features, 2 * features, 4 * features, 4 * features]
        *keys, out_key = jr.split(key, 5)
        pairs = zip(channels[:-1], channels[1:], keys, strict=True)
        self.convolutions = [eqx.nn.Conv2d(i, o, 3, padding=1, key=key) for i, o, key in pairs]
        self.norms = [eqx.nn.GroupNorm(8, channel) for channel in channels[1:]]
        self.out = eqx.nn.Linear(channels[-1] * (side // 16) ** 2, features, key=out_key)

    def __call__(self, frame: Float[Array, "side side"]) -> Float[Array, " features"]:
        """Read a frame."""
        pool, hidden = eqx.nn.MaxPool2d(2, 2), frame[None]
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            hidden = jax.nn.silu(norm(pool(convolution(hidden))))
        return self.out(hidden.ravel())


class ConvolutionalImages(eqx.Module):
    """Content and X to a frame: a dense layer; four times convolution, normalisation, doubling, silu; two more."""

    dense: eqx.nn.Linear
    convolutions: list[eqx.nn.Conv2d]
    norms: list[eqx.nn.GroupNorm]
    last: list[eqx.nn.Conv2d]
    shape: tuple[int, int, int] = eqx.field(static=True)

    def __init__(self, side: int, features: int, content: int, dimension: int, key: Key[Array, ""]):
        channels = [4 * features, 4 * features, 2 * features, features, features]
        dense_key, *keys = jr.split(key, 7)
        self.shape = channels[0], side // 16, side // 16
        self.dense = eqx.nn.Linear(content + dimension, channels[0] * (side // 16) ** 2, key=dense_key)
        pairs = zip(channels[:-1], channels[1:], keys[:4], strict=True)
        self.convolutions = [eqx.nn.Conv2d(i, o, 3, padding=1, key=key) for i, o, key in pairs]
        self.norms = [eqx.nn.GroupNorm(8, channel) for channel in channels[1:]]
        between = eqx.nn.Conv2d(features, features, 3, padding=1, key=keys[4])
        self.last = [between, eqx.nn.Conv2d(features, 1, 3, padding=1, key=keys[5])]

    def __call__(self, content: Float[Array, " c"], x: Float[Array, " d"]) -> Float[Array, "side side"]:
        """Draw a frame."""
        hidden = self.dense(jnp.concatenate([content, x])).reshape(self.shape)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            hidden = norm(convolution(hidden))
            hidden = jax.nn.silu(jnp.repeat(jnp.repeat(hidden, 2, axis=1), 2, axis=2))
        return jax.nn.sigmoid(self.last[1](jax.nn.silu(self.last[0](hidden))))[0]


class Inference(eqx.Module):
    """Features of all frames to a context for each, and to the mean and log scale of X(0).

    The context is a temporal convolution of width 3, silu, and one more; X(0) looks at it and at three frames.
    """

    first: eqx.nn.Conv1d
    second: eqx.nn.Conv1d
    start: eqx.nn.MLP

    def __init__(self, features: int, dimension: int, key: Key[Array, ""]):
        first_key, second_key, start_key = jr.split(key, 3)
        self.first = eqx.nn.Conv1d(features, features, 3, padding=1, key=first_key)
        self.second = eqx.nn.Conv1d(features, features, 3, padding=1, key=second_key)
        self.start = eqx.nn.MLP(4 * features, 2 * dimension, 2 * features, 1, jax.nn.silu, key=start_key)

    def __call__(self, features: Float[Array, "t f"]) -> tuple[Float[Array, "t f"], Float[Array, " d"], Array]:
        """Return the context, and mean and log scale of X(0)."""
        context = self.second(jax.nn.silu(self.first(features.T))).T
        seen = jnp.concatenate([context[0], *features[:3]])
        loc, log_scale = jnp.split(self.start(seen), 2)
        return context, loc, log_scale


class Content(eqx.Module):
    """What does not move: the median of the features over time, through two dense layers."""

    network: eqx.nn.MLP

    def __init__(self, features: int, content: int, key: Key[Array, ""]):
        self.network = eqx.nn.MLP(features, content, features, 1, jax.nn.silu, key=key)

    def __call__(self, features: Float[Array, "t f"]) -> Float[Array, " c"]:
        """Return the content."""
        return self.network(jnp.median(features, axis=0))
