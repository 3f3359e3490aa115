"""Which examples each step sees: every epoch shuffled without replacement."""

import math

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Int, Key

# Step s draws from fold_in(key, s), and no step has this number: shuffling and steps never share a key.
_SHUFFLES = np.uint32(2**32 - 1)


class Batches:
    r"""The rows of `data` that each step gathers, a function of the key and the step alone.

    Epoch e visits the examples in the order of a permutation drawn from its own key, cut into `size // batch_size`
    whole batches. The remainder is dropped: other examples every epoch, so each batch is a uniform subset.
    """

    def __init__(self, key: Key[Array, ""], size: int, batch_size: int, length: int):
        self._per_epoch = size // batch_size
        self._length = length
        self._first, self._rows = 0, None
        num_epochs = math.ceil((self._per_epoch - 1 + length) / self._per_epoch)
        shuffle_key = jr.fold_in(key, _SHUFFLES)

        def order(epoch):
            permutation = jr.permutation(jr.fold_in(shuffle_key, epoch), size)
            return permutation[: self._per_epoch * batch_size].reshape(-1, batch_size)

        # `map`, not `vmap`: some key implementations draw other numbers when they are batched.
        self._orders = jax.jit(lambda epoch: jnp.concatenate(jax.lax.map(order, epoch + jnp.arange(num_epochs))))

    def rows(self, start: int) -> tuple[Int[Array, "block batch"], int]:
        """Return rows for at least the steps from `start` to the end of its chunk, and the step of the first of them.

        A block is kept until a chunk runs past it, so that long epochs are not sorted again in every chunk.
        """
        if self._rows is None or not self._first <= start <= self._first + len(self._rows) - self._length:
            epoch = start // self._per_epoch
            self._first, self._rows = epoch * self._per_epoch, self._orders(epoch)
        return self._rows, self._first
