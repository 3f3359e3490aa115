"""Strategies that look at costs: baselines, and those that estimate with the continuation itself (`estimate`).

The program is evaluated once as ever, with the values of such choices detached. A baseline adds b (1 - exp(s -
stop_gradient(s))) for each element. A direct strategy is given the distribution and k, and what it returns contributes
its tangents alone. k evaluates the program again with other values of the choice; the cost of each element is the
derivative of the objective with respect to a number added to that element's score, so that it is made of the very terms
that a score function would be charged with.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ppl._errors import StrategyError
from ppl.analysis.dependence import Location
from ppl.analysis.plan import Plan
from ppl.interpreter import Place
from ppl.primitives import view
from ppl.strategies.distribution import Distribution
from ppl.transforms.axes import Val
from ppl.transforms.evaluate import Evaluator, magic, under_enumeration
from ppl.transforms.guards import forbid_tangents
from ppl.transforms.noise import KeyNoise
from ppl.transforms.programs import label_of
from ppl.transforms.tails import Override, TailNoise

MAX_EVALUATIONS = 2**12
"""Largest number of elements of one choice that are looked at one by one."""


def estimate_with_costs(plan: Plan, aux: Sequence[bool], noise, leaves: Sequence) -> list:
    """Evaluate a program in which choices have baselines or direct strategies."""
    main = _Main(plan, list(aux), noise, list(leaves))
    outs, scores, records, costs = main.evaluate()
    total = outs[main.result]
    for site in plan.kept:
        strategy = plan.places[site].eqn.params["strategy"]
        if strategy.mode == "score":
            total = total + main.baseline(site, strategy.baseline, scores[site], costs.get(site))
        else:
            total = total + main.contribution(site, strategy, records[site])
    outs[main.result] = total.astype(outs[main.result].dtype)
    return outs


class _Main:
    """One evaluation of a program, and what its choices with baselines and direct strategies add."""

    def __init__(self, plan: Plan, aux: list[bool], noise, leaves: list):
        self.plan, self.aux, self.noise, self.leaves = plan, aux, noise, leaves
        self.result = self._scalar_result()

    def _scalar_result(self) -> int:
        results = [i for i, is_aux in enumerate(self.aux) if not is_aux]
        shapes = [tuple(self.plan.body.outvars[i].aval.shape) for i in results]
        if shapes == [()]:
            return results[0]
        place = self.plan.places[next(iter(self.plan.kept))]
        raise StrategyError(
            f"The strategy of {label_of(place)!r} needs the cost of a choice, and there are several results.",
            where=f"{label_of(place)!r} at {place.eqn.params['source']}",
            expected="an objective that returns one scalar",
            got=", ".join(map(str, shapes)),
            remedy="add the results up, or use `reinforce()` for this choice",
        )

    # The program as it is.
    def evaluate(self):
        """Return results, scores, records of direct choices, and the costs of choices whose baselines need them."""
        shapes = {site: self.plan.shape_of(site, ()) for site in self.plan.kept if self._needs_costs(site)}
        zeros = {site: jnp.zeros(shape) for site, shape in shapes.items()}
        kept: list[Any] = []

        def run(shifts):
            base = self.noise.branch()
            noise = TailNoise(base, None, None, dict(zip(shapes, shifts, strict=True))) if shapes else base
            outs, evaluator = self._run(noise, self.leaves)
            kept.append((evaluator.scores, evaluator.records))
            scores = [val.raw for val in evaluator.scores.values()]
            operands = [record.operands for record in evaluator.records.values()]
            return outs[self.result], (outs, scores, operands, base.leave())

        if not shapes:
            _, (outs, *_, extra) = run([])
            self.noise.absorb(extra, "call")
            return outs, *kept[-1], {}
        _, pull, (outs, scores, operands, extra) = jax.vjp(run, list(zeros.values()), has_aux=True)
        self.noise.absorb(extra, "call")
        score_table, record_table = kept[-1]
        scores = {key: Val(raw, val.axes) for (key, val), raw in zip(score_table.items(), scores, strict=True)}
        records = {
            site: record.with_operands(given)
            for (site, record), given in zip(record_table.items(), operands, strict=True)
        }
        (costs,) = pull(jnp.ones((), outs[self.result].dtype))
        return outs, scores, records, {s: lax.stop_gradient(c) for s, c in zip(shapes, costs, strict=True)}

    def _needs_costs(self, site: Location) -> bool:
        strategy = self.plan.places[site].eqn.params["strategy"]
        return strategy.mode == "score" and strategy.baseline.needs_costs

    def _run(self, noise, leaves) -> tuple[list, Evaluator]:
        evaluator = Evaluator(self.plan, noise, {}, {}, {}, ())
        outs = evaluator.run(self.plan.body, self.plan.flow, self.plan.terms, [Val(leaf) for leaf in leaves])
        return [
            evaluator.auxiliary(val, number) if is_aux else val.surrogate
            for number, (val, is_aux) in enumerate(zip(outs, self.aux, strict=True))
        ], evaluator

    # Baselines.
    def baseline(self, site: Location, baseline, score: Val, costs):
        """Return sum b (1 - exp(s - stop_gradient(s))): 0, with the tangent of -b s."""
        place, num_lanes = self.plan.places[site], len(self.plan.shape_of(site, ())) - len(self.plan.places[site].scans)
        if score.axes:
            raise under_enumeration(place)
        if costs is not None and self.plan.joint_elements(site):
            raise _shared_costs(place)
        steps = len(place.scans)
        values = baseline.values(costs, tuple(range(steps, steps + num_lanes)))
        return (lax.stop_gradient(jnp.broadcast_to(values, score.raw.shape)) * (1 - magic(score.raw))).sum()

    # Direct strategies.
    def contribution(self, site: Location, strategy, record):
        """Return what a direct strategy adds: 0, with its tangents."""
        place, shape = self.plan.places[site], self.plan.shape_of(site, ())
        params = [_first_order(operand, place) for operand in record.operands]
        sorted_out = view(record.spec, record.lanes, record.masked, params)
        key = self.noise.key_at(site) if isinstance(self.noise, KeyNoise) else None
        costs = functools.partial(self._costs, site, shape, key, itertools.count(), strategy.common_noise)
        own = None if key is None else jax.random.fold_in(key, 2**31)
        estimated = strategy.estimate(own, Distribution(sorted_out, _at(place)), costs)
        if jnp.shape(estimated) != shape:
            raise _wrong_shape(place, strategy, jnp.shape(estimated), shape)
        if sorted_out.mask is not None:
            estimated = jnp.where(jnp.broadcast_to(sorted_out.spread_mask(False), shape), estimated, 0)
        return _tangents_alone(estimated.sum())

    def _costs(self, site, shape, key, calls, common: bool, value, noise_key=None):
        """Evaluate the costs of other values of a choice, with noise of this key or, at each call, of a new one."""
        place = self.plan.places[site]
        out = place.eqn.outvars[0].aval
        event = out.shape[len(out.shape) - (len(out.shape) - len(shape) + len(place.scans)) :]
        value = jnp.broadcast_to(jnp.asarray(value, out.dtype), (*shape, *event))
        fresh = self._fresh(key, calls, common, noise_key)
        one = functools.partial(self._cost, site, shape, value, fresh)
        joint = self.plan.joint_elements(site)
        if not joint:
            return one(jnp.ones(shape, bool), {})
        together = [shape[axis] for axis in joint]
        count = math.prod(together)
        if count > MAX_EVALUATIONS:
            raise _too_many(place, count)
        rows = np.stack(np.unravel_index(np.arange(count), together), -1)

        def element(row):
            where = jnp.ones(shape, bool)
            for axis, index in zip(joint, row, strict=True):
                where = where & (lax.broadcasted_iota(int, shape, axis) == index)
            steps = {
                place.scans[axis][0]: index for axis, index in zip(joint, row, strict=True) if axis < len(place.scans)
            }
            return jnp.where(where, one(where, steps), 0)

        return jax.vmap(element)(jnp.asarray(rows)).sum(0)

    def _fresh(self, key, calls, common: bool, noise_key):
        if common or key is None:  # An oracle of finite noise has the noise of the first evaluation only.
            return None
        fresh = jax.random.fold_in(key, next(calls)) if noise_key is None else noise_key
        return dataclasses.replace(self.noise, key=fresh, groups={})

    def _cost(self, site, shape, value, fresh, where, steps):
        backwards = {scan: self.plan.is_reverse(scan) for scan in steps}
        plain, past = self.plan.dependents(site)
        override = Override(site, value, where, {s: (i, backwards[s]) for s, i in steps.items()}, plain, past)

        def total(shift):
            noise = TailNoise(self.noise.branch(), fresh, override, {site: shift})
            outs, _ = self._run(noise, lax.stop_gradient(self.leaves))
            return outs[self.result]

        return jax.grad(total)(jnp.zeros(shape, self.plan.body.outvars[self.result].aval.dtype))


@jax.custom_jvp
def _tangents_alone(x):
    """Return 0 with the tangent of x."""
    return jnp.zeros_like(x)


@_tangents_alone.defjvp
def _(primals, tangents):
    return jnp.zeros_like(primals[0]), tangents[0]


def _first_order(operand, place: Place):
    """Return an operand whose second derivative is refused."""
    if not jnp.issubdtype(jnp.result_type(operand), jnp.inexact):
        return operand

    @jax.custom_jvp
    def once(x):
        return x

    @once.defjvp
    def _(primals, tangents):
        (kept,) = forbid_tangents(primals, lambda: _second_order(place))
        return kept, tangents[0]

    return once(operand)


def _at(place: Place) -> str:
    return f"{label_of(place)!r} at {place.eqn.params['source']}"


def _second_order(place: Place) -> StrategyError:
    return StrategyError(
        f"A second derivative meets the choice {label_of(place)!r}, whose strategy gives first derivatives only.",
        where=_at(place),
        expected="strategies of every order: pathwise, reinforce, enum",
        got=str(place.eqn.params["strategy"]),
        remedy="use one of those for this choice",
    )


def _shared_costs(place: Place) -> StrategyError:
    return StrategyError(
        f"A baseline computed from other lanes is not independent of {label_of(place)!r}: a cost depends on several.",
        where=_at(place),
        expected="costs that each depend on one lane",
        got=str(place.eqn.params["strategy"]),
        remedy="use `reinforce(baseline=constant(b))`, or evaluate the objective in independent lanes",
    )


def _too_many(place: Place, count: int) -> StrategyError:
    return StrategyError(
        f"Costs depend on {count} elements of {label_of(place)!r} at once, and each has to be looked at by itself.",
        where=_at(place),
        expected=f"at most {MAX_EVALUATIONS}",
        remedy="use `reinforce()` for this choice, or write the cost as a sum over its elements",
    )


def _wrong_shape(place: Place, strategy, got: tuple, expected: tuple) -> StrategyError:
    return StrategyError(
        f"`{strategy}.estimate` returns numbers of the wrong shape.",
        where=_at(place),
        expected=f"shape {expected}: one number for each step, lane and batch element",
        got=f"shape {got}",
        remedy="compute with `d` and `k` elementwise; do not sum",
    )
