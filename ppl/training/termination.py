"""Orderly ends: a request to terminate waits until the chunk is saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def termination_deferred(active: bool) -> Iterator[threading.Event]:
    """Turn SIGTERM into an event, to end with `SystemExit` after the block; put the old handler back.

    Only the main thread may handle signals: elsewhere, and if not `active`, nothing is changed.
    """
    received = threading.Event()
    if not active or threading.current_thread() is not threading.main_thread():
        yield received
        return
    handler = signal.signal(signal.SIGTERM, lambda *_: received.set())
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if handler is None else handler)
    if received.is_set():
        raise SystemExit(128 + signal.SIGTERM)
