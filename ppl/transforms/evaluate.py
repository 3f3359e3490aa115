"""The evaluator of estimators: a planned program on values that carry axes of enumeration.

Every value carries one leading axis for each enumerated choice that it depends on. A term of the objective is
multiplied by exp(s - stop_gradient(s)), s the scores of the choices charged to it, and summed over its axes with the
probabilities of the enumerated values.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from ppl import jaxprs
from ppl._errors import StrategyError, UnsoundGradientError
from ppl.analysis.demand import Demand, demand
from ppl.analysis.dependence import NONE, Deps, Flow, Location, Together, in_order, is_inside, location_of, root
from ppl.analysis.plan import MAX_STATES, Plan, follows, num_values
from ppl.analysis.plan import num_states as states_of
from ppl.analysis.terms import Terms
from ppl.batching import guard_branch
from ppl.choice import sound_strategies
from ppl.interpreter import Place
from ppl.operands import (
    baseline_in_lanes,
    choice_at,
    fitted_at,
    learned_baseline,
    learned_operand,
    share_at,
    without_baseline,
)
from ppl.primitives import Lane, call_p, choice_p, density_p, draw, evaluate_density, view
from ppl.transforms.axes import Axes, Table, Val, aligned, at_states, expand, under, union
from ppl.transforms.classes import at, by_choice, classes_of, evaluate_by_class
from ppl.transforms.elimination import Factor, eliminate, multiply
from ppl.transforms.folding import fold, read_rows, spread
from ppl.transforms.guards import forbid_tangents
from ppl.transforms.lanes import all_joint, axes_in_step, mixed_among, mixed_in, spread_over
from ppl.transforms.programs import label_of
from ppl.transforms.seed import dropped_gradient
from ppl.transforms.tables import LogMasses, evaluate_all, evaluate_uniform
from ppl.transforms.trailing import evaluate_last, weigh_last
from ppl.transforms.weighing import weigh


def magic(score):
    """Return 1 with derivatives that make any factor's expectation differentiable: exp(s - stop_gradient(s))."""
    return jnp.exp(score - lax.stop_gradient(score))


@dataclasses.dataclass(frozen=True)
class Record:
    """What a choice is drawn from, with a lane for each scan that it has left.

    Attributes:
        spec: Its distribution.
        lanes: Lanes, and whether there is a mask.
        masked: Whether it has a mask.
        operands: Parameters, and the mask.
        lead: How many of the first lanes are the values of enumerated choices.
        learns: Whether the last operand is what the strategy learns.
    """

    spec: Any
    lanes: tuple[Lane, ...]
    masked: bool
    operands: list
    lead: int = 0
    learns: bool = False

    def with_operands(self, operands: Sequence) -> Record:
        """Return the same with other arrays."""
        return dataclasses.replace(self, operands=list(operands))

    def stacked(self, operands: Sequence, length: int) -> Record:
        """Return what leaves a scan: stacked arrays, their steps after the values of enumerated choices."""
        first, rest = self.lanes[: self.lead], self.lanes[self.lead :]
        before = [sum(lane.mapped[i] for lane in first) for i in range(len(operands))]
        moved = [jnp.moveaxis(operand, 0, count) for operand, count in zip(operands, before, strict=True)]
        lanes = (*first, Lane(length, (True,) * len(operands), 0), *rest)
        return dataclasses.replace(self, lanes=lanes, operands=moved)

    def split(self) -> tuple[list, tuple[Lane, ...], Any, tuple[Lane, ...]]:
        """Return operands and lanes, and what the strategy learns (or None) with its lanes."""
        if not self.learns:
            return self.operands, self.lanes, None, ()
        narrow = lambda part: tuple(dataclasses.replace(lane, mapped=lane.mapped[part]) for lane in self.lanes)
        return self.operands[:-1], narrow(slice(None, -1)), self.operands[-1], narrow(slice(-1, None))


class Evaluator:
    """Evaluate a planned program on values with axes of enumeration.

    Attributes:
        scores: For each score site in scope, its log density (a `Val` of scalars); of earlier steps under `Past`.
        weights: For each enumerated site in scope, the probabilities of its joint values.
        sizes: Number of joint values of each enumerated site.
        active: Within a branch that is evaluated whether or not it is taken: where it is taken.
        records: What the choices with direct strategies are drawn from.
    """

    def __init__(
        self, plan: Plan, noise, scores, weights, sizes, location: Location, active: Val | None = None, records=None
    ):
        self.plan, self.noise = plan, noise
        self.scores, self.weights, self.sizes = scores, weights, sizes
        self.location, self.active = location, active
        self.messages: dict[Any, Val] = {}
        self.logs = LogMasses()
        self.records: dict[Location, Record] = {} if records is None else records

    def child(self, location: Location, noise=None, scores=None, weights=None, active=None) -> Evaluator:
        """Return the evaluator of a nested body; dicts that are not given are shared."""
        inner = Evaluator(
            self.plan,
            self.noise if noise is None else noise,
            self.scores if scores is None else scores,
            self.weights if weights is None else weights,
            self.sizes,
            location,
            self.active if active is None else active,
            self.records,
        )
        if weights is None:
            inner.messages, inner.logs = self.messages, self.logs
        return inner

    # The walk.
    def run(self, body: jaxprs.Body, flow: Flow, terms: Terms, args: Sequence[Val]) -> list[Val]:
        """Evaluate what is needed of a body."""
        env: dict[Any, Val] = {var: Val(const) for var, const in zip(body.constvars, body.consts, strict=True)}
        for var, val in zip(body.invars, args, strict=True):
            env[var] = self._charged(val, flow, var) if var in terms.charged else val
        self.walk(body, flow, terms, env, range(len(body.eqns)), demand(self.plan, body, flow, terms, self.location))
        return self.results(body, terms, env)

    def walk(
        self,
        body: jaxprs.Body,
        flow: Flow,
        terms: Terms,
        env: dict[Any, Val],
        indices: Iterable[int],
        asked: Demand | None = None,
    ) -> None:
        """Evaluate what is needed of some equations; `env` holds what they read, and takes what they make."""
        for index in indices:
            eqn = body.eqns[index]
            if terms.needs(eqn):
                vals = [Val(v.val) if isinstance(v, jaxprs.Literal) else env.get(v, Val(None)) for v in eqn.invars]
                outs = None
                if asked is not None:
                    states = asked.states(index, eqn)
                    vals = [at(at_states(val, each), each) for val, each in zip(vals, states, strict=True)]
                    vals, mixes = self._lanes(index, eqn, flow, vals)
                    outs = None if mixes else self._by_class(index, eqn, flow, terms, vals, asked)
                    vals = vals if outs is not None else [by_choice(val) for val in vals]
                outs = self._equation(index, eqn, flow, terms, vals) if outs is None else outs
                if jaxprs.read_function(eqn) is not None:
                    outs = [_trimmed(val, flow.deps.get(var, NONE)) for var, val in zip(eqn.outvars, outs, strict=True)]
                env.update(zip(eqn.outvars, outs, strict=True))

    def _lanes(self, index, eqn, flow: Flow, vals) -> tuple[list[Val], bool]:
        """Give an equation that mixes lanes all their joint values; say whether it is a call inside of which that is.

        Lanes that are mixed in one of its operands are mixed in all.
        """
        apart = axes_in_step(self.plan, vals)
        if not apart:
            return vals, False
        mixed = apart & mixed_among(vals)
        for var in eqn.outvars:
            mixed |= {site for site in apart if not follows(self.plan, flow.deps.get(var, NONE), site)}
        if mixed and (index, 0) in flow.inner:
            return vals, True
        deps = [flow.of(var) for var in eqn.invars]
        return [all_joint(self.plan, val, mixed, at) for val, at in zip(vals, deps, strict=True)], False

    def results(self, body: jaxprs.Body, terms: Terms, env: dict[Any, Val]) -> list[Val]:
        """Return what is needed of a body's results."""
        outs = [Val(v.val) if isinstance(v, jaxprs.Literal) else by_choice(env.get(v, Val(None))) for v in body.outvars]
        return [self._with_surrogate(val) if want else val for val, want in zip(outs, terms.out_surrogate, strict=True)]

    @staticmethod
    def _with_surrogate(val: Val) -> Val:
        """A value without randomness is its own surrogate."""
        return val if val.surrogate is not None else dataclasses.replace(val, surrogate=val.raw)

    def _equation(self, index, eqn, flow: Flow, terms: Terms, vals) -> list[Val]:
        here = (*self.location, index)
        if eqn.primitive is choice_p:
            outs = [self._choice(here, eqn, vals)]
        elif (index, 0) not in flow.inner:
            return self._plain(eqn, flow, terms, vals)
        elif eqn.primitive in (jaxprs.jit_p, call_p):
            return self.child((*here, 0)).run(jaxprs.read_call(eqn), flow.inner[index, 0], terms.inner[index, 0], vals)
        elif eqn.primitive is jaxprs.scan_p:
            from ppl.transforms.evaluate_chain import scan_evaluator  # It evaluates its body with this class.

            return scan_evaluator(self, here, eqn, flow, terms, index).evaluate(vals)
        elif eqn.primitive is jaxprs.remat_p:
            outs = self._remat(here, eqn, flow.inner[index, 0], terms.inner[index, 0], vals)
        else:
            outs = self._cond(here, eqn, flow, terms, index, vals)
        return [
            self._charged(val, flow, var) if var in terms.charged else val
            for var, val in zip(eqn.outvars, outs, strict=True)
        ]

    def _by_class(self, index, eqn, flow: Flow, terms: Terms, vals, asked: Demand) -> list[Val] | None:
        """Evaluate an ordinary equation for each class of joint values that its operands tell apart, if few."""
        if (index, 0) in flow.inner and index not in asked.calls:
            return None
        if eqn.primitive is choice_p or not any(terms.needs_raw(var) for var in eqn.outvars):
            return None
        if not any(jnp.issubdtype(var.aval.dtype, jnp.inexact) for var in eqn.outvars):
            return None
        known = [asked.known_at(var, states) for var, states in zip(eqn.invars, asked.states(index, eqn), strict=True)]
        elements = max((math.prod(getattr(var.aval, "shape", ())) for var in eqn.outvars), default=0)
        selects = eqn.primitive.name == "select_n"
        found = evaluate_by_class(lambda *raws: self._bind(eqn, raws), vals, known, self.sizes, elements, selects)
        return (
            None if found is None else self._plain(eqn, flow, terms, vals, [Val(raw, (found[1],)) for raw in found[0]])
        )

    def _plain(self, eqn, flow, terms, vals, outs: list[Val] | None = None) -> list[Val]:
        """Evaluate an ordinary equation: as it is (unless given), and on surrogates where it adds terms up."""
        if any(terms.needs_raw(var) for var in eqn.outvars):
            outs = self._raw(eqn, vals) if outs is None else outs
            outs = [
                self._charged(by_choice(val), flow, var) if var in terms.charged else val
                for var, val in zip(eqn.outvars, outs, strict=True)
            ]
        else:
            outs = [Val(None)] * len(eqn.outvars)
        if any(var in terms.surrogate and var not in terms.charged for var in eqn.outvars):
            sums = jaxprs.bind(eqn, [val.raw if val.surrogate is None else val.surrogate for val in vals])
            outs = [dataclasses.replace(val, surrogate=total) for val, total in zip(outs, sums, strict=True)]
        return outs

    def _raw(self, eqn, vals) -> list[Val]:
        """Evaluate an ordinary equation as it is."""
        known = fold(eqn, vals)
        if known is None and any(val.uniform is not None for val in vals):
            known = read_rows(eqn, vals) or self.logs.read(eqn, vals) or evaluate_all(eqn, vals)
            known = known or evaluate_uniform(eqn, vals)
        if known is None:
            known = evaluate_last(eqn, vals)
        if known is not None:
            return [known]
        raws, axes = under(lambda *raws: self._bind(eqn, raws), vals)
        return [Val(raw, axes) for raw in raws]

    @staticmethod
    def _bind(eqn, raws) -> list:
        return [evaluate_density(eqn, raws)] if eqn.primitive is density_p else jaxprs.bind(eqn, raws)

    # Terms.
    def _charged(self, val: Val, flow: Flow, var) -> Val:
        """Charge a term, lane by lane, with the scores it depends on, and sum it over its enumerated choices."""
        modes, deps = self.plan.modes, flow.deps[var]
        keys = [key for key in in_order(deps) if modes[location_of(key)] != "enumerate" and key in self.scores]
        scores = [self.scores[key] for key in keys]
        together = mixed_in(self.plan, [val, *scores], deps, self.weights)
        term = all_joint(self.plan, val, together, deps)
        if together:
            scores = [spread_over(score, together, self.plan, key) for key, score in zip(keys, scores, strict=True)]
        if keys:

            def charge(term, *scores):
                spread = [aligned(s, deps[key], term.shape) for key, s in zip(keys, scores, strict=True)]
                return term * magic(functools.reduce(jnp.add, spread))

            term = Val(*under(charge, [term, *scores]))
        total = self.averaged(term, deps, flow.values.deps[var] if term.axes else deps)
        return dataclasses.replace(val, surrogate=total.astype(jnp.result_type(val.raw)))

    def averaged(self, term: Val, deps: Deps, values: Deps | None = None):
        """Sum a term over the joint values of its enumerated choices, if any, with their probabilities."""
        if not term.axes:
            return term.raw
        keys = [key for key in deps if key in self.weights]
        if len(keys) == 1 and not self.plan.leaves(keys[0], self.location):
            pair = weigh_last(term, self.weights[keys[0]], deps[keys[0]])
            if pair is not None:
                return weigh(pair[0], term.axes, [Factor(None, Val(pair[1], term.axes))], at=-1)
        together = mixed_in(self.plan, [term], deps, self.weights)
        term = all_joint(self.plan, term, together, deps)
        factors = self.factors(deps, term.raw.shape[len(term.axes) :], values, together)
        factors = eliminate(factors, term.axes, self.num_states, self.messages)
        self.num_states(term.axes)
        return weigh(term.raw, term.axes, factors)

    def joint_weight(self, axes: Axes, deps: Deps, shape: tuple[int, ...], values: Deps | None = None):
        """Return the probabilities of the joint values of enumerated choices; they broadcast to a value's shape."""
        factors = eliminate(self.factors(deps, shape, values), axes, self.num_states, self.messages)
        self.num_states(axes)
        return expand(multiply(factors), axes, self.sizes)

    def factors(
        self, deps: Deps, shape: tuple[int, ...], values: Deps | None = None, together: Collection = ()
    ) -> list[Factor]:
        """List the probabilities of the enumerated choices among dependencies, spread over the lanes of a value.

        Those of the choices in `together` are of all joint values of their lanes.
        """
        positions = {key: deps[key] for key in in_order(key for key in deps if key in self.weights)}
        leaving = [key for key in positions if self.plan.leaves(key, self.location)]
        for key in leaving:  # Each step has its own probability, whatever its parameters depended on.
            positions[key] = positions[key] if values is None else values.get(key)
        factors = []
        for key, position in positions.items():
            if position is not None:
                weight = self._weight(key, together)
                spread, axes = under(lambda w, at=position: aligned(w, at, shape), [weight])
                factors.append(Factor((key, weight.axes, position, len(shape)), Val(spread, axes)))
        return factors

    def _weight(self, key: Any, together: Collection) -> Val:
        """Return the probabilities of a choice; of all joint values of its lanes, if those are asked for."""
        if Together(key) in self.weights and key in together:
            return self.weights[Together(key)]
        weight = spread_over(self.weights[key], together, self.plan, key) if together else self.weights[key]
        if key in together:
            weight = self.weights[Together(key)] = self._jointly(key, weight)
        return weight

    def _jointly(self, here: Location, weight: Val) -> Val:
        """Return the probabilities of the joint values of a choice's lanes, in step so far."""
        at, lead = weight.axes.index(here), len(weight.axes)
        place, joint = self.plan.places[here], self.plan.joint[here]
        axes = tuple(in_order({*weight.axes, Together(here)} - {here}))
        probs = jnp.moveaxis(weight.raw, at, 0)
        shape = probs.shape[lead:]
        values = joint_values(num_values(place), math.prod(shape[axis] for axis in joint))
        product = self._joint_weight(probs, values, [lead + axis for axis in joint])
        own = [1 if axis in joint else size for axis, size in enumerate(shape)]
        product = product.reshape((len(values), *probs.shape[1:lead], *own))
        return Val(jnp.moveaxis(product, 0, axes.index(Together(here))), axes)

    def num_states(self, axes) -> float:
        """Return the number of joint values of some enumerated choices; refuse too many."""
        states = math.prod(float(self.sizes[axis]) for axis in axes)
        if states > MAX_STATES:
            labels = [label_of(self.plan.places[location_of(axis)]) for axis in axes]
            place = self.plan.places[location_of(axes[-1])]
            raise StrategyError(
                f"A cost depends on {len(labels)} enumerated choices at once: {states:.3g} joint values.",
                where=f"{label_of(place)!r} at {place.eqn.params['source']}",
                expected=f"at most {MAX_STATES} joint values for one cost term",
                got=", ".join(repr(label) for label in labels[:6]) + (", ..." if len(labels) > 6 else ""),
                remedy="use `reinforce()` for some of them, or write the cost as a sum of smaller terms",
            )
        return states

    def auxiliary(self, val: Val, number: int):
        """Return the auxiliary result of this number: its mean over enumerated choices, where it depends on some."""
        if not val.axes:
            return val.raw
        if not jnp.issubdtype(jnp.result_type(val.raw), jnp.inexact):
            place = self.plan.places[location_of(val.axes[0])]
            raise StrategyError(
                "An auxiliary result that is not a float depends on an enumerated choice, which is never drawn.",
                where=f"{label_of(place)!r} at {place.eqn.params['source']}",
                got=str(jnp.result_type(val.raw)),
                remedy="convert it to float (its mean is returned), or use another strategy for the choice",
            )
        flow = self.plan.flow
        return self.averaged(val, flow.outs[number], flow.values.outs[number])

    # Choices.
    def _choice(self, here: Location, eqn, vals) -> Val:
        params = eqn.params
        spec, strategy, masked = params["spec"], params["strategy"], params["masked"]
        baseline, learned = self._baseline(here, eqn, vals), learned_operand(params, vals)
        vals, lanes = without_baseline(params, vals)
        if self.active is not None:
            vals, lanes = self._masked_by(self.active, vals, lanes, masked)
            masked = True
        mode = strategy.mode if strategy is not None else "none"
        if mode == "path":
            vals = self._guard_path(here, vals)
            raw, axes = under(lambda *ops: draw(spec, lanes, masked, self.noise.source_at(here), ops), vals)
            return Val(raw, axes)
        axes = union(vals if baseline is None else [*vals, baseline])
        costly = self.plan.needs_costs(here)
        if costly:
            axes = self._above(here, axes)
        full = [Lane(self.sizes[axis], tuple(axis in val.axes for val in vals), 0) for axis in axes] + list(lanes)
        operands = [val.raw for val in vals]
        if mode == "none":
            operands = forbid_tangents(operands, lambda: missing_strategy(self.plan.places[here]))
        elif spec.family.support.moving and mode != "direct":  # Those say for themselves what they apply to.
            operands = self._guard_support(here, eqn, operands)
        sorted_out = view(spec, full, masked, operands)
        if mode == "enumerate":
            return self._enumerate(here, sorted_out, vals, axes)
        value = self.noise.draw(here, sorted_out)
        value = value if here in self.noise.given else lax.stop_gradient(value)
        score = self.noise.shift(here)
        if mode == "score":
            log_prob = jnp.broadcast_to(sorted_out.log_prob(value, inside=sorted_out.mask is None), sorted_out.shape)
            score = log_prob if score is None else log_prob + score
        if mode == "direct":
            self.records[here] = self._record(
                here, eqn, learned, Record(spec, tuple(full), masked, operands, len(axes))
            )
        if axes and costly:
            own = sorted_out.shape[len(axes) :]
            share = self.joint_weight(axes, self.plan.flow.choices[here], own)
            self.scores[share_at(here)] = Val(lax.stop_gradient(jnp.broadcast_to(share, sorted_out.shape)), axes)
        if score is not None:
            self.scores[here] = Val(score, axes)
        if baseline is not None:
            fitted = jnp.broadcast_to(expand(baseline, axes, self.sizes), sorted_out.shape)
            fitted = fitted if sorted_out.mask is None else jnp.where(sorted_out.spread_mask(False), fitted, 0)
            self.scores[fitted_at(here)] = Val(fitted, axes)
        return Val(value, axes)

    def _baseline(self, here: Location, eqn, vals) -> Val | None:
        """Return the value of a learned baseline, its axes broadcasting against the lanes and batch of the choice."""
        params = eqn.params
        if learned_baseline(params["strategy"]) is None:
            return None
        if not params["baseline"]:
            raise without_value(self.plan.places[here])
        given = vals[len(params["spec"].names)]
        return Val(*under(baseline_in_lanes(params), [given]))

    def _record(self, here: Location, eqn, learned, record: Record) -> Record:
        """Keep what a choice is drawn from, and what its strategy learns."""
        if not eqn.params["strategy"].learns:
            return record
        if learned is None:
            raise without_value(self.plan.places[here])
        val, mapped = learned
        if val.axes:
            raise learned_below_enumeration(self.plan.places[here])
        mapped = (False,) * (len(record.lanes) - len(mapped)) + mapped
        lanes = tuple(
            dataclasses.replace(lane, mapped=(*lane.mapped, own))
            for lane, own in zip(record.lanes, mapped, strict=True)
        )
        return dataclasses.replace(record, lanes=lanes, operands=[*record.operands, val.raw], learns=True)

    def _above(self, here: Location, axes: Axes) -> Axes:
        """Return all enumerated choices for each value of which costs are to be known."""
        above = self.plan.above(here)
        if not set(axes) <= set(above):
            raise under_enumeration(self.plan.places[here])
        return above

    def _guard_path(self, here: Location, vals) -> list[Val]:
        """Refuse derivatives of a pathwise choice that reaches the result through a discontinuity."""
        path = self.plan.smoothness.unsound.get(here)
        if path is None:
            return vals
        return [Val(*forbid_tangents([val.raw], path.error), val.axes) for val in vals]

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

    def _enumerate(self, here: Location, sorted_out, vals, axes: Axes) -> Val:
        """Let a choice take all of its values at once, along a new leading axis; lanes that no term mixes in step."""
        place, joint, states = self.plan.places[here], self.plan.joint[here], states_of(self.plan, here)
        if states > MAX_STATES:
            raise StrategyError(
                f"The choice {label_of(place)!r} has too many joint values: 2**{states.bit_length() - 1} or more.",
                where=f"{label_of(place)!r} at {place.eqn.params['source']}",
                expected=f"at most {MAX_STATES}, over all lanes and batch elements that one cost mixes",
                remedy="use `reinforce()` for this choice, or write the cost as a sum over its elements",
            )
        if here in self.plan.in_step:
            self.sizes[Together(here)] = states
            joint, states = (), num_values(place)
        lead, shape = sorted_out.shape[: len(axes)], sorted_out.shape[len(axes) :]
        together = tuple(shape[axis] for axis in joint)
        values = joint_values(num_values(place), int(np.prod(together, dtype=int)))
        self.sizes[here] = states
        probs = self.logs.probabilities(here, sorted_out, vals, axes)
        axes_out, at = probs.axes, probs.axes.index(here)
        if joint:
            weight = jnp.moveaxis(probs.raw, at, 0)
            weight = self._joint_weight(weight, values, [1 + len(axes) + axis for axis in joint])
            weight = weight.reshape((states, *lead, *(1 if i in joint else size for i, size in enumerate(shape))))
            probs = Val(jnp.moveaxis(weight, 0, at), axes_out)
        self.weights[here] = probs
        own = tuple(size if i in joint else 1 for i, size in enumerate(shape))
        uniform = (values.reshape((states, *own)) + sorted_out.spec.first_value()).astype(np.int32)
        table = spread(uniform, 1, shape)
        if sorted_out.mask is None:
            all_values = (sorted_out.spec.first_value(), states) if not joint else None
            return Val(table, (here,), None, uniform, all_values)
        return self._masked_table(here, table, sorted_out, axes, axes_out)

    @staticmethod
    def _joint_weight(probs, values, joint: Sequence[int]):
        """Return the probability of joint values, in front; axes that are not joint stay."""
        probs = jnp.moveaxis(probs, joint, range(probs.ndim - len(joint), probs.ndim))
        probs = probs.reshape((*probs.shape[: probs.ndim - len(joint)], -1))
        factors = (probs[values[:, element], ..., element] for element in range(values.shape[1]))
        return functools.reduce(jnp.multiply, factors)

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
            records = {site: record for site, record in child.records.items() if site not in known}
            layout.append(([val.axes for val in outs], Table(scores), Table(weights), records))
            operands = [record.operands for record in records.values()]
            return [val.raw for val in outs], Table(scores).raws, Table(weights).raws, operands, child.noise.leave()

        known = set(self.records)
        raws, scores, weights, operands, extra = jaxprs.checkpointed(eqn, body)(*[val.raw for val in vals])
        out_axes, score_table, weight_table, records = layout[-1]
        for (site, record), given in zip(records.items(), operands, strict=True):
            self.records[site] = record.with_operands(given)
        self.scores.update(score_table.restore(scores))
        self.weights.update(weight_table.restore(weights))
        self.noise.absorb(extra, "call")
        return [Val(raw, axes) for raw, axes in zip(raws, out_axes, strict=True)]

    def _cond(self, here, eqn, flow: Flow, terms: Terms, index, vals) -> list[Val]:
        branches = jaxprs.read_branches(eqn)
        flows = [flow.inner[index, n] for n in range(len(branches))]
        needs = [terms.inner[index, n] for n in range(len(branches))]
        modes = {mode for site, mode in self.plan.modes.items() if is_inside(site, here)}
        if modes & {"enumerate", "direct"} or union(vals) or self.active is not None:
            return self._cond_in_line(here, branches, flows, needs, vals)
        return self._switch(here, branches, flows, needs, vals)

    def _switch(self, here, branches, flows, needs, vals) -> list[Val]:
        """Evaluate only the branch that is taken; scores of choices in the others are 0."""
        index, *operands = [val.raw for val in vals]
        sites = [site for site, mode in self.plan.modes.items() if mode == "score" and is_inside(site, here)]
        sites += [fitted_at(site) for site in sites if learned_baseline(self.plan.places[site].eqn.params["strategy"])]

        def branch(number):
            def run(*raws):
                child = self.child((*here, number), self.noise.branch(), dict(self.scores), dict(self.weights))
                outs = child.run(branches[number], flows[number], needs[number], [Val(raw) for raw in raws])
                shapes = [self.plan.shape_of(choice_at(site), self.location) for site in sites]
                scores = [
                    child.scores[site].raw if site in child.scores else jnp.zeros(shape)
                    for site, shape in zip(sites, shapes, strict=True)
                ]
                scores = [score.astype(jnp.result_type(float)) for score in scores]  # One dtype in all branches.
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


def _trimmed(val: Val, deps: Deps) -> Val:
    """Forget axes that a result of a function has from operands of other results, or of none."""
    own = {root(key) for key in deps}
    classes = classes_of(val)
    axes = val.axes if classes is None else classes.sites
    spare = {axis: 0 for axis in axes if (axis.location if isinstance(axis, Together) else axis) not in own}
    return at(at_states(val, spare), spare) if spare else val


def without_value(place: Place) -> StrategyError:
    """Build the error for a strategy with something to learn that was given to a choice after it had been made."""
    return StrategyError(
        f"What the strategy of {label_of(place)!r} learns has no value.",
        where=f"{label_of(place)!r} at {place.eqn.params['source']}",
        expected="a strategy given at the choice (`grad=`) or by `ppl.with_grad`, where it is evaluated",
        got=str(place.eqn.params["strategy"]),
        remedy="compare with another strategy here",
    )


def learned_below_enumeration(place: Place) -> StrategyError:
    """Build the error for a strategy whose parameters come from a branch, or a value, of an enumerated choice."""
    return StrategyError(
        f"What the strategy of {label_of(place)!r} learns depends on an enumerated choice.",
        where=f"{label_of(place)!r} at {place.eqn.params['source']}",
        expected="parameters that are known before, and a choice outside of branches on enumerated choices",
        got=str(place.eqn.params["strategy"]),
        remedy="use a strategy that learns nothing, such as `rao_blackwell()`, or another one for the predicate",
    )


def under_enumeration(place: Place) -> StrategyError:
    """Build the error for a strategy that looks at costs where a choice is drawn for each value of another."""
    return StrategyError(
        f"The choice {label_of(place)!r} depends on an enumerated one of a scan, for each of whose values it is drawn.",
        where=f"{label_of(place)!r} at {place.eqn.params['source']}",
        expected="a plain `reinforce()`, `pathwise()` or `enum()` here",
        got=str(place.eqn.params["strategy"]),
        remedy="use one of them, or another strategy for the enumerated choice",
    )


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
