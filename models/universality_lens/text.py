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


def seen(text: Int[np.ndarray, " n"], orders: Sequence[int]) -> Int[np.ndarray, "orders n alphabet"]:
    """Count, for each order k and place, what has followed the k symbols before it so far; fewer at the start."""
    return np.stack([_followers(text, order) for order in orders])


def _followers(text: Int[np.ndarray, " n"], order: int) -> Int[np.ndarray, "n alphabet"]:
    alphabet, rows = int(text.max()) + 1, {}
    counts = np.zeros((len(text), alphabet), np.uint16)
    for place, symbol in enumerate(text):
        row = rows.setdefault(text[max(0, place - order) : place].tobytes(), np.zeros(alphabet, np.uint16))
        counts[place] = row
        row[symbol] += 1
    return counts


def source(weight: float) -> GenerativeFunction:
    """Return a program of texts: an order, every one as likely; then each symbol, from what it follows.

    Args:
        weight: Dirichlet weight a, positive.
    """

    @gen
    def text(params: None, seen: Int[Array, "orders n alphabet"]) -> None:
        """Predict each symbol by the counts before it."""
        order = categorical(jnp.full(len(seen), 1 / len(seen))) @ "order"
        weights = seen[order] + weight
        categorical(weights / jnp.sum(weights, -1, keepdims=True)) @ "text"

    return text


@gen
def any_order(logits: Float[Array, " orders"], observed: dict, seen: Int[Array, "orders n alphabet"]) -> None:
    """Guess the order; enumerated, so that the certified length of a text is exact."""
    categorical(logits=logits, grad=enum()) @ "order"


def log_probs(
    program: GenerativeFunction, text: Int[np.ndarray, " n"], seen: Int[np.ndarray, "orders n alphabet"]
) -> Float[np.ndarray, " orders"]:
    """Return the log probability of a text under each order, in nats."""

    @jax.jit
    def under(order: Int[Array, ""], text: Int[Array, " n"], seen: Int[Array, "orders n alphabet"]):
        return program.log_density({"order": order, "text": text}, None, seen) + jnp.log(float(len(seen)))

    return np.array([under(jnp.int32(order), text, seen) for order in range(len(seen))], np.float64)
