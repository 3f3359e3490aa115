"""The log density of every observed element by itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from ppl.choicemap import Path
from ppl.generative import GenerativeFunction
from ppl.transforms.given import check_given
from ppl.transforms.layout import addressed
from ppl.transforms.programs import list_places
from ppl.transforms.run import Run


class Pointwise(Run):
    """Keep the log density of every lane, step and batch element; of conditional choices, of lanes and steps only."""

    def __init__(self, places, given, location=(), prefix=(), subsamples=None):
        super().__init__(places, given, "assess", {}, True, location, prefix, subsamples)
        self.fresh: dict[Path, Any] = {}

    def child(self, given, weights, location):
        """Return the interpreter for a nested body."""
        return Pointwise(self.places, given, location, self.prefix, dict(self.subsamples))

    def _add(self, path, log_prob, is_given: bool, known, weight) -> None:
        super()._add(path, log_prob, is_given, known, weight)
        if self.here in self.places and not self.places[self.here].branches:
            self.fresh[path] = log_prob

    def _record(self, path, record) -> None:
        if path in self.fresh:
            record = dataclasses.replace(record, log_prob=self.fresh.pop(path))
        super()._record(path, record)


def pointwise(gf: GenerativeFunction, choices: Mapping[Path, Any], args: tuple) -> dict[Path, jax.Array]:
    """Return the log densities of given choices, laid out like their values without event axes."""
    staged, leaves = gf.stage(args)
    places, _ = list_places(staged.body)
    walk = Pointwise(places, check_given(gf.name, addressed(places), choices, complete=True))
    walk.run(staged.body, leaves)
    return {path: record.log_prob for path, record in walk.records.items()}
