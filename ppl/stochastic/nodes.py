"""A run of a program in which some choices stand at the nodes of quadrature rules."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from ppl._errors import StrategyError
from ppl.choicemap import Path, show
from ppl.stochastic.rules import rule_of
from ppl.transforms.run import Run


class AtNodes(Run):
    """Read the values given for some choices as nodes: their log density becomes log rho (see `rules.py`).

    Args:
        placed: The choices that stand at nodes.
        relative: Whether their own log density is subtracted.
    """

    def __init__(self, places, given, placed: frozenset[Path], relative: bool, location=(), prefix=(), subsamples=None):
        super().__init__(places, given, "assess", {}, False, location, prefix, subsamples)
        self.placed, self.relative = placed, relative
        self.log_rho: Any = None

    def child(self, given, weights, location):
        """Return the interpreter for a nested body."""
        return AtNodes(self.places, given, self.placed, self.relative, location, self.prefix, dict(self.subsamples))

    def read(self, path: Path, sorted_out, value: jax.Array) -> tuple[Any, Any]:
        """Place a node."""
        if path not in self.placed:
            return value, value
        params = dict(zip(sorted_out.spec.names, sorted_out.params, strict=True))
        placed, self.log_rho = rule_of(sorted_out.spec).place(sorted_out, params, value)
        placed = placed.astype(value.dtype)
        return placed, placed

    def _add(self, path, log_prob, is_given, known, weight) -> None:
        if path not in self.placed:
            super()._add(path, log_prob, is_given, known, weight)
            return
        if weight is not None:
            raise StrategyError(
                f'The auxiliary choice at "{show(path)}" stands in a subsample, whose densities are scaled.',
                where=f'"{show(path)}"',
                expected="a density that integrates to 1",
                remedy="use `method=ppl.methods.importance()`",
            )
        log_rho = jnp.broadcast_to(self.log_rho, log_prob.shape)
        self.log_densities.append((log_rho - log_prob if self.relative else log_rho).sum())
