"""Checkpoints: files that a crash cannot half-write, and that are not read unless they are whole and fit.

A file is one line of JSON (format, library versions, step, the settings of the run, and name, dtype and shape of every
array), then the bytes of those arrays one after the other, then the SHA-256 of all that. It is written beside its
final name, forced to disk and renamed; the one before it is kept as the previous generation. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import itertools
import json
import math
import os
import warnings
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

from ppl._errors import PPLError

CURRENT, PREVIOUS, _UNFINISHED = "current.ckpt", "previous.ckpt", "unfinished.tmp"
_FORMAT = "ppl checkpoint 1"
_DIGEST_SIZE = hashlib.sha256().digest_size


class Unusable(Exception):
    """Why a file cannot be resumed from."""


# --- One file ----------------------------------------------------------------------------------------------------


def write(path: Path, meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Write a checkpoint file and force it to disk."""
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


# --- Pytrees -----------------------------------------------------------------------------------------------------


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
        return jax.device_put(array, leaf.sharding)

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


# --- A folder with two generations -------------------------------------------------------------------------------


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: Made if it does not exist.
        settings: What must be equal in a run that resumes, as JSON.
        resume: Whether the files that are there belong to this run; if not, the first `save` replaces them.
    """

    def __init__(self, folder: str | os.PathLike, settings: dict[str, Any], resume: bool):
        self._folder, self._settings, self._ours = Path(folder), json.loads(json.dumps(settings)), resume
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PPLError(f"`checkpoint` must be a folder: {error}") from None

    def save(self, step: int, carry: Any, history: dict[str, np.ndarray]) -> None:
        """Write a new generation; at every moment at least one whole generation is there."""
        columns = {f"history {name}": column for name, column in history.items()}
        unfinished, current, previous = (self._folder / name for name in (_UNFINISHED, CURRENT, PREVIOUS))
        write(unfinished, {"step": step, "settings": self._settings}, columns | flatten(carry))
        if self._ours and current.exists():
            os.replace(current, previous)
        os.replace(unfinished, current)
        if not self._ours:
            previous.unlink(missing_ok=True)
        self._ours = True
        _sync(self._folder)

    def load(self, carry: Any) -> tuple[int, Any, dict[str, np.ndarray]] | None:
        """Return step, carry and history of the newest generation that can be used, or None if there is no file.

        Raises:
            PPLError: If there are files but none can be used.
        """
        problems = []
        for path in (self._folder / CURRENT, self._folder / PREVIOUS):
            if path.exists():
                try:
                    saved = self._load(path, carry)
                except Unusable as error:
                    problems.append(f"{path} cannot be used: {error}")
                else:
                    if problems:
                        warnings.warn(f"{problems[0]}. Resuming from {path}, step {saved[0]}.", stacklevel=2)
                    return saved
        if problems:
            remedy = "give the arguments of the run that wrote it, or another folder, or resume=False to start afresh"
            raise PPLError("There is no checkpoint to resume from.", got="; ".join(problems), remedy=remedy)
        return None

    def _load(self, path, carry):
        meta, arrays = read(path)
        for name, here in self._settings.items():
            if (there := meta["settings"].get(name)) != here:
                raise Unusable(f"it is of another run: {name} is {there} there and {here} here")
        columns = {name.removeprefix("history "): arrays.pop(name) for name in [*arrays] if name.startswith("history ")}
        return meta["step"], unflatten(arrays, carry), columns


def _sync(folder: Path) -> None:
    if os.name == "posix":  # elsewhere a folder cannot be opened
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
