"""Checks of what the user gives to `maximize`, all made before anything is compiled."""

from __future__ import annotations

import operator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import all_leaves, keystr, tree_leaves_with_path

from ppl._errors import PPLError


def as_count(name: str, number: Any, least: int = 1) -> int:
    """Return `number` as an int.

    Raises:
        PPLError: If it is not a whole number of at most 31 bits, or less than `least` (0 or 1).
    """
    try:
        count = -1 if isinstance(number, bool) else operator.index(number)
    except TypeError:
        count = -1
    if not least <= count < 2**31:
        raise PPLError(f"`{name}` must be a {'positive int' if least else 'positive int or 0'}.", got=repr(number))
    return count


def check_key(key: Any) -> None:
    """Refuse everything but a single typed key.

    Raises:
        PPLError: For an old-style key, an array of keys, or another object.
    """
    typed = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if not typed or key.shape != ():
        raise PPLError(
            "`key` must be one typed key: only jax.random.key keys are accepted.",
            got=f"an array {key.dtype}{list(key.shape)}" if hasattr(key, "dtype") else repr(key),
            remedy="jax.random.key(0) instead of jax.random.PRNGKey(0); one key of a split, not all of them",
        )


def num_examples(data: Any, batch_size: int) -> int:
    """Return the length of the leading axis that all leaves of `data` share.

    Raises:
        PPLError: If there is no such axis, or it is shorter than `batch_size`.
    """
    shapes = {f"data{keystr(path)}": np.shape(leaf) for path, leaf in tree_leaves_with_path(data)}
    if not shapes:
        raise PPLError("`batch_size` needs `data` to take batches from.", got=f"data={data!r}")
    if scalars := [name for name, shape in shapes.items() if not shape]:
        raise PPLError(
            f"{', '.join(scalars)} has no leading axis to take batches from.",
            expected="arrays of examples",
            remedy="close over constants in f, or leave `batch_size` out",
        )
    size, *others = {shape[0] for shape in shapes.values()}
    if others:
        lengths = ", ".join(f"{name} has {shape[0]}" for name, shape in shapes.items())
        raise PPLError("The leaves of `data` have unequal leading axes.", got=lengths)
    if batch_size > size:
        raise PPLError("`batch_size` is larger than `data`.", expected=f"at most {size}", got=str(batch_size))
    return size


def split_trainable(params: Any, trainable: Any) -> tuple[Any, Any]:
    """Part `params` into the leaves to train and all others, with None in the gaps.

    Args:
        params: Any pytree; of its leaves only inexact arrays can be trained.
        trainable: Prefix pytree of bools, or a function of `params` giving one, or None for all.

    Raises:
        PPLError: If `trainable` does not fit `params`, or leaves nothing to train.
    """
    if callable(trainable) and all_leaves([trainable]):  # a module of bools may be callable, too
        trainable = trainable(params)
    mask = _spread(True if trainable is None else trainable, params)
    trains = jax.tree.map(lambda on, leaf: bool(on) and eqx.is_inexact_array(leaf), mask, params)
    trained, fixed = eqx.partition(params, trains)
    if not jax.tree.leaves(trained):
        raise PPLError(
            "There is nothing to train.",
            expected="a floating-point array in `params` for which `trainable` is True",
            remedy="Python numbers are constants: write jnp.array(0.0) for a parameter",
        )
    return trained, fixed


def _spread(prefix: Any, params: Any) -> Any:
    """Broadcast a prefix pytree of bools to every leaf of `params`."""
    for path, on in tree_leaves_with_path(prefix):
        if not isinstance(on, (bool, np.bool_)):
            raise PPLError(f"trainable{keystr(path)} must be True or False.", got=repr(on))
    try:
        return jax.tree.map(lambda on, part: jax.tree.map(lambda _: on, part), prefix, params)
    except ValueError as error:
        raise PPLError(
            "`trainable` does not have the structure of `params`.",
            expected="a pytree of bools like `params` or a prefix of it, or a function of `params` giving one",
            got=str(error),
        ) from None
