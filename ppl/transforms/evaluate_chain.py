"""Chains of enumerated choices, with all that does not wait for the past evaluated for all steps at once.

The carry of a chain is the last value of its choice: one table, the same in every step. So the probabilities of a step
given each last value, and all costs, are known before the loop runs; only the probability of each state has to be
carried from step to step. That leaves a product of a vector and a matrix in the loop, as one would have written it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ppl import jaxprs
from ppl.analysis.dependence import Flow, Location, location_of, root
from ppl.analysis.plan import num_values
from ppl.analysis.terms import Terms
from ppl.passes.policy import STEP_ELEMENTS, TOTAL_ELEMENTS, may_hoist, size_of
from ppl.primitives import choice_p
from ppl.transforms.axes import Val
from ppl.transforms.evaluate import Evaluator
from ppl.transforms.evaluate_scan import ScanEvaluator
from ppl.transforms.folding import constant_of, spread


def scan_evaluator(outer: Evaluator, here: Location, eqn, flow: Flow, terms: Terms, index: int) -> ScanEvaluator:
    """Return what evaluates a scan that makes choices."""
    found = ScanEvaluator(outer, here, eqn, flow, terms, index)
    return ChainEvaluator(outer, here, eqn, flow, terms, index) if _is_simple_chain(found) else found


# --- Which chains ------------------------------------------------------------------------------------------------


def _is_simple_chain(scan: ScanEvaluator) -> bool:
    """Tell whether a scan hands on nothing but the value of one choice, and sums, and may be taken apart."""
    chain, outer, here, view = scan.chain, scan.outer, scan.here, scan.view
    if len(chain.sites) != 1 or not {*chain.leaving} <= {*chain.sites} or scan.past or not view.length:
        return False
    (site,) = chain.sites
    modes = {mode for at, mode in outer.plan.modes.items() if at[: len(here)] == here}
    if modes != {"enumerate"} or site[:-1] != (*here, 0) or outer.plan.joint[site] or outer.active is not None:
        return False
    choice = view.body.eqns[site[-1]]
    return (
        scan.terms.charged.isdisjoint(view.body.invars)
        and not choice.params["masked"]
        and _is_markov(scan, site)
        and all(_may_be_known(scan, choice, i) for i in range(view.num_carry))
        and _may_leave(scan, choice)
    )


def _is_markov(scan: ScanEvaluator, site: Location) -> bool:
    """Tell whether the parameters of a choice depend on no other choice that is summed than itself, one step ago."""
    modes = scan.outer.plan.modes
    summed = [key for key in scan.flow.sites[site] if modes[location_of(key)] == "enumerate"]
    return all(root(key) == scan.states[0] for key in summed)


def _may_be_known(scan: ScanEvaluator, choice, i: int) -> bool:
    """Tell whether a carry is the value of the choice, or a sum that no step reads."""
    out, terms = scan.view.body.outvars[i], scan.terms
    if terms.out_raw[i]:
        return out is choice.outvars[0] and scan.carry_axes[i] == scan.states and not terms.out_surrogate[i]
    return not terms.out_surrogate[i] or _adds_up(scan.view, i)


def _adds_up(view: jaxprs.Scan, i: int) -> bool:
    """Tell whether steps add to a carry and do nothing else with it."""
    body, var, at = view.body, view.body.invars[view.num_consts + i], view.body.outvars[i]
    made = {out: eqn for eqn in body.eqns for out in eqn.outvars}
    readers = lambda var: (
        sum(var is read for eqn in body.eqns for read in eqn.invars) + sum(var is out for out in body.outvars)
    )
    while at is not var:
        eqn = None if isinstance(at, jaxprs.Literal) else made.get(at)
        if eqn is None or eqn.primitive.name not in ("add", "add_any", "sub") or readers(at) != 1:
            return False
        linked = [read for read in eqn.invars if _reaches(made, read, var)]
        if len(linked) != 1 or (eqn.primitive.name == "sub" and linked[0] is not eqn.invars[0]):
            return False
        (at,) = linked
    return readers(var) == 1


def _reaches(made: dict, var, source) -> bool:
    """Tell whether a variable is computed from another."""
    stack, seen = [var], set()
    while stack:
        at = stack.pop()
        if at is source:
            return True
        if not isinstance(at, jaxprs.Literal) and at in made and at not in seen:
            seen.add(at)
            stack += made[at].invars
    return False


def _may_leave(scan: ScanEvaluator, choice) -> bool:
    """Tell whether all that is needed may be evaluated for all steps at once, and fits."""
    view, states = scan.view, scan.outer.sizes[scan.states[0]]
    eqns = [eqn for eqn in view.body.eqns if scan.terms.needs(eqn)]
    axes = lambda var: len({root(key) for key in scan.flow.values.of(var)} & {*scan.states, *scan.chain.sites})
    largest = max(states ** axes(var) * size_of(var) for eqn in eqns for var in eqn.outvars)
    if largest > STEP_ELEMENTS or largest * view.length > TOTAL_ELEMENTS:
        return False
    before = _ancestors(view.body, choice)
    drawn = any(eqn.primitive is choice_p for eqn in before)
    charged = any(var in scan.terms.charged or var in scan.terms.surrogate for eqn in before for var in eqn.outvars)
    varying = lambda eqn: [False] * len(eqn.invars)
    return not (drawn or charged) and all(
        eqn is choice or may_hoist(eqn, varying(eqn), view.length, frozenset()) for eqn in eqns
    )


def _ancestors(body: jaxprs.Body, choice) -> list:
    """List the equations that an equation is computed from, in order."""
    wanted, found = {*_variables(choice.invars)}, []
    for eqn in reversed(body.eqns[: body.eqns.index(choice)]):
        if not wanted.isdisjoint(eqn.outvars):
            found.append(eqn)
            wanted.update(_variables(eqn.invars))
    return found[::-1]


def _variables(atoms) -> list:
    return [atom for atom in atoms if not isinstance(atom, jaxprs.Literal)]


# --- Evaluation --------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class _Steps:
    """What differs from step to step, with a leading axis of steps.

    Attributes:
        args: Scanned inputs, and the carry where its table is not the same in all steps; by variable.
        extra: What the noise, and the scores and probabilities of outer choices, hand to a step.
        made: What has been computed; by variable.
        weight: The probability of each value given the last; and its logarithm, if there is one.
    """

    args: dict[Any, Any]
    extra: Any
    made: dict[Any, Any] = dataclasses.field(default_factory=dict)
    weight: Any = None


class ChainEvaluator(ScanEvaluator):
    """Evaluate a scan that hands on the value of one enumerated choice, and sums."""

    def evaluate(self, vals: Sequence[Val]) -> list[Val]:
        """Evaluate the probabilities, the states, and the costs."""
        consts, init, xs = self.view.split(vals)
        self.site, self.body = self.chain.sites[0], self.view.body
        self.choice = self.body.eqns[self.site[-1]]
        self.env = self._constants(consts)
        self.layout_of: dict[Any, Val] = {}
        first, tables = self._carried(init)
        steps = self._inputs(xs, tables)
        self._probabilities(steps)
        before, after, last = self._states(first, steps)
        return self._costs(init, steps, before, after, last)

    def _constants(self, consts) -> dict:
        env = {var: Val(const) for var, const in zip(self.body.constvars, self.body.consts, strict=True)}
        env.update(zip(self.body.invars, (Val(const.raw, const.axes) for const in consts), strict=False))
        return env

    # The carry.
    def _table(self) -> np.ndarray:
        """List the values of the choice, with size 1 along its lanes and batch."""
        count, shape = num_values(self.outer.plan.places[self.site]), self.choice.outvars[0].aval.shape
        values = self.choice.params["spec"].first_value() + np.arange(count, dtype=np.int32)
        return values.reshape((count,) + (1,) * len(shape))

    def _carried(self, init: Sequence[Val]) -> tuple[Any, dict]:
        """Say what each state holds: its value, if the first is a known one; else the initial carry in the first step.

        Returns:
            The probability of the states before the first step; for carries that differ by step, their tables.
        """
        table, tables = self._table(), {}
        _, carry_vars, _ = self.view.split(self.body.invars)
        chained = [i for i, raw in enumerate(self.terms.out_raw[: self.view.num_carry]) if raw]
        first = self._first_state([init[i] for i in chained], table)
        for i in chained:
            var = carry_vars[i]
            whole = spread(table, 1, var.aval.shape)
            if first is not None:
                values = (int(table.flat[0]), len(table))
                self.env[var] = Val(whole, self.states, None, table, values)
            else:
                tables[var] = self._with_first(whole, init[i], var)
        message = self._first_message() if first is None else jnp.asarray(first, jnp.result_type(float))
        return message, tables

    def _first_state(self, starts: Sequence[Val], table: np.ndarray) -> np.ndarray | None:
        """Return 1 for the state that holds a known initial carry, 0 for the others; None, where it is not known."""
        known = [constant_of(start) if not start.axes else None for start in starts]
        if any(start is None for start in known):
            return None
        hot = [np.broadcast_to(table == start, (len(table), *self._lanes())) for start in known]
        same = all((one == hot[0]).all() for one in hot)
        return hot[0].astype(float) if same and (hot[0].sum(0) == 1).all() else None

    def _with_first(self, table, init: Val, var):
        """Return the table of each step: in the first all states hold the initial carry."""
        start = jnp.broadcast_to(jnp.asarray(init.raw), table.shape).astype(var.aval.dtype)[None]
        rest = jnp.broadcast_to(jnp.asarray(table, var.aval.dtype), (self.view.length - 1, *table.shape))
        return jnp.concatenate([rest, start] if self.view.reverse else [start, rest])

    # What a step is given.
    def _inputs(self, xs: Sequence[Val], tables: dict) -> _Steps:
        _, _, x_vars = self.view.split(self.body.invars)
        leading = {
            var: jnp.moveaxis(jnp.asarray(x.raw), len(x.axes), 0)
            for var, x in zip(x_vars, xs, strict=True)
            if x.raw is not None
        }
        self.layout_of.update((var, Val(None, x.axes)) for var, x in zip(x_vars, xs, strict=True))
        self.layout_of.update((var, Val(None, self.states)) for var in tables)
        noise = self.outer.noise.scan_inputs(self.here, self.view.length)
        return _Steps({**leading, **tables}, (noise, self.score_slices.raws, self.weight_slices.raws))

    def _child(self, extra, message) -> Evaluator:
        """Return the evaluator of one step."""
        noise_extra, score_slices, weight_slices = extra
        outer = self.outer
        scores = {**outer.scores, **self.score_slices.restore(score_slices)}
        weights = {**outer.weights, **self.weight_slices.restore(weight_slices), **self._weights(message)}
        return outer.child((*self.here, 0), outer.noise.enter(noise_extra), scores, weights)

    def _given(self, variables: Iterable, slices: Sequence) -> dict[Any, Val]:
        pairs = zip(variables, slices, strict=True)
        return {var: dataclasses.replace(self.layout_of[var], raw=raw) for var, raw in pairs}

    # Probabilities.
    def _probabilities(self, steps: _Steps) -> None:
        """Evaluate the choice and what its parameters are computed from: once, or once for each step."""
        eqns = [*_ancestors(self.body, self.choice), self.choice]
        varying, once, each = {*steps.args}, [], []
        for index, eqn in enumerate(self.body.eqns):
            if any(eqn is one for one in eqns):
                differs = not varying.isdisjoint(_variables(eqn.invars))
                varying.update(eqn.outvars if differs else ())
                (each if differs else once).append(index)
        self.done = {*once, *each}
        child = self.outer.child((*self.here, 0), weights={})
        child.walk(self.body, self.flow, self.terms, self.env, once)
        if not each:
            self.weight, self.logs = child.weights[self.site], child.logs.known.get(self.site)
            return

        def step(slices):
            env = {**self.env, **self._given(steps.args, slices)}
            child = self.outer.child((*self.here, 0), weights={})
            child.walk(self.body, self.flow, self.terms, env, each)
            weight, logs = child.weights[self.site], child.logs.known.get(self.site)
            made = {var: env[var] for index in each for var in self.body.eqns[index].outvars}
            constant = {var: val for var, val in made.items() if constant_of(val) is not None}
            self.env.update(constant)
            self.layout_of.update((var, dataclasses.replace(val, raw=None, uniform=None)) for var, val in made.items())
            self.weight, self.logs = Val(None, weight.axes), logs
            order[:] = [var for var in made if var not in constant]
            return [made[var].raw for var in order], (weight.raw, None if logs is None else logs[2].raw)

        order: list[Any] = []
        made, steps.weight = jax.vmap(step)(list(steps.args.values()))
        steps.made = dict(zip(order, made, strict=True))

    # States.
    def _states(self, first, steps: _Steps) -> tuple[Any, Any, Any]:
        """Return the probability of each state before and after every step, and after the last."""
        state = self.states[0]
        weight = self.weight if steps.weight is None else Val(steps.weight[0], self.weight.axes)
        stacked, reverse = steps.weight is not None, self.view.reverse
        if state not in weight.axes:
            after = jnp.broadcast_to(weight.raw, (self.view.length, *first.shape)).astype(first.dtype)
            parts = [after[1:], first[None]] if reverse else [first[None], after[:-1]]
            return jnp.concatenate(parts), after, after[0 if reverse else -1]

        def step(message, matrix):
            matrix = weight.raw if matrix is None else matrix
            if message.ndim == 1:
                return jnp.matmul(message, matrix, precision=lax.Precision.HIGHEST).astype(message.dtype), message
            return (message[:, None] * matrix).sum(0).astype(message.dtype), message

        last, before = lax.scan(step, first, weight.raw if stacked else None, self.view.length, reverse=reverse)
        if not self.chain.leaving:
            return before, None, last
        return before, jnp.concatenate([last[None], before[:-1]] if reverse else [before[1:], last[None]]), last

    # Costs.
    def _costs(self, init: Sequence[Val], steps: _Steps, before, after, last) -> list[Val]:
        """Evaluate all the rest, and restate the results outside."""
        num_carry, terms = self.view.num_carry, self.terms
        rest = [index for index in range(len(self.body.eqns)) if index not in self.done]
        layout: list[Any] = []

        def step(args, made, weight, extra, message):
            child = self._child(extra, message)
            env = {**self.env, **self._given(steps.args, args), **self._given(steps.made, made), **self._sums()}
            self._hand_in(child, env, weight)
            child.walk(self.body, self.flow, terms, env, rest)
            outs = child.results(self.body, terms, env)
            sums = [val.surrogate if want else None for val, want in zip(outs, self._summed, strict=False)]
            flags = terms.out_raw[num_carry:], terms.out_surrogate[num_carry:]
            ys = [
                (val.raw if raw else None, val.surrogate if surrogate else None)
                for val, raw, surrogate in zip(outs[num_carry:], *flags, strict=True)
            ]
            layout.append([val.axes for val in outs[num_carry:]])
            return sums, ys, child.noise.leave()

        args, made = list(steps.args.values()), list(steps.made.values())
        sums, ys, extra = jax.vmap(step)(args, made, steps.weight, steps.extra, before)
        self.outer.noise.absorb(extra, "scan")
        table = spread(self._table(), 1, self.choice.outvars[0].aval.shape)
        raws = [table if raw else None for raw in terms.out_raw[:num_carry]]
        surrogates = [
            None if total is None else _start(val) + total.sum(0) for val, total in zip(init, sums, strict=True)
        ]
        results = [*self._final((raws, surrogates, None, last)), *self._stacked(ys, layout[-1])]
        for site in self.chain.leaving:
            self.outer.weights[site] = Val(jnp.moveaxis(after, 0, 1), (site,))
        return results

    @functools.cached_property
    def _summed(self) -> list[bool]:
        return list(self.terms.out_surrogate[: self.view.num_carry])

    def _sums(self) -> dict[Any, Val]:
        """Let every step add to 0."""
        _, carry_vars, _ = self.view.split(self.body.invars)
        return {
            var: Val(None, (), jnp.zeros(var.aval.shape, var.aval.dtype))
            for var, want in zip(carry_vars, self._summed, strict=True)
            if want
        }

    def _hand_in(self, child: Evaluator, env: dict, weight) -> None:
        """Give a step the probabilities of its choice, and their logarithms."""
        operands = [Val(v.val) if isinstance(v, jaxprs.Literal) else env[v] for v in self.choice.invars]
        if weight is None:
            child.weights[self.site] = self.weight
            logs = None if self.logs is None else self.logs[2]
        else:
            child.weights[self.site] = Val(weight[0], self.weight.axes)
            logs = None if self.logs is None else Val(weight[1], self.logs[2].axes)
        if logs is not None:
            child.logs.known[self.site] = self.logs[0], operands, logs


def _start(val: Val):
    return val.raw if val.surrogate is None else val.surrogate
