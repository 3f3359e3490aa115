"""Universal compression of text: a mixture of Markov sources of all orders, as a program.

A Markov source of order k has a distribution of the next symbol for each context of k symbols, each with a symmetric
Dirichlet prior. Integrated over them, the next symbol has probability (count + a) / (total + a A), with counts of what
has followed the context so far: a class of A**k (A - 1) parameters costs no more than that to predict with.
"""

import importlib.resources
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from estimators import enum
from ppl import GenerativeFunction, categorical, gen


def read(characters: int) -> Int[np.ndarray, " n"]:
    """Return descriptions that scikit-learn ships with its data sets, in lower case, as symbols 0 ... A - 1.

    Args:
        characters: How many at most.
    """
    folder = importlib.resources.files("sklearn.datasets.descr")
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".rst")), key=lambda file: file.name)
    described = "".join(file.read_text(encoding="utf-8") for file in files).lower()[:characters]
    alphabet = {symbol: number for number, symbol in enumerate(sorted(set(described)))}
    return np.array([alphabet[symbol] for symbol in described], np.int32)


def contexts(text: Int[np.ndarray, " n"], orders: Sequence[int]) -> Int[np.ndarray, "orders n"]:
    """Number the contexts of each symbol: the k symbols before it, for each order k; fewer at the start."""
    return np.stack([_numbered(text, order) for order in orders])


def _numbered(text: Int[np.ndarray, " n"], order: int) -> Int[np.ndarray, " n"]:
    seen: dict[bytes, int] = {}
    before = (text[max(0, place - order) : place].tobytes() for place in range(len(text)))
    return np.array([seen.setdefault(context, len(seen)) for context in before], np.int32)


def source(alphabet: int, weight: float, orders: int) -> GenerativeFunction:
    """Return a program of texts: an order, every one as likely; then the symbols one by one, from counts.

    Args:
        alphabet: Number A of symbols.
        weight: Dirichlet weight a, positive.
        orders: Number of orders.
    """

    @gen
    def text(params: None, contexts: Int[Array, "orders n"]) -> None:
        """Count what follows each context, and predict with it."""
        order = categorical(jnp.full(orders, 1 / orders)) @ "order"

        def step(counts: Float[Array, "contexts alphabet"], context: Int[Array, ""]):
            row = counts[context] + weight
            symbol = categorical(row / jnp.sum(row)) @ "text"
            return counts.at[context, symbol].add(1.0), None

        jax.lax.scan(step, jnp.zeros((int(contexts.shape[1]), alphabet)), contexts[order])

    return text


@gen
def any_order(log_lengths: Float[Array, " orders"], observed: dict, *inputs) -> None:
    """Guess the order; enumerated, so that what a text costs is exact."""
    categorical(logits=log_lengths, grad=enum()) @ "order"


def log_probs(
    program: GenerativeFunction, text: Int[np.ndarray, " n"], contexts: Int[np.ndarray, "orders n"]
) -> Float[np.ndarray, " orders"]:
    """Return the log probability of a text under each order, in nats."""

    def of_order(order):
        choices = {"order": order, "text": text}
        return program.log_density(choices, None, contexts) + jnp.log(float(len(contexts)))

    return np.asarray(jax.jit(lambda orders: jax.lax.map(of_order, orders))(jnp.arange(len(contexts))), np.float64)
