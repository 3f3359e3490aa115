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

from ppl import jaxprs
from ppl._errors import PPLError, StrategyError
from ppl.analysis.dependence import Location, location_of
from ppl.analysis.plan import Plan, make_plan, num_states
from ppl.analysis.smoothness import smoothness
from ppl.interpreter import Place
from ppl.operands import fitted_at, share_at
from ppl.passes import relax_choices
from ppl.primitives import align, view
from ppl.strategies.costs import Costs
from ppl.strategies.distribution import Distribution
from ppl.strategies.pathwise import pathwise
from ppl.transforms.axes import Val
from ppl.transforms.evaluate import Evaluator, magic, under_enumeration
from ppl.transforms.guards import forbid_tangents
from ppl.transforms.keyless import Keyless
from ppl.transforms.noise import KeyNoise
from ppl.transforms.programs import label_of, list_places
from ppl.transforms.tails import Override, TailNoise

MAX_EVALUATIONS = 2**12
"""Largest number of elements of one choice that are looked at one by one."""


def estimate_with_costs(plan: Plan, aux: Sequence[bool], noise, leaves: Sequence) -> list:
    """Evaluate a program in which choices have baselines or direct strategies."""
    main = _Main(plan, list(aux), noise, list(leaves))
    done = main.evaluate()
    outs = done.outs
    for result in main.results:
        sites = [site for site in plan.kept if any(location_of(key) == site for key in plan.flow.outs[result])]
        added = main.per_element(result, lambda along, sites=sites: [main.added(site, done, along) for site in sites])
        outs[result] = sum(added, outs[result]).astype(outs[result].dtype)
    return outs


@dataclasses.dataclass
class _Done:
    """What one evaluation leaves.

    Attributes:
        outs: Results.
        scores: Scores of choices with baselines.
        records: What choices with direct strategies are drawn from.
        evaluator: Knows the probabilities of the enumerated choices.
        pull: Maps an element of a result to its costs by element of each choice whose baseline needs them.
    """

    outs: list
    scores: dict[Any, Val]
    records: dict[Location, Any]
    evaluator: Evaluator
    pull: Any


class _Main:
    """One evaluation of a program, and what its choices with baselines and direct strategies add.

    What they add to a result is made of the costs of that result alone. `along` says of which element: it weighs the
    elements of each result to a number, 1 for that element and 0 for all others.
    """

    def __init__(self, plan: Plan, aux: list[bool], noise, leaves: list):
        self.plan, self.aux, self.noise, self.leaves = plan, aux, noise, leaves
        self.results = [i for i, is_aux in enumerate(aux) if not is_aux]
        self.leads = {site: len(plan.above(site)) for site in plan.kept}
        self._relaxed: dict[Location, tuple[_Main, Location]] = {}

    def per_element(self, result: int, run) -> list:
        """Evaluate `run` along every element of a result; the numbers have its shape."""
        aval = self.plan.body.outvars[result].aval
        if not aval.shape:
            return run((result, jnp.ones((), aval.dtype)))
        size = math.prod(aval.shape)
        if size > MAX_EVALUATIONS:
            raise _many_results(self.plan.places[self.plan.kept[0]], aval.shape)
        elements = jnp.eye(size, dtype=aval.dtype).reshape(size, *aval.shape)
        return [x.reshape(aval.shape) for x in jax.vmap(lambda element: run((result, element)))(elements)]

    def added(self, site: Location, done: _Done, along):
        """Return what the strategy of a choice adds to an element of a result."""
        strategy = self.plan.places[site].eqn.params["strategy"]
        if strategy.mode == "score":
            return self.baseline(site, strategy.baseline, done, along)
        return self.contribution(site, strategy, done.records[site], done.scores.get(share_at(site)), along)

    @staticmethod
    def _weigh(outs, along):
        result, element = along
        return outs[result] if element.ndim == 0 else (outs[result] * element).sum()

    # The program as it is.
    def evaluate(self) -> _Done:
        """Evaluate the program once."""
        shapes = {site: self._shape(site) for site in self.plan.kept if self._has_baseline_of_costs(site)}
        kept: list[Evaluator] = []

        def run(shifts):
            base = self.noise.branch()
            noise = TailNoise(base, None, None, dict(zip(shapes, shifts, strict=True)), self.leads) if shapes else base
            outs, evaluator = self._run(noise, self.leaves)
            kept.append(evaluator)
            scores, weights = ([val.raw for val in table.values()] for table in (evaluator.scores, evaluator.weights))
            operands = [record.operands for record in evaluator.records.values()]
            return [outs[result] for result in self.results], (outs, scores, weights, operands, base.leave())

        if not shapes:
            _, (outs, *_, extra) = run([])
            self.noise.absorb(extra, "call")
            return _Done(outs, kept[-1].scores, kept[-1].records, kept[-1], None)
        zeros = [jnp.zeros(shape) for shape in shapes.values()]
        wanted, pull, (outs, scores, weights, operands, extra) = jax.vjp(run, zeros, has_aux=True)
        self.noise.absorb(extra, "call")
        evaluator = kept[-1]
        renewed = lambda table, raws: {k: Val(raw, v.axes) for (k, v), raw in zip(table.items(), raws, strict=True)}
        evaluator.weights, evaluator.messages = renewed(evaluator.weights, weights), {}
        records = {
            site: record.with_operands(given)
            for (site, record), given in zip(evaluator.records.items(), operands, strict=True)
        }

        def costs(along):
            picked = zip(self.results, wanted, strict=True)
            (found,) = pull([along[1] if i == along[0] else jnp.zeros_like(out) for i, out in picked])
            return {site: lax.stop_gradient(cost) for site, cost in zip(shapes, found, strict=True)}

        return _Done(outs, renewed(evaluator.scores, scores), records, evaluator, costs)

    def _has_baseline_of_costs(self, site: Location) -> bool:
        return self.plan.modes[site] == "score" and self.plan.needs_costs(site)

    def _shape(self, site: Location) -> tuple[int, ...]:
        """Return the shape of a choice's costs: values of enumerated choices above it, steps, lanes, batch."""
        return (*(num_states(self.plan, e) for e in self.plan.above(site)), *self.plan.shape_of(site, ()))

    @staticmethod
    def _conditional(costs, share: Val | None):
        """Return costs for each value of the enumerated choices above, from their parts in the mean over these."""
        if share is None:
            return costs
        return jnp.where(share.raw > 0, costs / jnp.where(share.raw > 0, share.raw, 1), 0)

    def _run(self, noise, leaves) -> tuple[list, Evaluator]:
        evaluator = Evaluator(self.plan, noise, {}, {}, {}, ())
        outs = evaluator.run(self.plan.body, self.plan.flow, self.plan.terms, [Val(leaf) for leaf in leaves])
        return [
            evaluator.auxiliary(val, number) if is_aux else val.surrogate
            for number, (val, is_aux) in enumerate(zip(outs, self.aux, strict=True))
        ], evaluator

    # Baselines.
    def baseline(self, site: Location, baseline, done: _Done, along):
        """Return sum b (1 - exp(s - stop_gradient(s))): 0, with the tangent of -b s, and what a learned b adds."""
        place, shape, score = self.plan.places[site], self.plan.shape_of(site, ()), done.scores[site]
        steps = len(place.scans)
        in_loop = lambda axis: axis not in done.evaluator.weights or self.plan.places[location_of(axis)].scans
        if any(map(in_loop, score.axes)):
            raise under_enumeration(place)
        lead, share = len(score.axes), done.scores.get(share_at(site))
        costs, lanes = None, [axis for axis in range(steps, len(shape)) if shape[axis] > 1]
        learned = done.scores.get(fitted_at(site))
        if baseline.needs_costs and learned is None:  # Elements that share costs are no baseline of each other.
            apart = [axis for axis in lanes if axis not in self.plan.mixed[site]]
            if lanes and not apart:
                raise _shared_costs(place)
            lanes = apart
        if baseline.needs_costs:
            costs = self._conditional(done.pull(along)[site], share)
        lane_axes = tuple(lead + axis for axis in lanes)
        values = baseline.values(costs, lane_axes) if learned is None else learned.raw
        terms = lax.stop_gradient(jnp.broadcast_to(values, score.raw.shape)) * (1 - magic(score.raw))
        if learned is not None:
            terms = terms + _tangents_alone(baseline.fit(costs, values))
        return done.evaluator.averaged(Val(terms, score.axes), self.plan.flow.sites[site]).sum()

    # Direct strategies.
    def contribution(self, site: Location, strategy, record, share: Val | None, along):
        """Return what a direct strategy adds: 0, with its tangents."""
        place, shape = self.plan.places[site], self._shape(site)
        operands, lanes, learned, own_lanes = record.split()
        params = [_first_order(operand, place) for operand in operands]
        sorted_out = view(record.spec, lanes, record.masked, params)
        key = self.noise.key_at(site) if isinstance(self.noise, KeyNoise) else None
        ask = functools.partial(self._ask, along, site, shape, key, itertools.count(), strategy.common_noise)
        costs = Costs(lambda *given, **how: self._conditional(ask(*given, **how), share))
        own = Keyless(place) if key is None else jax.random.fold_in(key, 2**31)
        if learned is not None:
            (learned,) = align([_first_order(learned, place)], [1], own_lanes, len(sorted_out.batch_shape))
        try:
            estimated = strategy.estimate(own, Distribution(sorted_out, _at(place), learned), costs)
        except PPLError as error:  # The value alone is right: the error is for who takes a derivative.
            return _refused(error, params)
        if jnp.shape(estimated) != shape:
            raise _wrong_shape(place, strategy, jnp.shape(estimated), shape)
        if sorted_out.mask is not None:
            estimated = jnp.where(jnp.broadcast_to(sorted_out.spread_mask(False), shape), estimated, 0)
        return _tangents_alone((estimated if share is None else share.raw * estimated).sum())

    def _ask(self, along, site, shape, key, calls, common, value, noise_key=None, jointly=False, relaxed=False):
        """Evaluate costs in one of the ways of [`Costs`][ppl.strategies.costs.Costs]."""
        main, at = self.relaxed(site) if relaxed else (self, site)
        return main._costs(along, at, shape, key, calls, common, value, noise_key, jointly)

    def relaxed(self, site: Location) -> tuple[_Main, Location]:
        """Return the same program with numbers in place of a choice, and where that choice stands in it."""
        if site not in self._relaxed:
            plan = self.plan
            body = relax_choices(plan.body, lambda location, _: location == site, keep=True)
            places, _ = list_places(body)
            moved = dict(zip(plan.places, places, strict=True))
            noise = self.noise.moved(moved, body)
            relaxed = _Main(make_plan(body, places, plan.aux), self.aux, noise, self.leaves)
            self._relaxed[site] = relaxed, moved[site]
        return self._relaxed[site]

    def _unsound(self, site: Location) -> PPLError | None:
        """Say why costs may not be differentiated with respect to the value of a choice."""
        plain, past = self.plan.dependents(site)
        later = [at for at in sorted(plain | past) if self.plan.modes.get(at) == "direct"]
        if later:
            return _direct_after(self.plan.places[site], self.plan.places[later[0]])
        body = jaxprs.with_params(self.plan.body, {site: {"strategy": pathwise()}})
        path = smoothness(body, list_places(body)[0], self.aux).unsound.get(site)
        return None if path is None else path.error()

    def _costs(self, along, site, shape, key, calls, common: bool, value, noise_key=None, jointly: bool = False):
        """Evaluate the costs of other values of a choice, with noise of this key or, at each call, of a new one.

        `jointly` gives all lanes and batch elements of a step at once: only steps are looked at one by one.
        """
        place = self.plan.places[site]
        out, lead = place.eqn.outvars[0].aval, self.leads[site]
        event = out.shape[len(shape) - lead - len(place.scans) :]
        value = jnp.broadcast_to(jnp.asarray(value, out.dtype), (*shape, *event))
        if jnp.issubdtype(out.dtype, jnp.inexact):
            (value,) = forbid_tangents([value], lambda: self._unsound(site))
        fresh = self._fresh(key, calls, common, noise_key)
        one = functools.partial(self._cost, along, site, shape, value, fresh)
        joint = self.plan.mixed[site]
        if jointly:
            joint = tuple(axis for axis in joint if axis < len(place.scans))
        if not joint:
            return one(jnp.ones(shape, bool), {})
        together = [shape[lead + axis] for axis in joint]
        count = math.prod(together)
        if count > MAX_EVALUATIONS:
            raise _too_many(place, count)
        rows = np.stack(np.unravel_index(np.arange(count), together), -1)

        def element(row):
            where = jnp.ones(shape, bool)
            for axis, index in zip(joint, row, strict=True):
                where = where & (lax.broadcasted_iota(int, shape, lead + axis) == index)
            steps = {
                place.scans[axis][0]: index for axis, index in zip(joint, row, strict=True) if axis < len(place.scans)
            }
            return jnp.where(where, one(where, steps), 0)

        return jax.vmap(element)(jnp.asarray(rows)).sum(0)

    def _fresh(self, key, calls, common: bool, noise_key):
        if common or key is None:  # An oracle of finite noise has the noise of the first evaluation only.
            return None
        fresh = jax.random.fold_in(key, next(calls)) if noise_key is None else noise_key
        return dataclasses.replace(self.noise, key=fresh, groups={}, roots=None)

    def _cost(self, along, site, shape, value, fresh, where, steps):
        backwards = {scan: self.plan.is_reverse(scan) for scan in steps}
        plain, past = self.plan.dependents(site)
        override = Override(site, value, where, {s: (i, backwards[s]) for s, i in steps.items()}, plain, past)

        def total(shift):
            noise = TailNoise(self.noise.branch(), fresh, override, {site: shift}, self.leads)
            outs, _ = self._run(noise, lax.stop_gradient(self.leaves))
            return self._weigh(outs, along)

        return jax.grad(total)(jnp.zeros(shape, self.plan.body.outvars[along[0]].aval.dtype))


def _refused(error: PPLError, params: Sequence):
    """Return 0; a derivative with respect to the parameters of the choice raises the error."""
    guarded = forbid_tangents(params, lambda: error)
    return sum(_tangents_alone(x).sum() for x in guarded if jnp.issubdtype(jnp.result_type(x), jnp.inexact))


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


def _direct_after(place: Place, later: Place) -> StrategyError:
    return StrategyError(
        f"The strategy of {label_of(place)!r} differentiates costs, which {label_of(later)!r} estimates by itself.",
        where=_at(place),
        expected="`reinforce()`, `pathwise()` or `enum()` for the choices that depend on this one",
        got=f"{later.eqn.params['strategy']} for {label_of(later)!r} at {later.eqn.params['source']}",
        remedy="use one of those for it; or one that does not differentiate costs for this one, such as `reinforce()`",
    )


def _too_many(place: Place, count: int) -> StrategyError:
    return StrategyError(
        f"Costs depend on {count} elements of {label_of(place)!r} at once, and each has to be looked at by itself.",
        where=_at(place),
        expected=f"at most {MAX_EVALUATIONS}",
        remedy="use `reinforce()` for this choice, or write the cost as a sum over its elements",
    )


def _many_results(place: Place, shape: tuple) -> StrategyError:
    return StrategyError(
        f"The strategy of {label_of(place)!r} needs the cost of a choice for each element of a result.",
        where=_at(place),
        got=f"a result of shape {shape}",
        expected=f"at most {MAX_EVALUATIONS} elements",
        remedy="add the results up, or use `reinforce()` for this choice",
    )


def _wrong_shape(place: Place, strategy, got: tuple, expected: tuple) -> StrategyError:
    return StrategyError(
        f"`{strategy}.estimate` returns numbers of the wrong shape.",
        where=_at(place),
        expected=f"shape {expected}: one number for each step, lane and batch element",
        got=f"shape {got}",
        remedy="compute with `d` and `k` elementwise; do not sum",
    )
