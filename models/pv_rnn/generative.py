"""Model, guide and objective of PV-RNN: one step, taken with latents of the prior or of the posterior."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree
from numpyro.distributions import Normal, kl_divergence

from models.pv_rnn.codes import Code, Direct
from models.pv_rnn.networks import Encoder, Gaussian, Network, State
from ppl import assess, gen, normal, simulate


class Parameters(eqx.Module):
    """The parameters of model and guide.

    Args:
        network: What both share.
        adaptive: The vectors A: of every sequence and step, of one sequence, or an encoder that makes them of a
            sequence.
        code: How numbers are observed.
    """

    network: Network
    adaptive: Float[Array, "sequences steps vector"] | Float[Array, "steps vector"] | Encoder
    code: Code = Direct()

    def of(self, row: Int[Array, ""]) -> "Parameters":
        """Return the parameters of one sequence; an encoder serves them all.

        Raises:
            ValueError: If the table has no such row: a sequence that was not trained on is for the prior, or for error
                regression. Where the row is not known before the program runs, its vectors are NaN.
        """
        if callable(self.adaptive):
            return self
        number = len(self.adaptive)
        if not isinstance(row, jax.core.Tracer) and not 0 <= row < number:
            raise ValueError(f"the table has adaptive vectors of {number} sequences, but none at index {row}.")
        row = jnp.where(row < 0, number, row)  # a negative index would count from the end
        vectors = self.adaptive.at[row].get(mode="fill", fill_value=jnp.nan)
        return Parameters(self.network, vectors, self.code)


class Steps(NamedTuple):
    """What a guide's run leaves, step by step: prior and posterior of the latents, and the states after it."""

    prior: list[Gaussian]
    posterior: list[Gaussian]
    states: State


def step(network: Network, state: State, laws: Sequence[Gaussian]) -> State:
    """Draw the latents of every layer, and go one step on."""
    z = [normal(loc, scale) @ f"z{k}" for k, (loc, scale) in enumerate(laws, start=1)]
    return network.advance(state, z)


@gen
def model(params: Parameters, start: State, length: int):
    """Let latents come from the prior; observe the fastest layer. Return the expected outputs."""
    network = params.network

    def body(state: State, _):
        state = step(network, state, network.prior(state))
        return state, state

    _, states = jax.lax.scan(body, start, None, length=length)
    return emission.inline(params, states)


@gen
def emission(params: Parameters, states: State):
    """Observe the outputs of states; return their means."""
    outputs = jax.vmap(params.network.read)(states)
    params.code.observe(outputs)
    return params.code.mean(outputs)


@gen
def guide(params: Parameters, observed: Mapping, start: State, length: int):
    """Let latents come from the posterior: the model's own step, with the adaptive vectors of a sequence."""
    network = params.network
    adaptive = params.adaptive(observed["x"]) if callable(params.adaptive) else params.adaptive
    if adaptive.shape[0] != length:
        raise ValueError(f"the adaptive vectors are for {adaptive.shape[0]} steps, but the sequence has {length}.")

    def body(state: State, vector: Float[Array, " vector"]):
        prior, posterior = network.prior(state), network.posterior(state, vector)
        state = step(network, state, posterior)
        return state, Steps(prior, posterior, state)

    return jax.lax.scan(body, start, adaptive)[1]


def divergences(steps: Steps) -> list[Float[Array, "steps z"]]:
    """Return KL(q, p) of every latent of every step, layer by layer, in closed form given the path."""
    pairs = zip(steps.posterior, steps.prior, strict=True)
    return [kl_divergence(Normal(*q, validate_args=False), Normal(*p, validate_args=False)) for q, p in pairs]


def meta_prior(
    latents: Sequence[int], outputs: int, length: int, meta: Sequence, first: Sequence | None = None
) -> dict[str, Float[Array, "steps 1"] | float]:
    """Return the weights of all choices: w_k / Z_k of the latents of layer k, 1 / X of the outputs.

    Args:
        latents: Z_k.
        outputs: X, numbers observed in a step.
        length: Number of steps.
        meta: The meta-prior w_k of every layer.
        first: Another one for the first step, where the prior is the standard normal.

    Raises:
        ValueError: If a meta-prior is negative or there is not one for each layer.
    """
    first = meta if first is None else first
    for weights in (meta, first):
        if len(weights) != len(latents):
            raise ValueError(f"there are {len(latents)} layers, but the meta-prior is {tuple(weights)}.")
        for weight in weights:
            if not isinstance(weight, jax.core.Tracer) and not weight >= 0:
                raise ValueError(f"a meta-prior must not be negative, got w = {weight}.")
    found: dict = {"x": 1 / outputs}
    for k, (size, rest, start) in enumerate(zip(latents, meta, first, strict=True), start=1):
        found[f"z{k}"] = jnp.where(jnp.arange(length)[:, None] == 0, start / size, rest / size)
    return found


def free_energy(weights: Mapping[str, Float[Array, "steps 1"] | float]) -> Callable[..., Float[Array, ""]]:
    """Make the paper's objective: E_q sum_t { w_x log p(x_t | d_t) - sum_k w_k KL(q, p) }, with KL in closed form.

    Its mean is that of `elbo(model, guide, weights)`, where KL is a difference of log densities; and it runs the
    network once, not for the guide and again for the model.
    """

    def objective(params: Parameters, observed: Mapping, start: State, length: int) -> Float[Array, ""]:
        steps = simulate(guide)(params, observed, start, length).retval
        fit, _ = assess(emission, {"x": weights["x"]})({"x": observed["x"]}, params, steps.states)
        costs = [jnp.sum(weights[f"z{k}"] * kl) for k, kl in enumerate(divergences(steps), start=1)]
        return fit - sum(costs)

    return objective


def of_sequences(objective: Callable, params: Parameters, rows: Int[Array, " n"], x: Array) -> Float[Array, " n"]:
    """Map an objective of one sequence, from rest, over sequences of which `rows` says where their vectors are."""
    start, length = params.network.start(), x.shape[1]
    return jax.vmap(lambda row, x: objective(params.of(row), {"x": x}, start, length))(rows, x)


def only_adaptive(params: Parameters) -> PyTree:
    """Say that nothing but the adaptive vectors is trained: `trainable` of error regression."""
    fixed = jax.tree.map(lambda _: False, params)
    return eqx.tree_at(lambda tree: tree.adaptive, fixed, True)
