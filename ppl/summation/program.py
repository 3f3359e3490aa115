"""A generative function with some choices given, as a program whose densities are marked as factors.

All that matters of it are these marks: one array of log densities for each choice, given or not, where it is made.
Choices that are not given are to be summed over.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ppl import jaxprs
from ppl.choicemap import Path, show
from ppl.generative import GenerativeFunction
from ppl.interpreter import Place
from ppl.operands import without_baseline
from ppl.primitives import bind_choice, factor_p, lane_shapes, view_of
from ppl.strategies import enum
from ppl.summation.refusals import has_no_place, not_finite
from ppl.transforms.given import check_given
from ppl.transforms.layout import addressed
from ppl.transforms.programs import list_places
from ppl.transforms.records import spread
from ppl.transforms.run import _KEPT, Run

_SUMMED = enum()


def marked_program(gf: GenerativeFunction, given: Mapping[Path, Any], args: tuple) -> tuple[jaxprs.Body, list]:
    """Stage a program with given choices, its densities marked.

    Args:
        gf: The generative function.
        given: Values by path.
        args: Its arguments.

    Returns:
        A program without results, in which `factor` equations mark the log densities of all choices; its arguments.

    Raises:
        StrategyError: A choice that is not given has no finite support.
        ControlFlowError: It stands where its values cannot be summed over.
    """
    staged, leaves = gf.stage(args)
    places, _ = list_places(staged.body)
    by_path = addressed(places)
    given = check_given(gf.name, by_path, given, complete=False)
    for path, place in by_path.items():
        _check(path, place, path in given)
    paths, values = list(given), [given[path] for path in given]

    def run(*flat):
        inner = dict(zip(paths, flat[: len(paths)], strict=True))
        Marked(places, inner, "observe", {}, False).run(staged.body, flat[len(paths) :])
        return []

    operands = [*values, *leaves]
    body = jaxprs.restage(run, [jax.typeof(operand) for operand in operands])
    _refuse_inner_noise(body)
    return body, operands


def _check(path: Path, place: Place, is_given: bool) -> None:
    if place.branches:
        remedy = "make it in both cases, with parameters chosen by `jnp.where`"
        raise has_no_place(path, place.eqn, "in a branch of a `cond`", remedy)
    family = place.eqn.params["spec"].family
    if not is_given and not getattr(family, "enumerable", False):
        raise not_finite(path, place.eqn)


def _refuse_inner_noise(body: jaxprs.Body) -> None:
    for place in list_places(body)[0].values():
        if place.eqn.params["strategy"] is not _SUMMED:
            label = (*place.prefix, place.eqn.params["label"])
            remedy = "give the inner marginal an exact method, too"
            raise has_no_place(label, place.eqn, "inside a density that is itself estimated", remedy)


class Marked(Run):
    """Read given choices, let the others take all of their values, and mark densities."""

    def child(self, given, weights, location):
        """Return the interpreter for a nested body."""
        return Marked(self.places, given, self.mode, weights, False, location, self.prefix, dict(self.subsamples))

    def _add(self, path, log_prob, is_given, known, weight) -> None:
        if weight is not None and not is_given:
            eqn = next(place.eqn for at, place in self.places.items() if at[: len(self.here)] == self.here)
            raise has_no_place(path, eqn, "in a `subsample`", "make it outside, or use `ppl.methods.importance()`")
        mark(log_prob if weight is None else log_prob * spread(jnp.asarray(weight), log_prob.ndim), path)

    def _sample(self, eqn, operands: Sequence, path):
        own, lanes = without_baseline(eqn.params, operands)
        kept = {name: eqn.params[name] for name in _KEPT}
        kept.update(strategy=_SUMMED, baseline=False, lanes=lanes)
        (value,) = bind_choice(own, address=None, label=show(path), **kept)
        if eqn.params["masked"]:  # Where it is not made, all of its values are one.
            sorted_out = view_of(eqn, operands)
            idle = jnp.where(sorted_out.spread_mask(False), 0.0, -math.log(_count(eqn)))
            mark(jnp.broadcast_to(idle, sorted_out.shape), path)
        return value


def _count(eqn) -> int:
    spec = eqn.params["spec"]
    shapes = lane_shapes([var.aval.shape for var in eqn.invars], eqn.params["lanes"])[: len(spec.names)]
    return spec.num_values(shapes)


def mark(log_prob: Any, path: Path) -> None:
    """Mark an array of log densities, whose elements are all factors."""
    factor_p.bind(jnp.asarray(log_prob), address=path, label=show(path), source="")
