"""What the processes of one run tell each other: all of them make the same decisions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np

from ppl._errors import PPLError


def any_of_them(flag: bool, several: bool) -> bool:
    """Tell whether the flag is set in any process; `several` says whether there are more than this one."""
    return bool(_gather(flag).any()) if several else flag


def agree(name: str, number: int, several: bool) -> None:
    """Refuse numbers that differ between processes.

    Raises:
        PPLError: In all of them.
    """
    numbers = _gather(number) if several else np.array([number])
    if len({*numbers.tolist()}) > 1:
        raise PPLError(
            f"The processes of this run do not agree on the {name}.",
            expected="a folder that all of them see",
            got=", ".join(f"{number} in process {process}" for process, number in enumerate(numbers.tolist())),
        )


@contextlib.contextmanager
def together(several: bool) -> Iterator[None]:
    """Wait for all processes after the block; if it raised in one, raise in all.

    Raises:
        PPLError: Where another process has failed.
    """
    failure = None
    try:
        yield
    except PPLError as error:
        failure = error
    if any_of_them(failure is not None, several):
        raise failure or PPLError("Another process of this run has failed.", remedy="see its message")


def _gather(number: int) -> np.ndarray:
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(np.asarray(number, np.int32))).ravel()
