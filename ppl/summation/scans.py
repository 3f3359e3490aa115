"""Sums over the choices of a scan: within each step, or along a chain whose states are the last values of choices.

The first step is taken by itself: what it starts from may be anything, also made of choices outside of the scan. In all
others the carry is one table, the same in every step, so their factors are evaluated for all steps at once; only the
message that goes from step to step is left to a loop (`ppl.summation.messages`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ppl import jaxprs
from ppl.analysis.dependence import Flow, Location, Past, is_inside, location_of
from ppl.analysis.terms import Terms
from ppl.primitives import choice_p, factor_p
from ppl.summation.evaluate import Tables
from ppl.summation.factors import LogFactor
from ppl.summation.messages import Chain
from ppl.summation.refusals import beyond_a_step
from ppl.transforms.axes import Val


@dataclasses.dataclass(frozen=True)
class Carries:
    """The carries of a scan that are needed.

    Attributes:
        chained: Numbers of those that are functions of a step's choices.
        known: Numbers of those that depend on none.
        sites: The choices that the former are functions of.
    """

    chained: tuple[int, ...]
    known: tuple[int, ...]
    sites: tuple[Location, ...]


class ScanSum:
    """Sum over the choices of a scan."""

    def __init__(self, outer: Tables, here: Location, eqn, flow: Flow, terms: Terms, index: int):
        self.outer, self.here, self.view = outer, here, jaxprs.read_scan(eqn)
        self.scene, self.body = outer.scene, self.view.body
        self.flow, self.terms = flow.inner[index, 0], terms.inner[index, 0]
        self.carry_deps = flow.carry[index]
        self.wanted = [terms.needs_raw(var) for var in eqn.outvars]
        self.carries = self._sort_carries()
        self.past = {site: Past(site, here) for site in self.carries.sites}

    # Which carries.
    def _sort_carries(self) -> Carries:
        chained, known, sites = [], [], set()
        for i in range(self.view.num_carry):
            if self.terms.out_raw[i]:
                keys = {*self.flow.outs[i], *self.carry_deps[i]}
                inside = {location_of(key) for key in keys if is_inside(key, self.here)}
                (chained if inside else known).append(i)
                sites |= inside
        for i in chained:
            self._check_chained(i)
        for i in range(self.view.num_carry, len(self.flow.outs)):
            self._check_stacked(i)
        return Carries(tuple(chained), tuple(known), tuple(sorted(sites)))

    def _check_chained(self, i: int) -> None:
        past = [key for key in self.flow.outs[i] if isinstance(key, Past) and key.scan == self.here]
        if past:
            raise beyond_a_step(self._place(past[0]), "a carry that is computed from earlier steps' choices, too")

    def _check_stacked(self, i: int) -> None:
        inside = [key for key in self.flow.outs[i] if is_inside(key, self.here)]
        if self.terms.out_raw[i] and inside:
            raise beyond_a_step(self._place(inside[0]), "a stacked result of the scan that is used outside of it")

    def _place(self, key):
        return self.outer.plan.places[location_of(key)]

    # The whole.
    def evaluate(self, vals: Sequence[Val]) -> list[Val]:
        """Hand factors to the program outside; return what it needs of the results."""
        length, num_carry = self.view.length, self.view.num_carry
        consts, init, xs = self.view.split(vals)
        outs = [*init, *[Val(None)] * (len(self.flow.outs) - num_carry)]
        if not length:
            return outs
        self.consts, self.x_vals = consts, xs
        history, final = self._known_carries(init)
        first, outs = self._first_step(init)
        steps, stacked = self._other_steps(history, outs)
        leaves = any(self.wanted[i] for i in self.carries.chained)
        chain = Chain(self.scene, self.carries.sites, self.past, length, self.view.reverse)
        self.outer.factors += chain.sum(first, steps, leaves)
        last = [outs[i] if i in self.carries.chained else Val(final.get(i)) for i in range(num_carry)]
        ys = [self._joined(outs[num_carry + j], later) for j, later in enumerate(stacked)]
        return [*last, *ys]

    # Carries that depend on no choice.
    def _known_carries(self, init: Sequence[Val]) -> tuple[dict[int, Any], dict[int, Any]]:
        """Run a loop of what carries without randomness need: their values before each step, and after the last."""
        known = [i for i in self.carries.known if not self._is_constant(i)]
        fixed = {i: init[i].raw for i in self.carries.known if i not in known}
        if not known:
            return {}, fixed
        for i in known:
            if init[i].axes or self.carry_deps[i] or self.flow.outs[i]:
                key = next(iter({**self.carry_deps[i], **self.flow.outs[i]}), None)
                raise beyond_a_step(self._place(key), "a carry that differs with a choice outside of the scan")
        eqns = _needed(self.body, [self.body.outvars[i] for i in known])
        const_vars, carry_vars, x_vars = self.view.split(self.body.invars)
        env: dict[Any, Any] = dict(zip(self.body.constvars, self.body.consts, strict=True))
        env.update((var, val.raw) for var, val in zip(const_vars, self.consts, strict=True) if not val.axes)
        env.update((carry_vars[i], raw) for i, raw in fixed.items())
        pairs = zip(x_vars, self.x_vals, strict=True)
        given = {var: val.raw for var, val in pairs if val.raw is not None and not val.axes}

        def step(carry, slices):
            local = {**env, **dict(zip((carry_vars[i] for i in known), carry, strict=True)), **slices_of(slices)}
            read = lambda var: var.val if isinstance(var, jaxprs.Literal) else local[var]
            for eqn in eqns:
                local.update(zip(eqn.outvars, jaxprs.bind(eqn, [read(var) for var in eqn.invars]), strict=True))
            new = [read(self.body.outvars[i]) for i in known]
            return [jnp.asarray(value, old.dtype) for value, old in zip(new, carry, strict=True)], carry

        slices_of = lambda slices: dict(zip(given, slices, strict=True))
        start = [jnp.asarray(init[i].raw, carry_vars[i].aval.dtype) for i in known]
        final, before = lax.scan(step, start, list(given.values()), self.view.length, reverse=self.view.reverse)
        history = dict(zip(known, before, strict=True))
        return history, {**fixed, **dict(zip(known, final, strict=True))}

    def _is_constant(self, i: int) -> bool:
        return self.body.outvars[i] is self.body.invars[self.view.num_consts + i]

    # Steps.
    def _args(self, carry: Sequence[Val], slices: Sequence[Val]) -> list[Val]:
        return [*self.consts, *carry, *slices]

    def _first_step(self, init: Sequence[Val]) -> tuple[list[LogFactor], list[Val]]:
        """Evaluate the first step on what the chain starts from."""
        at = self.view.length - 1 if self.view.reverse else 0
        slices = [dataclasses.replace(x, raw=_at(x, at), uniform=None, last=None) for x in self.x_vals]
        tables = self.outer.step((*self.here, 0), set())
        outs = tables.run(self.body, self.flow, self.terms, self._args(init, slices))
        for site, past in self.past.items():
            self.scene.sizes[past] = self.scene.sizes[site]
        return self._without_local(tables.factors), outs

    def _without_local(self, factors: Sequence[LogFactor]) -> list[LogFactor]:
        """Sum over the choices of a step that it does not hand on."""
        states = {*self.carries.sites, *self.past.values()}
        axes = {axis for factor in factors for axis in factor.axes}
        keep = {axis for axis in axes if axis in states or not is_inside(axis, self.here)}
        return self.scene.merged(self.scene.eliminate(factors, keep))

    def _other_steps(self, history: dict[int, Any], outs: Sequence[Val]) -> tuple[list[LogFactor], list[Val]]:
        """Evaluate all other steps at once; what differs between them gets a leading axis of steps."""
        count, num_carry = self.view.length - 1, self.view.num_carry
        if not count:
            return [], [Val(None)] * (len(outs) - num_carry)
        window = slice(0, count) if self.view.reverse else slice(1, None)
        stacked = [
            None if x.raw is None else jnp.moveaxis(jnp.asarray(x.raw), len(x.axes), 0)[window] for x in self.x_vals
        ]
        before = {i: raw[window] for i, raw in history.items()}
        _, carry_vars, x_vars = self.view.split(self.body.invars)
        varying = {carry_vars[i] for i in before} | {*x_vars}
        varying = _all_varying(self.body, varying)
        self._check_tables(varying)
        layout: dict[str, Any] = {}

        def step(slices, before):
            carry = [self._table(i, outs, before) for i in range(num_carry)]
            inputs = [Val(raw, x.axes) for raw, x in zip(slices, self.x_vals, strict=True)]
            tables = self.outer.step((*self.here, 0), varying)
            results = tables.run(self.body, self.flow, self.terms, self._args(carry, inputs))[num_carry:]
            factors = self._without_local(tables.factors)
            layout["factors"] = factors
            layout["ys"] = [y.axes for y in results]
            return (
                [factor.raw for factor in factors if factor.varies],
                [y.raw if raw else None for y, raw in zip(results, self.terms.out_raw[num_carry:], strict=True)],
            ), [factor.raw for factor in factors if not factor.varies]

        (each, ys), once = jax.vmap(step, axis_size=count, out_axes=(0, None))(stacked, before)
        each, once = iter(each), iter(once)
        factors = [
            dataclasses.replace(factor, raw=next(each if factor.varies else once)) for factor in layout["factors"]
        ]
        return factors, [Val(raw, axes) for raw, axes in zip(ys, layout["ys"], strict=True)]

    def _check_tables(self, varying: set) -> None:
        for i in self.carries.chained:
            out = self.body.outvars[i]
            if not isinstance(out, jaxprs.Literal) and out in varying:
                what = "a carry that is computed from the choice and from what differs between steps"
                raise beyond_a_step(self._place(self.carries.sites[0]), what)

    def _table(self, i: int, outs: Sequence[Val], before: dict[int, Any]) -> Val:
        """Return a carry before any step but the first: a table of what the states before it hand on."""
        if i in before:
            return Val(before[i])
        if i not in self.carries.chained:
            return outs[i] if self.terms.out_raw[i] else Val(None)
        axes = tuple(self.past.get(axis, axis) for axis in outs[i].axes)
        return dataclasses.replace(outs[i], axes=axes)

    def _joined(self, first: Val, later: Val) -> Val:
        """Put what the first step and the others hand out behind one another, steps after the choices' axes."""
        if first.raw is None:
            return Val(None)
        parts = [jnp.asarray(first.raw)[None]]
        if later.raw is not None:
            assert later.axes == first.axes
            parts = [later.raw, *parts] if self.view.reverse else [*parts, later.raw]
        return Val(jnp.moveaxis(jnp.concatenate(parts), 0, len(first.axes)), first.axes)


def _at(x: Val, at: int):
    """Return what a scanned input hands to one step."""
    return None if x.raw is None else lax.index_in_dim(jnp.asarray(x.raw), at, len(x.axes), keepdims=False)


def _needed(body: jaxprs.Body, variables: Sequence) -> list:
    """List the equations that variables are computed from, in order."""
    wanted, found = {var for var in variables if not isinstance(var, jaxprs.Literal)}, []
    for eqn in reversed(body.eqns):
        if not wanted.isdisjoint(eqn.outvars):
            found.append(eqn)
            wanted.update(var for var in eqn.invars if not isinstance(var, jaxprs.Literal))
    return found[::-1]


def _all_varying(body: jaxprs.Body, varying: set) -> set:
    """Return all variables that are computed from some; of a choice, the table of its values is not, unless masked."""
    varying = set(varying)
    for eqn in body.eqns:
        free = eqn.primitive is choice_p and not eqn.params["masked"]
        if eqn.primitive is factor_p or free:
            continue
        if not varying.isdisjoint(var for var in eqn.invars if not isinstance(var, jaxprs.Literal)):
            varying.update(eqn.outvars)
    return varying
