"""The edges of supports as numbers: what of a program is known without its arguments and its choices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ppl import jaxprs
from ppl.interpreter import Interpreter, Place
from ppl.primitives import call_p, choice_p, view_of
from ppl.transforms.layout import outer_lanes

UNKNOWN = object()
"""Stands for a value that depends on arguments, on choices, or on the step of a loop."""


class Known(Interpreter):
    """Evaluate what depends on constants alone; `operands` keeps those of every choice, by location."""

    def __init__(self, location=(), operands: dict | None = None):
        super().__init__(location)
        self.operands: dict[tuple[int, ...], Sequence] = {} if operands is None else operands

    def enter(self, location, extra):
        """Walk a body with the same memory."""
        return Known(location, self.operands)

    def equation(self, eqn, values: Sequence) -> list:
        """Evaluate an equation without choices if all that it needs is known."""
        if jaxprs.holds_choice(eqn):
            return super().equation(eqn, values)
        unknown = any(value is UNKNOWN for value in values)
        return [UNKNOWN] * len(eqn.outvars) if unknown else jaxprs.bind(eqn, values)

    def special(self, eqn, values: Sequence) -> list:
        """Keep a choice's operands; its value is not known."""
        if eqn.primitive is call_p:
            return self.jit(eqn, values)
        if eqn.primitive is choice_p:
            self.operands[self.here] = values
        return [UNKNOWN] * len(eqn.outvars)

    def remat(self, eqn, values: Sequence) -> list:
        """Walk the body: nothing is differentiated."""
        return self.jit(eqn, values)

    def scan(self, eqn, values: Sequence) -> list:
        """Walk the body once, for all steps: constants alone are known in it."""
        view = jaxprs.read_scan(eqn)
        consts, init, xs = view.split(values)
        self.enter((*self.here, 0), ()).run(view.body, [*consts, *[UNKNOWN] * len([*init, *xs])])
        return [UNKNOWN] * len(eqn.outvars)

    def cond(self, eqn, values: Sequence) -> list:
        """Leave the branches alone: what is chosen there has no fixed place in a vector."""
        return [UNKNOWN] * len(eqn.outvars)


def edges(place: Place, operands: Sequence, names: Sequence[str]) -> dict[str, Any] | None:
    """Return the edges of a choice's support, laid out like its value in a trace; None if they are not known.

    Args:
        place: The choice.
        operands: Its operands, where they are known.
        names: Names of the parameters that are edges.
    """
    spec = place.eqn.params["spec"]
    wanted = [spec.names.index(name) for name in names if name in spec.names]
    if any(operands[index] is UNKNOWN for index in wanted):
        return None
    some = [np.ones(var.aval.shape) if x is UNKNOWN else x for x, var in zip(operands, place.eqn.invars, strict=True)]
    params = dict(zip(spec.names, view_of(place.eqn, some).params, strict=True))
    return {name: _compact(_in_trace(place, np.asarray(params[name]))) for name in names if name in params}


def _in_trace(place: Place, edge: np.ndarray) -> np.ndarray:
    """Give an edge the axes of the scans around its choice, of size 1."""
    value = place.eqn.outvars[0].aval.shape
    edge = edge.reshape((1,) * (len(value) - edge.ndim) + edge.shape)
    for level in range(len(place.scans) - 1, -1, -1):
        edge = np.expand_dims(edge, outer_lanes(place, level))
    return edge


def _compact(edge: np.ndarray) -> Any:
    """Return one number, if all are the same."""
    return float(edge.flat[0]) if edge.size and (edge == edge.flat[0]).all() else edge
