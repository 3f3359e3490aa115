"""The deterministic part of PV-RNN: recurrent layers with time constants, and the heads of prior and posterior."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Float, Key

Coupling = Literal["bidirectional", "topdown"]
Form = Literal["adaptive", "free"]

LOWEST, HIGHEST = -7.0, 4.0
"""Where the logarithm of a scale is cut off: early in training it would overflow."""


class Gaussian(NamedTuple):
    """Location and scale of the latents of one layer."""

    loc: Float[Array, "*batch z"]
    scale: Float[Array, "*batch z"]


class State(NamedTuple):
    """What is handed from step to step: the potentials h of every layer, and whether the first step is over."""

    potentials: tuple[Float[Array, " d"], ...]
    begun: Bool[Array, ""]


class Sizes(NamedTuple):
    """Units, latents and time constants of every layer, the fastest first; only that one is read out."""

    units: tuple[int, ...]
    latents: tuple[int, ...]
    taus: tuple[float, ...]

    def check(self) -> None:
        """Raise unless all layers are described and their time constants are possible."""
        if not len(self.units) == len(self.latents) == len(self.taus):
            raise ValueError(f"units, latents and taus must describe as many layers each, got {tuple(self)}.")
        for tau in self.taus:
            if not tau >= 1:
                raise ValueError(f"a time constant must be at least 1 (an Elman network), got tau = {tau}.")


class Layer(eqx.Module):
    """One layer: h = (1 - 1 / tau) h + (W d + V z + input from its neighbours + b) / tau, and its Gaussian heads."""

    recurrent: eqx.nn.Linear
    latent: eqx.nn.Linear
    above: eqx.nn.Linear | None
    below: eqx.nn.Linear | None
    prior: eqx.nn.Linear
    posterior: eqx.nn.Linear | None
    """The posterior's own weights U (the form of 2019); without them it is made of adaptive vectors alone."""
    tau: float = eqx.field(static=True)

    def __init__(self, sizes: Sizes, layer: int, coupling: Coupling, form: Form, key: Key[Array, ""]):
        keys = jr.split(key, 6)
        units, latents, self.tau = sizes.units[layer], sizes.latents[layer], sizes.taus[layer]
        into = lambda size, key: eqx.nn.Linear(size, units, use_bias=False, key=key)
        top, bottom = layer == len(sizes.units) - 1, layer == 0 or coupling == "topdown"
        self.recurrent = eqx.nn.Linear(units, units, key=keys[0])
        self.latent = into(latents, keys[1])
        self.above = None if top else into(sizes.units[layer + 1], keys[2])
        self.below = None if bottom else into(sizes.units[layer - 1], keys[3])
        self.prior = eqx.nn.Linear(units, 2 * latents, key=keys[4])
        self.posterior = eqx.nn.Linear(units, 2 * latents, key=keys[5]) if form == "adaptive" else None


class Network(eqx.Module):
    """All layers and the readout.

    Args:
        sizes: Of the layers.
        outputs: Numbers that are read out of the fastest layer in every step.
        key: Of the initial weights.
        coupling: "bidirectional": a layer hears both neighbours, as they were one step ago (2019). "topdown": it hears
            the slower one, of this step (Idei et al. 2022).
        form: Of the posterior; "adaptive": network and adaptive vectors (2019), "free": adaptive vectors alone.
        squash: What makes activities d of potentials h.
        centre: What makes locations of latents of what the heads give: tanh, so they lie between -1 and 1.
        readout: What makes outputs of what the output layer gives.

    Raises:
        ValueError: If the sizes do not fit together, or a time constant is less than 1.
    """

    layers: tuple[Layer, ...]
    output: eqx.nn.Linear
    coupling: Coupling = eqx.field(static=True)
    squash: Callable = eqx.field(static=True)
    centre: Callable = eqx.field(static=True)
    readout: Callable = eqx.field(static=True)

    def __init__(
        self,
        sizes: Sizes,
        outputs: int,
        key: Key[Array, ""],
        *,
        coupling: Coupling = "bidirectional",
        form: Form = "adaptive",
        squash: Callable = jnp.tanh,
        centre: Callable = jnp.tanh,
        readout: Callable = jnp.tanh,
    ):
        sizes.check()
        output_key, *keys = jr.split(key, len(sizes.units) + 1)
        self.layers = tuple(Layer(sizes, k, coupling, form, key) for k, key in enumerate(keys))
        self.output = eqx.nn.Linear(sizes.units[0], outputs, key=output_key)
        self.coupling, self.squash, self.centre, self.readout = coupling, squash, centre, readout

    @property
    def latents(self) -> tuple[int, ...]:
        """Return the number of latents of every layer."""
        return tuple(layer.latent.in_features for layer in self.layers)

    def start(self) -> State:
        """Return the state before the first step: h = d = 0."""
        return State(tuple(jnp.zeros(layer.recurrent.in_features) for layer in self.layers), jnp.array(False))

    def activities(self, state: State) -> tuple[Float[Array, " d"], ...]:
        """Return d of every layer."""
        return tuple(map(self.squash, state.potentials))

    def prior(self, state: State) -> list[Gaussian]:
        """Return p(z | d of the step before): a standard normal in the first step."""
        found = [self._gaussian(head) for head in self.prior_heads(state)]
        return [Gaussian(jnp.where(state.begun, loc, 0.0), jnp.where(state.begun, scale, 1.0)) for loc, scale in found]

    def posterior(self, state: State, adaptive: Float[Array, " vector"]) -> list[Gaussian]:
        """Return q(z | d of the step before, A of this step)."""
        vectors = split(adaptive, self.latents)
        return [self._gaussian(head + a) for head, a in zip(self.posterior_heads(state), vectors, strict=True)]

    def prior_heads(self, state: State) -> list[Float[Array, " 2z"]]:
        """Return what location and log scale of the prior are made of."""
        return [layer.prior(d) for layer, d in zip(self.layers, self.activities(state), strict=True)]

    def posterior_heads(self, state: State) -> list[Float[Array, " 2z"]]:
        """Return what the network adds to the adaptive vectors."""
        pairs = zip(self.layers, self.activities(state), self.latents, strict=True)
        return [layer.posterior(d) if layer.posterior else jnp.zeros(2 * size) for layer, d, size in pairs]

    def as_prior(self, state: State) -> Float[Array, " vector"]:
        """Return the adaptive vector with which the posterior is the prior; a standard normal is head 0."""
        heads = [jnp.where(state.begun, head, 0.0) for head in self.prior_heads(state)]
        return jnp.concatenate([p - q for p, q in zip(heads, self.posterior_heads(state), strict=True)])

    def advance(self, state: State, z: Sequence[Float[Array, " z"]]) -> State:
        """Return the state after a step with these latents, computed from the slowest layer to the fastest."""
        old, new = self.activities(state), [jnp.zeros(0)] * len(self.layers)
        for k, layer in reversed([*enumerate(self.layers)]):
            drive = layer.recurrent(old[k]) + layer.latent(z[k])
            if layer.above is not None:
                drive += layer.above(self.squash(new[k + 1]) if self.coupling == "topdown" else old[k + 1])
            if layer.below is not None:
                drive += layer.below(old[k - 1])
            new[k] = (1 - 1 / layer.tau) * state.potentials[k] + drive / layer.tau
        return State(tuple(new), jnp.array(True))

    def read(self, state: State) -> Float[Array, " outputs"]:
        """Return the output of a step, made from the fastest layer."""
        return self.readout(self.output(self.squash(state.potentials[0])))

    def _gaussian(self, head: Float[Array, " 2z"]) -> Gaussian:
        loc, log_scale = jnp.split(head, 2)
        return Gaussian(self.centre(loc), jnp.exp(jnp.clip(log_scale, LOWEST, HIGHEST)))


class Encoder(eqx.Module):
    """A recurrent network that makes adaptive vectors of a sequence: the posterior of a variational RNN.

    Args:
        inputs: Numbers in every step of the sequence.
        hidden: Units.
        latents: Of all layers together.
        key: Of the initial weights.
        backward: Whether it reads the sequence from its end: the vector of a step then knows what comes.
    """

    cell: eqx.nn.GRUCell
    head: eqx.nn.Linear
    backward: bool = eqx.field(static=True)

    def __init__(self, inputs: int, hidden: int, latents: int, key: Key[Array, ""], *, backward: bool = False):
        cell_key, head_key = jr.split(key)
        self.cell = eqx.nn.GRUCell(inputs, hidden, key=cell_key)
        self.head = eqx.nn.Linear(hidden, 2 * latents, key=head_key)
        self.backward = backward

    def __call__(self, x: Float[Array, "steps ..."]) -> Float[Array, "steps vector"]:
        """Return a vector for each step."""
        step = lambda h, x: (self.cell(x.ravel(), h),) * 2
        _, found = jax.lax.scan(step, jnp.zeros(self.cell.hidden_size), x, reverse=self.backward)
        return jax.vmap(self.head)(found)


def split(adaptive: Float[Array, " vector"], latents: Sequence[int]) -> list[Float[Array, " 2z"]]:
    """Part an adaptive vector by layers: for each, what is added to the heads of location and log scale."""
    ends = [2 * sum(latents[: k + 1]) for k in range(len(latents))]
    return jnp.split(adaptive, ends[:-1])


def width(latents: Sequence[int]) -> int:
    """Return the length of an adaptive vector."""
    return 2 * sum(latents)
