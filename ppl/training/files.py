"""One checkpoint file: written whole or not at all, and not read unless it is whole.

A file is one line of JSON (format, library versions, step, the settings of the run, and name, dtype and shape of every
array: the names are the paths of a pytree), then the bytes of those arrays one after the other, then the SHA-256 of all
that. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import itertools
import json
import math
import os
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

_FORMAT = "ppl checkpoint 1"
_DIGEST_SIZE = hashlib.sha256().digest_size


class Unusable(Exception):
    """Why a file cannot be resumed from."""


def write(path: Path, meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Write a checkpoint file and force it to disk.

    Raises:
        OSError: If the file system refuses.
    """
    table = [[name, array.dtype.name, list(array.shape)] for name, array in arrays.items()]
    header = json.dumps({"format": _FORMAT, "versions": _versions(), **meta, "arrays": table}).encode() + b"\n"
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for piece in itertools.chain([header], (array.tobytes() for array in arrays.values())):
            digest.update(piece)
            file.write(piece)
        file.write(digest.digest())
        file.flush()
        os.fsync(file.fileno())


def read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the header and the arrays of a checkpoint file.

    Raises:
        Unusable: If the file is not a whole checkpoint of this format.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Unusable(f"it cannot be read ({error.strerror})") from None
    if not content.startswith(json.dumps({"format": _FORMAT}).encode()[:-1]):
        raise Unusable(f"it does not start as a {_FORMAT!r}")
    body = memoryview(content)[:-_DIGEST_SIZE]
    if hashlib.sha256(body).digest() != content[-_DIGEST_SIZE:]:
        raise Unusable("its checksum is wrong: it was cut short or damaged")
    position = content.index(b"\n") + 1
    meta, arrays = json.loads(content[:position]), {}
    for name, dtype, shape in meta.pop("arrays"):
        arrays[name] = np.frombuffer(body, jnp.dtype(dtype), math.prod(shape), position).reshape(shape).copy()
        position += arrays[name].nbytes
    return meta, arrays


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "numpy", "optax", "equinox")}


def sync_folder(folder: Path) -> None:
    """Force the names in a folder to disk."""
    if os.name == "posix":  # elsewhere a folder cannot be opened
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
