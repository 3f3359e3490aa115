"""Keys that are hashes already: the noise of one number is read off, without another round of the generator.

The key of a choice is folded from the program's key, so it is as random as what a generator would make of it. A scalar
choice takes its bits from the key itself, which halves the work of a loop of scalar choices; larger draws, and samplers
that split their key, use it as any other key.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.random import define_prng_impl

NAME = "hashed_threefry"
TAG = "hashed"


def hashed(key: Any) -> Any:
    """Mark a key as one that has been folded, and of which nothing else will be drawn; other generators' stay.

    Example:
        >>> import jax
        >>> key = jax.random.fold_in(jax.random.key(0), 1)
        >>> first, second = jax.random.key_data(key)
        >>> bool(jax.random.bits(hashed(key), dtype="uint32") == first ^ second)
        True
        >>> bool((jax.random.bits(hashed(key), (3,)) == jax.random.bits(key, (3,))).all())
        True
    """
    if str(jax.random.key_impl(key)) not in ("threefry2x32", "fry"):
        return key
    return jax.random.wrap_key_data(jax.random.key_data(key), impl=_implementation())


def is_read_off(eqn) -> bool:
    """Tell whether an equation takes one number from such a key: no round of the generator."""
    dtype, shape = eqn.invars[0].aval.dtype, eqn.params.get("shape")
    return str(dtype) == f"key<{TAG}>" and shape == () and eqn.params.get("bit_width") in (8, 16, 32, 64)


def _plain(data):
    return jax.random.wrap_key_data(data, impl="threefry2x32")


def _random_bits(data, bit_width: int, shape: tuple[int, ...]):
    if shape != ():
        return jax.random.bits(_plain(data), shape, f"uint{bit_width}")
    if bit_width == 64:
        return (data[0].astype(jnp.uint64) << 32) | data[1].astype(jnp.uint64)
    return (data[0] ^ data[1]).astype(f"uint{bit_width}")


def _split(data, shape: tuple[int, ...]):
    return jax.random.key_data(jax.random.split(_plain(data), shape))


def _fold_in(data, number):
    return jax.random.key_data(jax.random.fold_in(_plain(data), number))


def _seed(seed):
    return jax.random.key_data(jax.random.key(seed, impl="threefry2x32"))


@functools.cache
def _implementation():
    return define_prng_impl(
        key_shape=(2,), seed=_seed, split=_split, random_bits=_random_bits, fold_in=_fold_in, name=NAME, tag=TAG
    )
