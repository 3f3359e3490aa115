"""The evaluation of scans that make choices."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax

from ppl import jaxprs
from ppl.analysis.dependence import Flow, Location, Past, is_inside
from ppl.analysis.plan import Plan
from ppl.analysis.terms import Terms
from ppl.transforms.axes import Axes, Val, axes_of, expand, raws_of
from ppl.transforms.evaluate import Evaluator


class ScanEvaluator:
    """Evaluate a scan that makes choices.

    Besides the carry, what each step hands on is: the surrogates of carries that add terms up, and the scores of
    earlier steps where a term of a later one is charged with them.
    """

    def __init__(self, outer: Evaluator, here: Location, eqn, flow: Flow, terms: Terms, index: int):
        self.outer, self.here, self.view = outer, here, jaxprs.read_scan(eqn)
        self.flow, self.terms = flow.inner[index, 0], terms.inner[index, 0]
        self.carry_axes = [outer.plan.enumerated(deps) for deps in flow.carry[index]]
        self.past = sorted(past_scores(self.terms, self.flow, outer.plan, here), key=lambda key: key.location)
        self.layout: list[Any] = []

    def evaluate(self, vals: Sequence[Val]) -> list[Val]:
        """Run the scan and restate its results outside."""
        outer, view = self.outer, self.view
        consts, init, xs = view.split(vals)
        first = self._first(init)
        leading = [jnp.moveaxis(jnp.asarray(x.raw), len(x.axes), 0) if x.raw is not None else None for x in xs]
        noise = outer.noise.scan_inputs(self.here, view.length)
        step = functools.partial(self._step, consts, [x.axes for x in xs])
        final, (ys, scores, extra) = lax.scan(
            step, first, (leading, noise), view.length, reverse=view.reverse, unroll=view.unroll
        )
        y_axes, score_axes = self.layout[-1]
        outer.noise.absorb(extra, "scan")
        for key, score in scores.items():
            outer.scores[key] = Val(score.sum(0), score_axes[key])
        return [*self._final(final), *self._stacked(ys, y_axes)]

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
        dtype = jnp.result_type(float)
        past = {key: jnp.zeros([sizes[axis] for axis in self._past_axes(key)], dtype) for key in self.past}
        return raws, surrogates, past

    def _past_axes(self, key: Past) -> Axes:
        return self.outer.plan.enumerated(self.flow.sites[key.location])

    def _step(self, consts, x_axes, carry, inputs):
        raws, surrogates, past = carry
        slices, noise_extra = inputs
        outer, num_carry, sizes = self.outer, self.view.num_carry, self.outer.sizes
        scores = dict(outer.scores)
        scores.update({key: Val(total, self._past_axes(key)) for key, total in past.items()})
        child = outer.child((*self.here, 0), outer.noise.enter(noise_extra), scores, dict(outer.weights))
        args = [Val(const.raw, const.axes) for const in consts]
        args += [Val(r, a, s) for r, a, s in zip(raws, self.carry_axes, surrogates, strict=True)]
        args += [Val(x, axes) for x, axes in zip(slices, x_axes, strict=True)]
        outs = child.run(self.view.body, self.flow, self.terms, args)
        new, ys = outs[:num_carry], outs[num_carry:]
        new_raws = [
            expand(val, axes, sizes) if old is not None else None
            for val, axes, old in zip(new, self.carry_axes, raws, strict=True)
        ]
        new_surrogates = [val.surrogate if old is not None else None for val, old in zip(new, surrogates, strict=True)]
        own = {key: val for key, val in child.scores.items() if not isinstance(key, Past) and is_inside(key, self.here)}
        new_past = {key: total + expand(own[key.location], self._past_axes(key), sizes) for key, total in past.items()}
        emitted = {key: val for key, val in own.items() if not any(is_inside(axis, self.here) for axis in val.axes)}
        self.layout.append(([val.axes for val in ys], axes_of(emitted)))
        flags = self.terms.out_raw[num_carry:], self.terms.out_surrogate[num_carry:]
        stacked = [
            (val.raw if raw else None, val.surrogate if surrogate else None)
            for val, raw, surrogate in zip(ys, *flags, strict=True)
        ]
        return (new_raws, new_surrogates, new_past), (stacked, raws_of(emitted), child.noise.leave())

    def _final(self, final) -> list[Val]:
        raws, surrogates, _ = final
        return [
            Val(r, a if r is not None else (), s) for r, a, s in zip(raws, self.carry_axes, surrogates, strict=True)
        ]

    def _stacked(self, ys, y_axes) -> list[Val]:
        return [
            Val(jnp.moveaxis(raw, 0, len(axes)), axes, s) if raw is not None else Val(None, (), s)
            for (raw, s), axes in zip(ys, y_axes, strict=True)
        ]


def past_scores(terms: Terms, flow: Flow, plan: Plan, here: Location) -> set[Past]:
    """Collect the score sites of a scan whose earlier steps are charged to a term inside its body."""
    found = {
        key
        for var in terms.charged
        for key in flow.deps[var]
        if isinstance(key, Past) and key.scan == here and plan.modes[key.location] == "score"
    }
    for key, inner in terms.inner.items():
        found |= past_scores(inner, flow.inner[key], plan, here)
    return found
