"""What a training run remembers of its steps, and when it gives up."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ppl._errors import PPLError

MAX_STREAK = 20  # skipped steps in a row after which a run gives up


class History:
    """The value and the gradient norm of every step so far, one array each.

    Args:
        columns: Those of the steps before a resumed run.
        limit: Number of skipped steps in a row at which `check` raises.

    Attributes:
        skipped: Number of skipped steps.
        streak: Number of skipped steps at the end.
    """

    def __init__(self, columns: dict[str, np.ndarray] | None = None, limit: int = MAX_STREAK):
        self.skipped, self.streak, self.limit, self._pieces = 0, 0, limit, []
        if columns:
            self.append(columns)

    def append(self, columns: dict[str, np.ndarray]) -> int | None:
        """Add the steps of one chunk; return the position of the one that completes a streak, if one does."""
        self._pieces.append(columns)
        bad = ~(np.isfinite(columns["value"]) & np.isfinite(columns["grad_norm"]))
        self.skipped += int(bad.sum())
        for step, skip in enumerate(bad):
            self.streak = self.streak + 1 if skip else 0
            if self.streak >= self.limit:
                return step
        return None

    def columns(self) -> dict[str, np.ndarray]:
        """Return the arrays, with an entry for each step."""
        if len(self._pieces) > 1:
            self._pieces = [{name: np.concatenate([p[name] for p in self._pieces]) for name in self._pieces[0]}]
        return dict(self._pieces[0])

    def values(self) -> np.ndarray:
        """Return the value of every step so far."""
        return self.columns()["value"] if self._pieces else np.zeros(0)

    def check(
        self,
        columns: dict[str, np.ndarray],
        culprits: np.ndarray,
        start: int,
        paths: Sequence[str],
        diagnose: Callable[[int], Sequence[str]],
    ) -> None:
        """Add the steps of the chunk that begins at `start`; `diagnose` says of a step why it is not finite.

        Raises:
            PPLError: If there is no finite value and gradient for `limit` steps in a row.
        """
        last = self.append(columns)
        if last is None:
            return
        first, culprit = start + last + 1 - self.limit, culprits[last]
        leaf = f"the gradient of {paths[culprit - 1]} is not finite" if culprit else "its gradient is finite"
        raise PPLError(
            f"Training is stuck: no finite value and gradient in {self.limit} steps in a row, from step {first} on.",
            where=_line(diagnose(start + last)),
            got=f"at step {start + last} the value is {columns['value'][last]} and {leaf}",
            remedy="look at f there: ppl.value_and_grad(f)(jax.random.fold_in(key, step), params, ...); "
            "a smaller learning rate or optax.clip_by_global_norm helps if the parameters ran away",
        )


def _line(origins: Sequence[str]) -> str | None:
    return f"not finite: {'; '.join(origins)}" if origins else None
