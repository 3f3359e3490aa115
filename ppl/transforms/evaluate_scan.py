"""The evaluation of scans that make choices."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax

from ppl import jaxprs
from ppl.analysis.chains import Chain
from ppl.analysis.dependence import Deps, Flow, Location, Past, Slice, in_order, union
from ppl.analysis.plan import num_states
from ppl.analysis.positions import SAME
from ppl.analysis.terms import Terms
from ppl.operands import choice_at
from ppl.passes.policy import steps_in_a_row
from ppl.transforms.axes import Axes, Table, Val, expand, windowed
from ppl.transforms.elimination import eliminate, multiply
from ppl.transforms.evaluate import Evaluator


class ScanEvaluator:
    """Evaluate a scan that makes choices.

    Besides the carry, what each step hands on is: the surrogates of carries that add terms up, and the scores of
    earlier steps where a term of a later one is charged with them.
    """

    def __init__(self, outer: Evaluator, here: Location, eqn, flow: Flow, terms: Terms, index: int):
        self.outer, self.here, self.view = outer, here, jaxprs.read_scan(eqn)
        self.flow, self.terms = flow.inner[index, 0], terms.inner[index, 0]
        plan = outer.plan
        self.chain = plan.chains.get(here, Chain((), ((),) * self.view.num_carry))
        self.states = tuple(Past(site, here) for site in self.chain.sites)
        outer.sizes.update({Past(site, here): num_states(plan, site) for site in self.chain.sites})
        self.carry_axes = [
            tuple(in_order({*plan.enumerated(deps), *(Past(site, here) for site in sites)}))
            for deps, sites in zip(flow.carry[index], self.chain.carry, strict=True)
        ]
        self.past = [key for key in in_order(plan.past_at(here)) if self._is_scored(key.location)]
        slices = in_order(set(plan.slices_at(here)))
        self.score_slices = Table(
            {key: _sliced(outer.scores, key, self.view.length) for key in slices if key.outer in outer.scores}
        )
        self.weight_slices = Table(
            {key: _sliced(outer.weights, key, self.view.length) for key in slices if key.outer in outer.weights}
        )
        self.layout: list[Any] = []

    def _is_scored(self, site: Location) -> bool:
        return self.outer.plan.modes[site] == "score" or self.outer.noise.shift(site) is not None

    def evaluate(self, vals: Sequence[Val]) -> list[Val]:
        """Run the scan and restate its results outside."""
        outer, view = self.outer, self.view
        consts, init, xs = view.split(vals)
        first = self._first(init)
        leading = [jnp.moveaxis(jnp.asarray(x.raw), len(x.axes), 0) if x.raw is not None else None for x in xs]
        extra = (outer.noise.scan_inputs(self.here, view.length), self.score_slices.raws, self.weight_slices.raws)
        step = functools.partial(self._step, consts, [x.axes for x in xs])
        self.known = set(outer.records)  # JAX may trace the body twice.
        final, (ys, scores, operands, leaving, extra) = lax.scan(
            step, first, (leading, extra), view.length, reverse=view.reverse, unroll=steps_in_a_row(view)
        )
        y_axes, emitted = self.layout[-1]
        inside = [site for site in outer.records if site not in self.known]
        for site, stacked in zip(inside, operands, strict=True):
            outer.records[site] = outer.records[site].stacked(stacked, view.length)
        outer.noise.absorb(extra, "scan")
        for site, score in emitted.restore(scores).items():
            outer.scores[site] = Val(jnp.moveaxis(score.raw, 0, len(score.axes)), score.axes)
        results = [*self._final(final), *self._stacked(ys, y_axes)]
        for site, weight in zip(self.chain.leaving, leaving, strict=True):  # Outside, its steps are lanes.
            outer.weights[site] = Val(jnp.moveaxis(weight, 0, 1), (site,))
        return results

    def _first(self, init):
        sizes, num_carry = self.outer.sizes, self.view.num_carry
        raws = [
            expand(val, axes, sizes) if raw else None
            for val, axes, raw in zip(init, self.carry_axes, self.terms.out_raw[:num_carry], strict=True)
        ]
        surrogates = [
            (val.surrogate if val.surrogate is not None else val.raw) if wanted else None
            for val, wanted in zip(init, self.terms.out_surrogate[:num_carry], strict=True)
        ]
        past = [jnp.zeros(self._past_shape(key), jnp.result_type(float)) for key in self.past]
        return raws, surrogates, past, self._first_message()

    # Messages.
    def _first_message(self):
        """The states before the first step all hold the initial carry, whatever they weigh."""
        if not self.states:
            return None
        states = [self.outer.sizes[state] for state in self.states]
        return jnp.full((*states, *self._lanes()), 1 / math.prod(states))

    def _lanes(self, site: Location | None = None) -> tuple[int, ...]:
        """Return the lanes that a message keeps apart (a chain of several choices has none)."""
        plan, site = self.outer.plan, self.chain.sites[0] if site is None else site
        shape = plan.shape_of(site, (*self.here, 0))
        return tuple(1 if axis in plan.joint[site] else size for axis, size in enumerate(shape))

    def _weights(self, message) -> dict:
        """Return the probability of the states before a step, under the first of them."""
        if message is None:
            return {}
        rest = {state: Val(jnp.ones((self.outer.sizes[state],)), (state,)) for state in self.states[1:]}
        return {self.states[0]: Val(message, self.states), **rest}

    def _message(self, child: Evaluator, message):
        """Return the probability of the states after a step: sum p(now | before) p(before) over all before."""
        return None if message is None else self._marginal(child, self.chain.sites, self._lanes()).astype(message.dtype)

    def _marginal(self, child: Evaluator, sites: Sequence[Location], lanes: tuple[int, ...]):
        """Return the joint probability of some choices of a step, over lanes that it keeps apart."""
        deps: Deps = {}
        for site in sites:
            shape = child.plan.shape_of(site, (*self.here, 0))
            own = tuple((axis, SAME) if size > 1 else None for axis, size in enumerate(shape))
            deps = union(deps, self.flow.sites[site], {site: own})
        left = eliminate(child.factors(deps, lanes), tuple(sites), child.num_states, child.messages)
        return expand(multiply(left), tuple(sites), self.outer.sizes)

    def _renamed(self, val: Val) -> Val:
        """Call this step's states the last step's."""
        return Val(val.raw, tuple(Past(axis, self.here) if axis in self.chain.sites else axis for axis in val.axes))

    def _past_shape(self, key: Past) -> list[int]:
        plan, sizes = self.outer.plan, self.outer.sizes
        return [*(sizes[axis] for axis in self._past_axes(key)), *plan.shape_of(key, (*self.here, 0))]

    def _past_axes(self, key: Past) -> Axes:
        return self.outer.plan.enumerated(self.flow.sites[key.location])

    def _step(self, consts, x_axes, carry, inputs):
        raws, surrogates, past, message = carry
        slices, (noise_extra, score_slices, weight_slices) = inputs
        outer, num_carry, sizes = self.outer, self.view.num_carry, self.outer.sizes
        scores = {**outer.scores, **self.score_slices.restore(score_slices)}
        scores.update({key: Val(sums, self._past_axes(key)) for key, sums in zip(self.past, past, strict=True)})
        weights = {**outer.weights, **self.weight_slices.restore(weight_slices), **self._weights(message)}
        child = outer.child((*self.here, 0), outer.noise.enter(noise_extra), scores, weights)
        args = [Val(const.raw, const.axes) for const in consts]
        args += [Val(r, a, s) for r, a, s in zip(raws, self.carry_axes, surrogates, strict=True)]
        args += [Val(x, axes) for x, axes in zip(slices, x_axes, strict=True)]
        outs = child.run(self.view.body, self.flow, self.terms, args)
        new, ys = outs[:num_carry], outs[num_carry:]
        new_raws = [
            expand(self._renamed(val), axes, sizes) if old is not None else None
            for val, axes, old in zip(new, self.carry_axes, raws, strict=True)
        ]
        new_surrogates = [val.surrogate if old is not None else None for val, old in zip(new, surrogates, strict=True)]
        new_past = [
            sums + expand(child.scores[key.location], self._past_axes(key), sizes)
            for key, sums in zip(self.past, past, strict=True)
        ]
        emitted = Table({site: val for site, val in child.scores.items() if self._leaves(site)})
        self.layout.append(([val.axes for val in ys], emitted))
        flags = self.terms.out_raw[num_carry:], self.terms.out_surrogate[num_carry:]
        stacked = [
            (val.raw if raw else None, val.surrogate if surrogate else None)
            for val, raw, surrogate in zip(ys, *flags, strict=True)
        ]
        message = self._message(child, message)
        leaving = [self._marginal(child, (site,), self._lanes(site)) for site in self.chain.leaving]
        return (new_raws, new_surrogates, new_past, message), (
            stacked,
            emitted.raws,
            [record.operands for site, record in child.records.items() if site not in self.known],
            leaving,
            child.noise.leave(),
        )

    def _leaves(self, key) -> bool:
        """Tell whether the score of a site is used outside of the scan."""
        inside = isinstance(key, tuple) and key[: len(self.here)] == self.here
        kept = inside and choice_at(key) in self.outer.plan.kept
        return kept or (inside and self.outer.plan.is_needed_outside(key, self.here))

    def _final(self, final) -> list[Val]:
        raws, surrogates, _, message = final
        if message is not None:  # Outside, the states are the last step's choices.
            self._leave_states(message)
        axes = [tuple(axis.location if axis in self.states else axis for axis in axes) for axes in self.carry_axes]
        return [Val(r, a if r is not None else (), s) for r, a, s in zip(raws, axes, surrogates, strict=True)]

    def _leave_states(self, message) -> None:
        outer, sites = self.outer, self.chain.sites
        outer.sizes.update({site: outer.sizes[Past(site, self.here)] for site in sites})
        outer.weights[sites[0]] = Val(jnp.expand_dims(message, len(sites)), sites)  # One entry for all steps.
        for site in sites[1:]:
            outer.weights[site] = Val(jnp.ones((outer.sizes[site], 1)), (site,))

    def _stacked(self, ys, y_axes) -> list[Val]:
        return [
            Val(jnp.moveaxis(raw, 0, len(axes)), axes, s) if raw is not None else Val(None, (), s)
            for (raw, s), axes in zip(ys, y_axes, strict=True)
        ]


def _sliced(vals, key: Slice, length: int) -> Val:
    """Let the axis along which a scan slices the scores (or weights) of an outer choice lead."""
    val = vals[key.outer]
    axis = len(val.axes) + key.axis
    raw = val.raw if val.raw.shape[axis] == 1 else windowed(val.raw, axis, key.window, length)
    raw = jnp.moveaxis(raw, axis, 0)
    return Val(jnp.broadcast_to(raw, (length, *raw.shape[1:])), val.axes)  # Weights of joint lanes have one entry.
