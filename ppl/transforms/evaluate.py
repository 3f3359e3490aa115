"""The evaluator of estimators: a planned program on values that carry axes of enumeration.

Every value carries one leading axis for each enumerated choice that it depends on. A term of the objective is
multiplied by exp(s - stop_gradient(s)), s the scores of the choices charged to it, and summed over its axes with the
probabilities of the enumerated values.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from ppl import jaxprs
from ppl._errors import StrategyError, UnsoundGradientError
from ppl.analysis.dependence import Flow, Location, in_order, is_inside, location_of
from ppl.analysis.plan import MAX_STATES, Plan, num_states
from ppl.analysis.terms import Terms
from ppl.batching import guard_branch
from ppl.choice import sound_strategies
from ppl.interpreter import Place
from ppl.primitives import Lane, call_p, choice_p, view
from ppl.transforms.axes import Axes, Val, axes_of, expand, raws_of, under, union
from ppl.transforms.guards import forbid_tangents
from ppl.transforms.programs import label_of
from ppl.transforms.seed import dropped_gradient


def magic(score):
    """Return 1 with derivatives that make any factor's expectation differentiable: exp(s - stop_gradient(s))."""
    return jnp.exp(score - lax.stop_gradient(score))


class Evaluator:
    """Evaluate a planned program on values with axes of enumeration.

    Attributes:
        scores: For each score site in scope, its log density (a `Val` of scalars); of earlier steps under `Past`.
        weights: For each enumerated site in scope, the probabilities of its joint values.
        sizes: Number of joint values of each enumerated site.
        active: Within a branch that is evaluated whether or not it is taken: where it is taken.
    """

    def __init__(self, plan: Plan, noise, scores, weights, sizes, location: Location, active: Val | None = None):
        self.plan, self.noise = plan, noise
        self.scores, self.weights, self.sizes = scores, weights, sizes
        self.location, self.active = location, active

    def child(self, location: Location, noise=None, scores=None, weights=None, active=None) -> Evaluator:
        """Return the evaluator of a nested body; dicts that are not given are shared."""
        return Evaluator(
            self.plan,
            self.noise if noise is None else noise,
            self.scores if scores is None else scores,
            self.weights if weights is None else weights,
            self.sizes,
            location,
            self.active if active is None else active,
        )

    # The walk.
    def run(self, body: jaxprs.Body, flow: Flow, terms: Terms, args: Sequence[Val]) -> list[Val]:
        """Evaluate what is needed of a body."""
        env: dict[Any, Val] = {var: Val(const) for var, const in zip(body.constvars, body.consts, strict=True)}
        for var, val in zip(body.invars, args, strict=True):
            env[var] = self._charged(val, flow.deps[var]) if var in terms.charged else val
        read = lambda var: Val(var.val) if isinstance(var, jaxprs.Literal) else env[var]
        for index, eqn in enumerate(body.eqns):
            if any(terms.needs_raw(var) or var in terms.surrogate for var in eqn.outvars):
                vals = [
                    env.get(var, Val(None)) if not isinstance(var, jaxprs.Literal) else read(var) for var in eqn.invars
                ]
                outs = self._equation(index, eqn, flow, terms, vals)
                env.update(zip(eqn.outvars, outs, strict=True))
        outs = [read(var) if self._wanted(var, env) else Val(None) for var in body.outvars]
        return [self._with_surrogate(val) if want else val for val, want in zip(outs, terms.out_surrogate, strict=True)]

    @staticmethod
    def _wanted(var, env) -> bool:
        return isinstance(var, jaxprs.Literal) or var in env

    @staticmethod
    def _with_surrogate(val: Val) -> Val:
        """A value without randomness is its own surrogate."""
        return val if val.surrogate is not None else Val(val.raw, val.axes, val.raw)

    def _equation(self, index, eqn, flow: Flow, terms: Terms, vals) -> list[Val]:
        here = (*self.location, index)
        if eqn.primitive is choice_p:
            outs = [self._choice(here, eqn, vals)]
        elif (index, 0) not in flow.inner:
            return self._plain(eqn, flow, terms, vals)
        elif eqn.primitive in (jaxprs.jit_p, call_p):
            return self.child((*here, 0)).run(jaxprs.read_call(eqn), flow.inner[index, 0], terms.inner[index, 0], vals)
        elif eqn.primitive is jaxprs.scan_p:
            from ppl.transforms.evaluate_scan import ScanEvaluator  # It evaluates its body with this class.

            return ScanEvaluator(self, here, eqn, flow, terms, index).evaluate(vals)
        elif eqn.primitive is jaxprs.remat_p:
            outs = self._remat(here, eqn, flow.inner[index, 0], terms.inner[index, 0], vals)
        else:
            outs = self._cond(here, eqn, flow, terms, index, vals)
        return [
            self._charged(val, flow.deps[var]) if var in terms.charged else val
            for var, val in zip(eqn.outvars, outs, strict=True)
        ]

    def _plain(self, eqn, flow, terms, vals) -> list[Val]:
        """Evaluate an ordinary equation: as it is, and on surrogates where it adds terms up."""
        outs = [Val(None)] * len(eqn.outvars)
        if any(terms.needs_raw(var) for var in eqn.outvars):
            raws, axes = under(lambda *raws: jaxprs.bind(eqn, raws), vals)
            outs = [Val(raw, axes) for raw in raws]
            outs = [
                self._charged(val, flow.deps[var]) if var in terms.charged else val
                for var, val in zip(eqn.outvars, outs, strict=True)
            ]
        if any(var in terms.surrogate and var not in terms.charged for var in eqn.outvars):
            sums = jaxprs.bind(eqn, [val.raw if val.surrogate is None else val.surrogate for val in vals])
            outs = [Val(val.raw, val.axes, total) for val, total in zip(outs, sums, strict=True)]
        return outs

    # Terms.
    def _charged(self, val: Val, deps) -> Val:
        """Charge a term with the scores it depends on, and sum it over its enumerated choices."""
        modes = self.plan.modes
        scores = [self.scores[key] for key in in_order(deps) if modes[location_of(key)] == "score"]
        term = val
        if scores:
            raw, axes = under(lambda term, *scores: term * magic(functools.reduce(jnp.add, scores)), [val, *scores])
            term = Val(raw, axes)
        total = self._averaged(term) if term.axes else term.raw
        return Val(val.raw, val.axes, total.astype(jnp.result_type(val.raw)))

    def _averaged(self, term: Val):
        """Sum a term over the joint values of its enumerated choices, with their probabilities."""
        axes = set(term.axes)
        while not (closed := {a for axis in axes for a in self.weights[axis].axes}) <= axes:
            axes |= closed
        self._check_states(axes)
        weights = [self.weights[axis] for axis in sorted(axes)]
        weight, all_axes = under(lambda *factors: functools.reduce(jnp.multiply, factors), weights)
        spread = expand(term, tuple(sorted(axes)), self.sizes)
        weight = weight.reshape(weight.shape + (1,) * (spread.ndim - weight.ndim))
        finite = jnp.where((weight == 0) & ~jnp.isfinite(spread), 0, spread)  # 0 * inf is 0: it cannot happen.
        return (weight * finite).sum(tuple(range(len(axes))))

    def _check_states(self, axes) -> None:
        states = int(np.prod([float(self.sizes[axis]) for axis in axes]))
        if states > MAX_STATES:
            labels = [label_of(self.plan.places[axis]) for axis in sorted(axes)]
            place = self.plan.places[max(axes)]
            raise StrategyError(
                f"A cost depends on {len(labels)} enumerated choices at once: {states} joint values.",
                where=f"{label_of(place)!r} at {place.eqn.params['source']}",
                expected=f"at most {MAX_STATES} joint values for one cost term",
                got=", ".join(repr(label) for label in labels[:6]) + (", ..." if len(labels) > 6 else ""),
                remedy="use `reinforce()` for some of them, or write the cost as a sum of smaller terms",
            )

    def auxiliary(self, val: Val):
        """Return an auxiliary result: its mean over enumerated choices, where it depends on some."""
        if not val.axes:
            return val.raw
        if not jnp.issubdtype(jnp.result_type(val.raw), jnp.inexact):
            place = self.plan.places[val.axes[0]]
            raise StrategyError(
                "An auxiliary result that is not a float depends on an enumerated choice, which is never drawn.",
                where=f"{label_of(place)!r} at {place.eqn.params['source']}",
                got=str(jnp.result_type(val.raw)),
                remedy="convert it to float (its mean is returned), or use another strategy for the choice",
            )
        return self._averaged(val)

    # Choices.
    def _choice(self, here: Location, eqn, vals) -> Val:
        params = eqn.params
        spec, strategy, masked = params["spec"], params["strategy"], params["masked"]
        lanes = params["lanes"]
        if self.active is not None:
            vals, lanes = self._masked_by(self.active, vals, lanes, masked)
            masked = True
        mode = strategy.mode if strategy is not None else "none"
        if mode == "path":
            raw, axes = under(lambda *ops: view(spec, lanes, masked, ops).draw(self.noise.source_at(here)), vals)
            return Val(raw, axes)
        axes = union(vals)
        full = [Lane(self.sizes[axis], tuple(axis in val.axes for val in vals), 0) for axis in axes] + list(lanes)
        operands = [val.raw for val in vals]
        if mode == "none":
            operands = forbid_tangents(operands, lambda: missing_strategy(self.plan.places[here]))
        elif spec.family.support.moving:
            operands = self._guard_support(here, eqn, operands)
        sorted_out = view(spec, full, masked, operands)
        if mode == "enumerate":
            return self._enumerate(here, sorted_out, axes)
        value = lax.stop_gradient(self.noise.draw(here, sorted_out))
        if mode == "score":
            log_prob = sorted_out.log_prob(value, inside=sorted_out.mask is None)
            log_prob = jnp.broadcast_to(log_prob, sorted_out.shape)
            self.scores[here] = Val(log_prob.sum(tuple(range(len(axes), log_prob.ndim))), axes)
        return Val(value, axes)

    def _masked_by(self, active: Val, vals, lanes, masked):
        """Give a choice in a branch that may not be taken a mask, or narrow the one that it has."""
        if masked:
            raw, axes = under(lambda mask, active: mask & active, [vals[-1], active])
            return [*vals[:-1], Val(raw, axes)], lanes
        lanes = tuple(dataclasses.replace(lane, mapped=(*lane.mapped, False)) for lane in lanes)
        return [*vals, active], lanes

    def _guard_support(self, here, eqn, operands):
        names, params = eqn.params["spec"].names, eqn.params
        moving, label = params["spec"].family.support.moving, label_of(self.plan.places[here])

        def error():
            return UnsoundGradientError(
                f"The support of {params['spec'].family} {label!r} moves with its parameters, "
                "which a score function cannot see.",
                where=f"{label!r} at {params['source']}",
                expected="a derivative with respect to parameters that leave the support where it is",
                got=f"a derivative with respect to {' or '.join(moving)}",
                remedy="use `pathwise()` for this choice",
            )

        return [
            forbid_tangents([operand], error)[0] if i < len(names) and names[i] in moving else operand
            for i, operand in enumerate(operands)
        ]

    def _enumerate(self, here: Location, sorted_out, axes: Axes) -> Val:
        """Let a choice take all of its joint values at once, along a new leading axis."""
        place = self.plan.places[here]
        states = num_states(place)
        if states > MAX_STATES:
            raise StrategyError(
                f"The choice {label_of(place)!r} has too many joint values to be enumerated: {states:.3g}.",
                where=f"{label_of(place)!r} at {place.eqn.params['source']}",
                expected=f"at most {MAX_STATES}, over all lanes and batch elements",
                remedy="use `reinforce()` for this choice",
            )
        shape = sorted_out.shape[len(axes) :]
        spec, elements = sorted_out.spec, int(np.prod(shape, dtype=int))
        values = joint_values(spec.num_values([p.shape for p in sorted_out.params]), elements)
        self.sizes[here] = states
        probs = self._probabilities(sorted_out).reshape((-1, *sorted_out.shape[: len(axes)], elements))
        weight = jnp.ones((states, *sorted_out.shape[: len(axes)]), probs.dtype)
        for element in range(elements):
            weight = weight * probs[values[:, element], ..., element]
        axes_out = tuple(sorted({*axes, here}))
        self.weights[here] = Val(jnp.moveaxis(weight, 0, axes_out.index(here)), axes_out)
        table = jnp.asarray(values.reshape((states, *shape)) + spec.first_value(), jnp.int32)
        if sorted_out.mask is None:
            return Val(table, (here,))
        return self._masked_table(here, table, sorted_out, axes, axes_out)

    def _probabilities(self, sorted_out):
        """Return the probability of each value, with a leading axis of values; uniform where the choice is not made."""
        probs = sorted_out.spec.probabilities(sorted_out.params)
        missing = (1,) * (len(sorted_out.shape) - (probs.ndim - 1))
        probs = probs.reshape((probs.shape[0], *missing, *probs.shape[1:]))
        probs = jnp.broadcast_to(probs, (probs.shape[0], *sorted_out.shape))
        return probs if sorted_out.mask is None else jnp.where(sorted_out.spread_mask(False), probs, 1 / len(probs))

    def _masked_table(self, here, table, sorted_out, axes, axes_out) -> Val:
        mask = jnp.broadcast_to(sorted_out.spread_mask(False), sorted_out.shape)
        mask = jnp.moveaxis(mask[None], 0, axes_out.index(here))
        spread = table.reshape((1,) * len(axes) + table.shape)
        value = jnp.where(mask, jnp.moveaxis(spread, len(axes), axes_out.index(here)), 0)
        return Val(value, axes_out)

    # Bodies.
    def _remat(self, here, eqn, flow: Flow, terms: Terms, vals) -> list[Val]:
        """Evaluate a checkpointed body under the same checkpoint; scores and weights leave it as results."""
        layout: list[Any] = []

        def body(*raws):
            child = self.child((*here, 0), self.noise.branch(), dict(self.scores), dict(self.weights))
            args = [Val(raw, val.axes) for raw, val in zip(raws, vals, strict=True)]
            outs = child.run(jaxprs.read_call(eqn), flow, terms, args)
            scores = {key: val for key, val in child.scores.items() if key not in self.scores}
            weights = {key: val for key, val in child.weights.items() if key not in self.weights}
            layout.append(([val.axes for val in outs], axes_of(scores), axes_of(weights)))
            return [val.raw for val in outs], raws_of(scores), raws_of(weights), child.noise.leave()

        raws, scores, weights, extra = jaxprs.checkpointed(eqn, body)(*[val.raw for val in vals])
        out_axes, score_axes, weight_axes = layout[-1]
        self.scores.update({key: Val(raw, score_axes[key]) for key, raw in scores.items()})
        self.weights.update({key: Val(raw, weight_axes[key]) for key, raw in weights.items()})
        self.noise.absorb(extra, "call")
        return [Val(raw, axes) for raw, axes in zip(raws, out_axes, strict=True)]

    def _cond(self, here, eqn, flow: Flow, terms: Terms, index, vals) -> list[Val]:
        branches = jaxprs.read_branches(eqn)
        flows = [flow.inner[index, n] for n in range(len(branches))]
        needs = [terms.inner[index, n] for n in range(len(branches))]
        enumerates = any(self.plan.modes[site] == "enumerate" for site in self.plan.modes if is_inside(site, here))
        if enumerates or union(vals) or self.active is not None:
            return self._cond_in_line(here, branches, flows, needs, vals)
        return self._switch(here, branches, flows, needs, vals)

    def _switch(self, here, branches, flows, needs, vals) -> list[Val]:
        """Evaluate only the branch that is taken; scores of choices in the others are 0."""
        index, *operands = [val.raw for val in vals]
        sites = [site for site, mode in self.plan.modes.items() if mode == "score" and is_inside(site, here)]

        def branch(number):
            def run(*raws):
                child = self.child((*here, number), self.noise.branch(), dict(self.scores), dict(self.weights))
                outs = child.run(branches[number], flows[number], needs[number], [Val(raw) for raw in raws])
                scores = [child.scores[site].raw if site in child.scores else 0.0 for site in sites]
                scores = [jnp.asarray(score, jnp.result_type(float)) for score in scores]  # One dtype in all branches.
                child.noise.skip(here, number, len(branches))
                return [val.raw for val in outs], scores, child.noise.leave()

            return run

        raws, scores, extra = lax.switch(index, [branch(n) for n in range(len(branches))], *operands)
        self.scores.update({site: Val(score) for site, score in zip(sites, scores, strict=True)})
        self.noise.absorb(extra, "call")
        return [Val(raw) for raw in raws]

    def _cond_in_line(self, here, branches, flows, needs, vals) -> list[Val]:
        """Evaluate every branch, its choices masked, and select: for enumerated predicates and choices."""
        index, *operands = vals
        results = []
        for number, body in enumerate(branches):
            active = Val(*under(lambda i, n=number: i == n, [index]))
            if self.active is not None:
                active = Val(*under(jnp.logical_and, [active, self.active]))
            guarded = [Val(*under(guard_branch, [active, operand])) for operand in operands]
            child = self.child((*here, number), active=active)
            results.append(child.run(body, flows[number], needs[number], guarded))
        select = lambda i, *cases: lax.select_n(jnp.broadcast_to(i, jnp.shape(cases[0])), *cases)
        return [Val(*under(select, [index, *cases])) for cases in zip(*results, strict=True)]


def joint_values(num_values: int, elements: int) -> np.ndarray:
    """List all joint values of several choices, shape (num_values**elements, elements)."""
    grids = np.indices((num_values,) * elements).reshape(elements, -1).T if elements else np.zeros((1, 0), int)
    return grids.astype(np.int32)


def missing_strategy(place: Place) -> StrategyError:
    """Build the error for a derivative that meets a choice without a strategy."""
    error, label = dropped_gradient(place), label_of(place)
    return StrategyError(
        f"A derivative reaches the parameters of {place.eqn.params['spec'].family} {label!r}, which has no strategy.",
        where=error.details["where"],
        expected="a gradient strategy for every choice that a derivative meets",
        got="none",
        remedy=f"give it grad= one of {', '.join(sound_strategies(place.eqn.params['spec'].family))}",
    )
