"""Batches from an iterable or from a function of the first step, beginning at any step."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

from ppl._errors import PPLError

_END = object()


class Stream:
    """What the user gives as `data` if it does not fit in memory.

    Args:
        data: A function `data(step)` that returns an iterable of the batches from that step on; or an iterable of
            the batches from step 0 on. Where one ends, the function is called again for the step that is due, and an
            iterable is read again from its beginning; an iterator, which can be read once only, must be long enough.
    """

    def __init__(self, data: Any):
        self._data = data

    def batches(self, start: int, steps: int) -> Generator[Any, None, None]:
        """Yield the batches of the steps from `start` on as NumPy arrays, which must all be alike.

        Raises:
            PPLError: If there are not enough batches, or they differ in structure, shape or dtype.
        """
        first = None
        for step, batch in zip(range(start, steps), self._raw(start), strict=False):
            if batch is _END:
                raise _ended(step, steps, self._data)
            arrays = jax.tree.map(_as_array, batch)
            found = _signature(arrays)
            first = first or (step, found)
            if found != first[1]:
                raise _differ(first, (step, found))
            yield arrays

    def _raw(self, start: int) -> Iterator[Any]:
        """Yield batches from `start` on, then end marks."""
        if callable(self._data):
            return self._endless(lambda step: self._data(step), start)
        return itertools.islice(self._endless(lambda _: self._data, 0), start, None)

    def _endless(self, make_pass, step):
        last = -1
        while step > last and (last < 0 or not isinstance(self._data, Iterator)):
            last = step
            for batch in make_pass(step):
                yield batch
                step += 1
        while True:
            yield _END


def _as_array(leaf: Any) -> np.ndarray:
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        raise PPLError("A batch of a stream holds a key, which cannot be stacked.", remedy="make keys from ints in f")
    array = np.asarray(leaf)
    if array.dtype.kind in "OUSM":
        raise PPLError("A batch of a stream holds what is no array.", expected="a pytree of arrays", got=repr(leaf))
    return array


def _signature(arrays: Any) -> dict[str, str]:
    leaves, _ = tree_flatten_with_path(arrays)
    return {keystr(path): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves}


def _ended(step: int, steps: int, data: Any) -> PPLError:
    once = isinstance(data, Iterator)
    return PPLError(
        f"`data` ended before step {step}: there is no batch for it.",
        expected=f"a batch for each of {steps} steps",
        got=f"{step} batches from {type(data).__name__}",
        remedy="an iterator is read once only: give something that can be read again, or a function `data(step)`"
        if once
        else "let it give at least one batch each time that it is read",
    )


def _differ(first: tuple[int, dict], other: tuple[int, dict]) -> PPLError:
    (first_step, before), (step, after) = first, other
    path = next(path for path in {**before, **after} if before.get(path) != after.get(path))
    return PPLError(
        f"The batches of a stream must be alike, but data{path} of step {step} differs from that of step {first_step}.",
        expected=before.get(path, "no such leaf"),
        got=after.get(path, "no such leaf"),
        remedy="leave out or fill up the last, smaller batch of an epoch",
    )
