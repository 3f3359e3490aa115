"""Linear maps without biases, for centred data, and networks of one hidden layer in their places."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Key

INITIAL = 0.1
"""Standard deviation of initial matrices, as the authors have it: all zeros are a saddle."""


class Linear(eqx.Module):
    """A matrix."""

    matrix: Float[Array, "outs ins"]

    def __init__(self, ins: int, outs: int, key: Key[Array, ""]):
        self.matrix = INITIAL * jr.normal(key, (outs, ins))

    def __call__(self, x: Float[Array, " ins"]) -> Float[Array, " outs"]:
        """Return the product."""
        return self.matrix @ x


def relu(ins: int, outs: int, hidden: int, key: Key[Array, ""]) -> eqx.nn.MLP:
    """Return a network with one hidden layer of rectified units."""
    return eqx.nn.MLP(ins, outs, hidden, 1, jax.nn.relu, key=key)


class Shared(eqx.Module):
    """A Gaussian with a mean by a map, and one vector of scales for all data.

    Args:
        loc: The map.
        scale: Initial scale.
        size: Number of latents.
    """

    loc: eqx.Module
    log_scale: Float[Array, " latents"]

    def __init__(self, loc: eqx.Module, scale: float, size: int):
        self.loc, self.log_scale = loc, jnp.full(size, jnp.log(scale))

    def __call__(self, *inputs: Float[Array, " ins"]) -> tuple[Array, Array]:
        """Return location and scale."""
        return self.loc(jnp.concatenate(inputs)), jnp.exp(self.log_scale)


class Amortised(eqx.Module):
    """A Gaussian with mean and scale by networks, one path for each input; their outputs are added."""

    paths: tuple[eqx.nn.MLP, ...]

    def __init__(self, ins: tuple[int, ...], size: int, hidden: int, key: Key[Array, ""]):
        keys = jr.split(key, len(ins))
        self.paths = tuple(relu(n, 2 * size, hidden, key) for n, key in zip(ins, keys, strict=True))

    def __call__(self, *inputs: Float[Array, " ins"]) -> tuple[Array, Array]:
        """Return location and scale; the scale starts near 1."""
        found = sum(path(x) for path, x in zip(self.paths, inputs, strict=True))
        loc, raw = jnp.split(found, 2)
        return loc, jax.nn.softplus(raw + 0.5413) + 1e-4


class Networks(eqx.Module):
    """What a program reads: maps by role.

    Attributes:
        decoder: From the (first) latents to the observation.
        encoder: From the data to location and scale of the (first) latents.
        direct: From the inputs to the observation, in conditional programs.
        top: From the second latents to the mean of the first, in hierarchies.
        upper: From the first latents to location and scale of the second, in hierarchies.
    """

    decoder: eqx.Module
    encoder: eqx.Module
    direct: eqx.Module | None = None
    top: eqx.Module | None = None
    upper: eqx.Module | None = None


def linear(
    pixels: int, latents: int, key: Key[Array, ""], *, inputs: int = 0, hierarchy: bool = False, fixed: float = 0.5
) -> Networks:
    """Draw the matrices of a linear program.

    Args:
        pixels: Length of the observation.
        latents: Of each level.
        key: A key.
        inputs: Length of the input of a conditional program.
        hierarchy: Whether there is a second level.
        fixed: Initial scale of the first latents in the guide; in a hierarchy it is not trained (`trainable`).
    """
    keys = jr.split(key, 5)
    return Networks(
        decoder=Linear(latents, pixels, keys[0]),
        encoder=Shared(Linear(inputs + pixels, latents, keys[1]), fixed, latents),
        direct=Linear(inputs, pixels, keys[2]) if inputs else None,
        top=Linear(latents, latents, keys[3]) if hierarchy else None,
        upper=Shared(Linear(latents, latents, keys[4]), 1.0, latents) if hierarchy else None,
    )


def trainable(params: Networks) -> Networks:
    """Say what of a linear program is trained: all, but for the first scales of a hierarchy."""
    flags = jax.tree.map(lambda _: True, params)
    return flags if params.upper is None else eqx.tree_at(lambda tree: tree.encoder.log_scale, flags, False)


def nonlinear(
    pixels: int, latents: int, hidden: int, key: Key[Array, ""], *, inputs: int = 0, hierarchy: bool = False
) -> Networks:
    """Draw networks with one hidden layer for each path."""
    keys = jr.split(key, 5)
    ins = (inputs, pixels) if inputs else (pixels,)
    return Networks(
        decoder=relu(latents, pixels, hidden, keys[0]),
        encoder=Amortised(ins, latents, hidden, keys[1]),
        direct=relu(inputs, pixels, hidden, keys[2]) if inputs else None,
        top=relu(latents, latents, hidden, keys[3]) if hierarchy else None,
        upper=Amortised((latents,), latents, hidden, keys[4]) if hierarchy else None,
    )
