"""Checkpoints: a folder with two generations of files that a crash cannot half-write.

A file is written beside its final name, forced to disk and renamed; the one before it is kept as the previous
generation.
"""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from ppl._errors import PPLError
from ppl.training.files import Unusable, read, sync_folder, write
from ppl.training.trees import flatten, unflatten

CURRENT, PREVIOUS, _UNFINISHED = "current.ckpt", "previous.ckpt", "unfinished.tmp"


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: Made if it does not exist.
        settings: What must be equal in a run that resumes, as JSON.
        resume: Whether the files that are there belong to this run; if not, the first `save` replaces them.
    """

    def __init__(self, folder: str | os.PathLike, settings: dict[str, Any], resume: bool):
        self._folder, self._settings = Path(folder), json.loads(json.dumps(settings))
        self._ours, self._damaged = resume, False
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PPLError(f"`checkpoint` must be a folder: {error}") from None
        effective = os.access in os.supports_effective_ids
        if not os.access(self._folder, os.W_OK | os.X_OK, effective_ids=effective):
            raise PPLError(f"`checkpoint` must be a folder that can be written to: {self._folder} cannot.")

    def save(self, step: int, carry: Any, history: dict[str, np.ndarray]) -> None:
        """Write a new generation; at every moment at least one whole generation is there.

        Raises:
            PPLError: If the file system refuses (full disk, no permission). What was there before stays there.
        """
        columns = {f"history {name}": column for name, column in history.items()}
        unfinished = self._folder / _UNFINISHED
        try:
            write(unfinished, {"step": step, "settings": self._settings}, columns | flatten(carry))
            self._rename(unfinished)
        except OSError as error:
            with contextlib.suppress(OSError):
                unfinished.unlink(missing_ok=True)
            raise PPLError(
                f"The checkpoint of step {step} could not be saved in {self._folder}.",
                got=f"{type(error).__name__}: {error.strerror}",
                remedy="make room there, then run again with resume=True: earlier checkpoints are untouched",
            ) from error

    def _rename(self, unfinished: Path) -> None:
        """Make the finished file the current generation, and a current one that is whole the previous."""
        current, previous = self._folder / CURRENT, self._folder / PREVIOUS
        if self._ours and not self._damaged and current.exists():
            os.replace(current, previous)
        os.replace(unfinished, current)
        if not self._ours:
            previous.unlink(missing_ok=True)
        self._ours, self._damaged = True, False
        sync_folder(self._folder)

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
                    self._damaged = bool(problems)  # it must not take the place of the one that is read
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
