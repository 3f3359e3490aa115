"""What a program of this collection declares, and how the command line finds it.

A paper is a folder `models/NAME/` whose `__init__.py` exports one object called `PROGRAM`:

    PROGRAM = Program(
        name="NAME",
        title="What the paper is called",
        paper="Author & Author, Venue Year, arXiv:0000.00000",
        data="what it is trained on",
        presets={"quick": Preset(Config(steps=100), "30 s"), "default": Preset(Config(), "3 min"), ...},
        run=run,
    )

where `run(context: Context) -> Outcome` trains or evaluates, saves pictures under `context.out` and returns metrics and
claims (`models/report.py`). There is nothing else to register: a folder that is there is listed.
"""

import difflib
import importlib
import pkgutil
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jaxtyping import Array, Key

import models
from models.report import Outcome

PRESETS = ("quick", "default", "full")


class UsageError(ValueError):
    """Report a request that cannot be met as it was made."""


@dataclass(frozen=True)
class Preset:
    """A program's settings at one scale.

    Args:
        config: A frozen dataclass or module; its `repr` identifies a run when it is resumed.
        time: What it takes, for `list`: measured on two CPU cores unless it says otherwise.
    """

    config: Any
    time: str


@dataclass(frozen=True)
class Context:
    """What one run of a program is given: its settings, its seed and where its files go.

    Args:
        config: The preset's.
        seed: Of this run; data splits do not depend on it.
        out: The folder of this run's pictures and checkpoint.
        resume: Whether to go on from the checkpoint.
    """

    config: Any
    seed: int
    out: Path
    resume: bool = False

    @property
    def key(self) -> Key[Array, ""]:
        """Return the run's key."""
        return jax.random.key(self.seed)

    @property
    def checkpoint(self) -> Path:
        """Return the folder of the run's checkpoint."""
        return self.out / "checkpoint"

    def announce(self, stage: str) -> None:
        """Say on stderr what the run is about to do."""
        print(f"{stage} ...", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Program:
    """A paper's program: what it is, at which scales it runs, and how.

    Args:
        name: That of its folder.
        title: The paper's.
        paper: Authors, venue, year and identifier; several are parted by semicolons.
        data: What it is trained on, and what the full preset needs fetched.
        presets: Out of "quick" (less than a minute, data that pip installs), "default" (at most five minutes) and
            "full" (the paper's scale).
        run: Trains or evaluates under a context.
    """

    name: str
    title: str
    paper: str
    data: str
    presets: Mapping[str, Preset]
    run: Callable[[Context], Outcome]

    def preset(self, name: str) -> Preset:
        """Return a preset by name."""
        if name not in self.presets:
            raise UsageError(f"{self.name} has no preset {name!r}, only {', '.join(self.presets)}.")
        return self.presets[name]


def names() -> list[str]:
    """Return the names of all programs, without importing them."""
    return sorted(module.name for module in pkgutil.iter_modules(models.__path__) if module.ispkg)


def find(name: str) -> Program:
    """Import one program.

    Raises:
        UsageError: If there is none of that name.
    """
    if name not in names():
        raise UsageError(f"there is no program {name!r}. {suggest(name, names())}")
    return importlib.import_module(f"models.{name}").PROGRAM


def suggest(name: str, known: Iterable[str]) -> str:
    """Return the remedy for a misspelt name: the nearest known one, or all of them."""
    known = list(known)
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    return f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(known)}."
