"""The random choices of a program as a reader sees them: distribution, axes, strategy, and how each is handled."""

from __future__ import annotations

import dataclasses
import math
import textwrap
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive

from ppl import jaxprs
from ppl._errors import PPLError
from ppl.analysis.dependence import Location, is_inside, site_shape
from ppl.analysis.plan import Plan, escapes, histories, num_states, num_values
from ppl.interpreter import Place
from ppl.primitives import view
from ppl.strategies.distribution import Distribution
from ppl.transforms.programs import label_of


@dataclasses.dataclass(frozen=True)
class ChoiceRow:
    """A random choice.

    Attributes:
        address: Its path; of an anonymous choice, the family's name.
        source: File and line.
        distribution: Family and parameter names.
        shape: Shape of one value: batch, then event.
        axes: Steps, lanes and condition, such as "T = 50 steps", "100 lanes", "in branch 2 of 2".
        strategy: The strategy, or None.
        unbiased: Whether its gradient is.
        handling: What is done with the choice.
        evaluations: How often the costs that depend on it are evaluated beyond once; None if that is not known.
        baseline: The baseline, or None.
        location: Where it stands in the program.
    """

    address: str
    source: str
    distribution: str
    shape: tuple[int, ...]
    axes: tuple[str, ...]
    strategy: str | None
    unbiased: bool
    handling: str
    evaluations: int | None
    baseline: str | None
    location: Location


def list_choices(plan: Plan) -> list[ChoiceRow]:
    """List the choices of a program in order."""
    written_out = [scan for scan, _ in escapes(plan)]
    return [_row(plan, place, written_out) for place in plan.places.values()]


def _row(plan: Plan, place: Place, written_out: Sequence[Location]) -> ChoiceRow:
    params = place.eqn.params
    strategy, spec = params["strategy"], params["spec"]
    handling, evaluations = _handling(plan, place, written_out)
    lanes = len(params["lanes"])
    return ChoiceRow(
        label_of(place),
        params["source"],
        str(spec),
        tuple(place.eqn.outvars[0].aval.shape[lanes:]),
        tuple(_axes(place)),
        None if strategy is None else strategy_name(strategy),
        strategy is None or strategy.unbiased,
        handling,
        evaluations,
        None if getattr(strategy, "baseline", None) is None else repr(strategy.baseline),
        place.location,
    )


def strategy_name(strategy: Any) -> str:
    """Write a strategy with the arguments that are not its defaults."""
    if not dataclasses.is_dataclass(strategy):
        return str(strategy)
    values = [(field, getattr(strategy, field.name)) for field in dataclasses.fields(strategy)]
    given = [f"{field.name}={value!r}" for field, value in values if not same(value, field.default)]
    return type(strategy).__name__ + (f"({textwrap.shorten(', '.join(given), 60)})" if given else "")


def same(first: Any, second: Any) -> bool:
    """Tell whether two strategies, or fields of one, are equal; those that hold arrays are equal to themselves only."""
    try:
        return first is second or bool(first == second)
    except (TypeError, ValueError):
        return False


def _axes(place: Place):
    for _, length in place.scans:
        yield f"T = {length} steps"
    sizes = [lane.size for lane in place.eqn.params["lanes"]]
    if sizes:
        yield " x ".join(map(str, sizes)) + " lanes"
    batch = site_shape(place.eqn)[len(sizes) :]
    if batch:
        yield "batch of " + " x ".join(map(str, batch))
    guards = place.eqn.params["guards"]
    for _, number, count in place.branches:
        yield f"in branch {number + 1} of {count}"
    if place.eqn.params["masked"]:
        yield "made in some lanes only" if guards else "masked"


# --- How it is handled -------------------------------------------------------------------------------------------


def _handling(plan: Plan, place: Place, written_out: Sequence[Location]) -> tuple[str, int | None]:
    strategy, spec = place.eqn.params["strategy"], place.eqn.params["spec"]
    if strategy is None:
        return ("drawn" if not place.eqn.invars else "drawn; no derivative may reach its parameters"), 0
    if strategy.mode == "path":
        return ("reparameterised (implicitly)" if spec.family.implicit else "reparameterised"), 0
    if strategy.mode == "score":
        return "charged with its score" + _with_baseline(strategy), 0
    if strategy.mode == "relaxed":
        return "relaxed to real numbers, and differentiated", 0
    if strategy.mode == "detached":
        return "drawn; its score is left out", 0
    if strategy.mode == "enumerate":
        return _enumerated(plan, place, written_out)
    return _direct(plan, place, strategy)


def _with_baseline(strategy) -> str:
    needs_costs = getattr(strategy.baseline, "needs_costs", False)
    return (
        ", less a baseline from one more reverse pass" if needs_costs else ", less a baseline" * bool(strategy.baseline)
    )


def _enumerated(plan: Plan, place: Place, written_out: Sequence[Location]) -> tuple[str, int]:
    site = place.location
    values, states = num_values(place), num_states(plan, site)
    joint = math.prod(site_shape(place.eqn)[axis] for axis in plan.joint[site])
    text = f"summed over {values} values" if joint == 1 else f"summed jointly over {_power(values, joint)} states"
    text += ", its lanes one by one until they are mixed" * (site in plan.in_step)
    if joint == 1 and math.prod(site_shape(place.eqn)) > 1:
        text += " lane by lane"
    for scan in written_out:
        if is_inside(site, scan):
            text += f"; its scan is written out: {number(histories(plan, scan))} histories"
            return text, states - 1
    if any(site in chain.sites for chain in plan.chains.values()):
        return text + ", by messages along a chain", states - 1
    return text, states - 1


def _power(base: int, exponent: int) -> str:
    return f"{base}**{exponent}" if base**exponent > 10**6 else str(base**exponent)


def number(count: float) -> str:
    """Write a count, roughly where it is large."""
    return f"{count:.0f}" if count < 1e6 else f"about {count:.1e}"


def _direct(plan: Plan, place: Place, strategy) -> tuple[str, int | None]:
    calls = count_calls(place, strategy)
    elements = math.prod(_element_sizes(plan, place))
    if calls is None:
        return "estimated from costs of other values", None
    runs = calls * elements
    together = "" if elements == 1 else f": {calls} for each of {elements} elements, whose costs mix"
    return f"estimated from the costs of {calls} other values{together}", runs


def _element_sizes(plan: Plan, place: Place):
    shape = plan.shape_of(place.location, ())
    return [shape[axis] for axis in plan.mixed[place.location]]


# --- Calls of k ---------------------------------------------------------------------------------------------------

costs_p = Primitive("costs_of_values")
"""Stands for the costs of values when a strategy is looked at without its program."""


@costs_p.def_abstract_eval
def _costs_abstract(value, *_, shape, lanes):
    return ShapedArray((*lanes, *shape), jnp.result_type(float))


def _costs_batch(axis_data, values, dims, *, shape, lanes):
    return costs_p.bind(*values, shape=shape, lanes=(axis_data.size, *lanes)), 0


jaxprs.fancy_batchers[costs_p] = _costs_batch


def count_calls(place: Place, strategy: Any) -> int | None:
    """Count how often a direct strategy asks for costs, or return None where that cannot be told."""
    params = place.eqn.params
    shape = (*(length for _, length in place.scans), *site_shape(place.eqn))

    def estimate(key, *operands):
        sorted_out = view(params["spec"], params["lanes"], params["masked"], operands)
        kept = dataclasses.replace(sorted_out, lane_sizes=(*shape[: len(place.scans)], *sorted_out.lane_sizes))
        k = lambda value, noise_key=None: costs_p.bind(
            jnp.asarray(value), *([] if noise_key is None else [noise_key]), shape=shape, lanes=()
        )
        return strategy.estimate(key, Distribution(kept, label_of(place)), k)

    operands = [jax.ShapeDtypeStruct(var.aval.shape, var.aval.dtype) for var in place.eqn.invars]
    try:
        body = jaxprs.restage(estimate, [jax.eval_shape(lambda: jax.random.key(0)), *operands])
    except (PPLError, TypeError, ValueError, NotImplementedError):
        return None  # A strategy that looks at more than values: its calls are not counted.
    return _calls(body)


def _calls(body: jaxprs.Body) -> int:
    total = 0
    for eqn in body.eqns:
        if eqn.primitive is costs_p:
            total += math.prod(eqn.params["lanes"])
        else:
            length = jaxprs.read_scan(eqn).length if eqn.primitive is jaxprs.scan_p else 1
            total += length * sum(_calls(inner) for inner in jaxprs.inner_bodies(eqn))
    return total
