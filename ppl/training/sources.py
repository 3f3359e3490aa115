"""Where the examples of a step come from: all of them at every step, rows drawn without replacement, or a stream."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.tree_util import all_leaves

from ppl._errors import PPLError
from ppl.training import inputs
from ppl.training.batches import Batches
from ppl.training.placement import Placement
from ppl.training.prefetch import prefetched
from ppl.training.streams import Stream
from ppl.training.trees import describe


class Examples(NamedTuple):
    """What the steps of a chunk read.

    Attributes:
        data: All examples; or the batches of the chunk, one after the other along a leading axis.
        rows: Rows of the batch of each step; or None.
        first: Step of the first batch in `rows` or `data`.
        stacked: Whether `data` are batches.
    """

    data: Any
    rows: Any
    first: Any
    stacked: bool

    def batch(self, step: Any) -> Any:
        """Return the examples that this step sees."""
        if self.stacked:
            return jax.tree.map(lambda leaf: leaf[step - self.first], self.data)
        if self.rows is None:
            return self.data
        return jax.tree.map(lambda leaf: leaf[self.rows[step - self.first]], self.data)


Opened = contextlib.AbstractContextManager[Iterator[Examples]]
"""The examples of one chunk after the other."""


class Whole:
    """All data at every step."""

    per_chunk = 1000

    def __init__(self, data: Any, placement: Placement):
        self.settings = describe(data)
        self._examples = Examples(placement.split(data), None, np.zeros((), np.int32), False)

    def open(self, starts: range, steps: int) -> Opened:
        """Give the same examples to every chunk."""
        return contextlib.nullcontext(self._examples for _ in starts)


class Rows:
    """Batches gathered from arrays; see `Batches`."""

    per_chunk = 1000

    def __init__(self, data: Any, key: Any, batch_size: int, placement: Placement):
        self._size = inputs.num_examples(data, batch_size)
        self._key, self._batch_size, self._placement = key, batch_size, placement
        self.settings = describe(data)
        self._data = placement.split(data, size=self._size)

    def open(self, starts: range, steps: int) -> Opened:
        """Give all examples and the rows of its steps to every chunk."""
        return contextlib.nullcontext(self._chunks(starts))

    def _chunks(self, starts):
        batches = Batches(self._key, self._size, self._batch_size, max(2, starts.step))
        rows = placed = None
        for start in starts:
            found, first = batches.rows(start)
            if found is not rows:
                rows, placed = found, self._placement.replicate(np.asarray(found))
            yield Examples(self._data, placed, np.asarray(first, np.int32), False)


class Streamed:
    """Batches that are read while the steps before them are made."""

    per_chunk = 100

    def __init__(self, data: Any, prefetch: int, placement: Placement):
        self.settings = "a stream"
        self._stream, self._prefetch, self._placement = Stream(data), prefetch, placement

    def open(self, starts: range, steps: int) -> Opened:
        """Read the batches of every chunk in a thread; the last chunk is filled up with its last batch."""
        return prefetched(lambda: self._chunks(starts, steps), self._prefetch)

    def _chunks(self, starts, steps):
        length = max(2, starts.step)
        with contextlib.closing(self._stream.batches(starts.start, steps)) as batches:
            for start in starts:
                wanted = min(starts.step, steps - start)
                chunk = [next(batches) for _ in range(wanted)]
                chunk += [chunk[-1]] * (length - wanted)
                stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *chunk)
                yield Examples(self._placement.split(stacked, axis=1), None, np.asarray(start, np.int32), True)


Source = Whole | Rows | Streamed


def make_source(data: Any, key: Any, batch_size: int | None, prefetch: int, placement: Placement) -> Source:
    """Return the source for what the user gives as `data`.

    Raises:
        PPLError: If `batch_size` does not fit it.
    """
    if is_stream(data):
        if batch_size is not None:
            raise PPLError(
                "`batch_size` cuts arrays into batches, and `data` is a stream.",
                got=f"`batch_size`={batch_size} and `data` of type {type(data).__name__}",
                remedy="leave `batch_size` out, and let the stream give whole batches",
            )
        return Streamed(data, prefetch, placement)
    placement.check_batch(batch_size)
    return Whole(data, placement) if batch_size is None else Rows(data, key, batch_size, placement)


def is_stream(data: Any) -> bool:
    """Tell whether `data` gives batches one after the other: an iterable, or a function of the first step.

    A pytree container is not one, nor is an array or a string.
    """
    if data is None or not all_leaves([data]) or isinstance(data, str | bytes) or hasattr(data, "dtype"):
        return False
    return isinstance(data, Callable | Iterator) or hasattr(data, "__iter__")
