"""Pytrees as arrays by path, for files and digests."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

from ppl.training.files import Unusable
from ppl.training.placement import put


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def flatten(tree: Any) -> dict[str, np.ndarray]:
    """Return the arrays of a pytree by path; of typed keys, the data."""
    leaves, _ = tree_flatten_with_path(eqx.filter(tree, eqx.is_array))
    return {keystr(path): np.asarray(jr.key_data(leaf) if _is_key(leaf) else leaf) for path, leaf in leaves}


def unflatten(arrays: dict[str, np.ndarray], like: Any) -> Any:
    """Put arrays back into a pytree like the one that they came from.

    Raises:
        Unusable: If a leaf is missing, left over, or of another dtype or shape.
    """
    expected = flatten(like)
    for path in {**expected, **arrays}:
        got, want = (f"{a[path].dtype}{list(a[path].shape)}" if path in a else "absent" for a in (arrays, expected))
        if got != want:
            raise Unusable(f"it is of other parameters, state or optimizer: {path} is {got} there and {want} here")

    def restore(path, leaf):
        if not eqx.is_array(leaf):
            return leaf
        array = jnp.array(arrays[keystr(path)])
        array = jr.wrap_key_data(array, impl=jr.key_impl(leaf)) if _is_key(leaf) else array
        return put(array, leaf.sharding)

    return jax.tree_util.tree_map_with_path(restore, like)


def describe(tree: Any) -> list:
    """Return paths, dtypes and shapes of the arrays of a pytree."""
    leaves, _ = tree_flatten_with_path(eqx.filter(tree, eqx.is_array))
    return [[keystr(path), str(leaf.dtype), list(leaf.shape)] for path, leaf in leaves]


def fingerprint(tree: Any) -> str:
    """Return a digest of paths, dtypes, shapes and bytes of the arrays of a pytree."""
    digest = hashlib.sha256(json.dumps(describe(tree)).encode())
    for array in flatten(tree).values():
        digest.update(array.tobytes())
    return digest.hexdigest()
