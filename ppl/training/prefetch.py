"""Reading ahead in a thread."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any

import jax

_POLL = 0.05  # seconds between looks at whether anybody still wants what is read
_END = object()


class _Failed:
    """An exception on its way to the thread that waits."""

    def __init__(self, error: BaseException):
        self.error = error


@contextlib.contextmanager
def prefetched(make: Callable[[], Generator[Any, None, None]], size: int) -> Iterator[Iterator[Any]]:
    """Run a generator in a thread that is at most `size` items ahead; 0 runs it here, when an item is asked for.

    What it raises is raised where the item is asked for, with the traceback of the thread. After the block the
    generator is closed and the thread has ended.
    """
    if not size:
        with contextlib.closing(make()) as items:
            yield items
        return
    reader = _Reader(make, size)
    try:
        yield reader.items()
    finally:
        reader.close()


class _Reader:
    def __init__(self, make, size):
        self._make, self._queue, self._unwanted = make, queue.Queue(size), threading.Event()
        # What JAX keeps for each thread, and what decides how arrays are put on devices.
        self._device = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
        self._x64 = jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]
        self._thread = threading.Thread(target=self._run, name="ppl prefetch", daemon=True)
        self._thread.start()

    def items(self) -> Iterator[Any]:
        """Yield what the thread has read."""
        while True:
            item = self._queue.get()
            if item is _END:
                return
            if isinstance(item, _Failed):
                raise item.error
            yield item

    def close(self) -> None:
        """End the thread, whatever it does."""
        self._unwanted.set()
        self._thread.join()

    def _run(self):
        with jax.default_device(self._device), jax.enable_x64(self._x64):
            try:
                with contextlib.closing(self._make()) as items:
                    for item in items:
                        if not self._put(item):
                            return
                self._put(_END)
            except BaseException as error:  # noqa: BLE001 - it is raised again where the item is asked for.
                self._put(_Failed(error))

    def _put(self, item) -> bool:
        """Wait for a place in the queue; tell whether the item is still wanted."""
        while not self._unwanted.is_set():
            try:
                self._queue.put(item, timeout=_POLL)
            except queue.Full:
                continue
            return True
        return False
