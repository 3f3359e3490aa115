"""Choices under `jax.vmap`: nested calls, lanes outside of scans, and masks for conds with a mapped predicate.

Importing this module changes four of JAX's rules, and only for bodies that hold a choice: batching of scan and cond,
and the derivatives of jit, scan, cond, checkpoint and while (which are refused around a choice).
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ppl import jaxprs
from ppl.interpreter import Interpreter
from ppl.primitives import call_p, choice_p, density_p, factor_p
from ppl.shared_operands import Kind, SharedWalk
from ppl.stochastic.primitive import rewritten, stochastic_p
from ppl.value_checks import check_p, checking


def _call_batch(axis_data, values, dims, *, jaxpr, **params):
    body = jaxprs.body_of(jaxpr)
    moved = [value if dim is None else jnp.moveaxis(value, dim, 0) for value, dim in zip(values, dims, strict=True)]
    in_axes = [None if dim is None else 0 for dim in dims]
    run = lambda *args: jaxprs.map_axis(axis_data, lambda *xs: Rebind(()).run(body, xs), in_axes, args)
    jaxpr, consts = jaxprs.with_const_arguments(jaxprs.body_of(jax.make_jaxpr(run)(*moved)))
    return call_p.bind(*consts, *moved, jaxpr=jaxpr, **params), [0] * len(body.outvars)


jaxprs.fancy_batchers[call_p] = _call_batch


class Rebind(Interpreter):
    """Bind every choice again; subclasses change operands and parameters on the way."""

    def enter(self, location, extra):
        """Rewrite inside as outside."""
        return self

    def special(self, eqn, values):
        """Bind as it is."""
        return eqn.primitive.bind(*values, **eqn.params)


class _Deepen(Rebind):
    """Tell every choice that one more scan stands between it and the vmap being applied."""

    def special(self, eqn, values):
        if eqn.primitive is choice_p:
            return choice_p.bind(*values, **dict(eqn.params, depth=eqn.params["depth"] + 1))
        if eqn.primitive is factor_p:
            return super().special(eqn, values)
        if eqn.primitive is stochastic_p:
            return rewritten(eqn, values, self.run, depth=eqn.params["depth"] + 1)
        return call_p.bind(*values, **dict(eqn.params, jaxpr=_rewritten(eqn.params["jaxpr"], self)))


class _Mask(Rebind):
    """Give every choice a mask: it is made only where the branch is taken."""

    def __init__(self, mask, *guards):
        super().__init__(())
        self.mask, self.guards = mask, guards

    def run_shared(self, body, args, shared):
        """Evaluate a body some of whose arguments have one value for all lanes: these are not written out by lane."""
        return SharedWalk(self.mask, guard_branch, self.equation, self._enter).run(body, args, shared)

    def _enter(self, eqn, values, kinds):
        """Enter nested calls, and conds whose predicate differs between lanes."""
        shared = [kind is Kind.SHARED for kind in kinds]
        if eqn.primitive is call_p:
            return self._call(eqn, values, shared)
        if eqn.primitive is jaxprs.cond_p and kinds[0] is Kind.LANE:
            return _branches(jaxprs.read_branches(eqn), values[0], values[1:], shared[1:], self)
        return None

    def equation(self, eqn, values):
        """Check values only where the branch is taken, also in bodies that make no choice."""
        if eqn.primitive is check_p:
            return [check_p.bind(values[0], values[1] & self.mask, **eqn.params)]
        if checking() and _holds(eqn, check_p) and not jaxprs.holds_choice(eqn) and eqn.primitive in self.handlers:
            return self.handlers[eqn.primitive](eqn, values)
        return super().equation(eqn, values)

    def special(self, eqn, values):
        if eqn.primitive is call_p:
            return self._call(eqn, values)
        if eqn.primitive is factor_p:
            return factor_p.bind(jnp.where(self.mask, values[0], 0), **eqn.params)
        if eqn.primitive is stochastic_p:
            return self._stochastic(eqn, values)
        if eqn.params["spec"].silent:
            return super().special(eqn, values)
        params = dict(eqn.params, guards=(*self.guards, *eqn.params["guards"]))
        if eqn.params["masked"]:
            values = [*values[:-1], values[-1] & self._laned(values[-1], eqn)]
        else:
            lanes = tuple(dataclasses.replace(lane, mapped=(*lane.mapped, False)) for lane in eqn.params["lanes"])
            values, params = [*values, self.mask], dict(params, masked=True, lanes=lanes)
        return choice_p.bind(*values, **params)

    def _stochastic(self, eqn, values):
        sizes = tuple(lane.size for lane in eqn.params["lanes"])
        *operands, inner = values if eqn.params["masked"] else (*values, True)
        params = dict(eqn.params, guards=(*self.guards, *eqn.params["guards"]), masked=True)
        return stochastic_p.bind(*operands, jnp.broadcast_to(self.mask & inner, sizes), **params)

    def _laned(self, mask, eqn):
        return jnp.reshape(self.mask, (1,) * jnp.ndim(mask))

    def _call(self, eqn, values, shared=None):
        body = jaxprs.body_of(eqn.params["jaxpr"])
        shared = [False] * len(values) if shared is None else shared
        run = lambda mask, *args: _Mask(mask, *self.guards).run_shared(body, args, shared)
        avals = [jax.ShapeDtypeStruct((), bool), *jaxprs.in_shapes(body)]
        jaxpr, consts = jaxprs.with_const_arguments(jaxprs.restage(run, avals))
        return call_p.bind(*consts, self.mask, *values, **dict(eqn.params, jaxpr=jaxpr))


def _rewritten(jaxpr, interpreter):
    body = jaxprs.body_of(jaxpr)
    return jax.make_jaxpr(lambda *args: interpreter.run(body, args))(*jaxprs.in_shapes(body))


_DEEPENED: dict[int, tuple[Any, Any]] = {}


def _deepened(jaxpr):
    known = _DEEPENED.get(id(jaxpr))
    if known is None or known[0] is not jaxpr:
        if len(_DEEPENED) > 1024:
            _DEEPENED.clear()
        known = _DEEPENED[id(jaxpr)] = (jaxpr, _rewritten(jaxpr, _Deepen(())))
    return known[1]


def _scan_batch(original, axis_data, values, dims, **params):
    """Batch a scan: lanes made by this vmap stand outside the scan's axis."""
    if jaxprs.body_holds_choice(jaxprs.body_of(params["jaxpr"])):
        params = dict(params, jaxpr=_deepened(params["jaxpr"]))
    return original(axis_data, values, dims, **params)


def _holds(eqn, primitive) -> bool:
    """Tell whether an equation is of this kind, or holds one that is, at any depth."""
    return eqn.primitive is primitive or any(
        _holds(inner, primitive) for body in jaxprs.inner_bodies(eqn) for inner in body.eqns
    )


_fresh_guard = itertools.count()


def _cond_batch(original, axis_data, values, dims, *, branches, **params):
    """Batch a cond of a program under a mapped predicate: every branch runs, its choices masked.

    Branches that only evaluate densities, of choices that are given, are treated alike: JAX would write out by lane
    what lanes share.
    """
    bodies = [jaxprs.body_of(branch) for branch in branches]
    ours = [density_p, check_p] if checking() else [density_p]
    is_ours = any(_holds(eqn, primitive) for primitive in ours for body in bodies for eqn in body.eqns)
    if dims[0] is None or not (is_ours or any(jaxprs.body_holds_choice(body) for body in bodies)):
        return original(axis_data, values, dims, branches=branches, **params)
    shared = [dim is None for dim in dims[1:]]
    lane = lambda index, *operands: _branches(bodies, index, operands, shared)
    outs = jaxprs.map_axis(axis_data, lane, list(dims), values)
    return outs, [0] * len(outs)


def _branches(bodies, index, operands, shared, around: _Mask | None = None) -> list:
    """Evaluate every branch in one lane, and select; `around` masks the branch in which all this stands."""
    identity, outs = next(_fresh_guard), []
    for number, body in enumerate(bodies):
        taken = index.astype(np.int32) == number
        taken = taken if around is None else taken & around.mask
        guarded = [x if one else guard_branch(taken, x) for x, one in zip(operands, shared, strict=True)]
        guards = ((identity, number, len(bodies)), *(() if around is None else around.guards))
        outs.append(_Mask(taken, *guards).run_shared(body, guarded, shared))
    return [_select(index, results) for results in zip(*outs, strict=True)]


def guard_branch(taken, operand):
    """Keep the derivative of an operand to lanes that take the branch (0 * inf elsewhere would be NaN)."""
    if not jnp.issubdtype(jnp.result_type(operand), jnp.inexact):
        return operand
    return lax.select(jnp.broadcast_to(taken, jnp.shape(operand)), operand, lax.stop_gradient(operand))


def _select(index, results):
    return lax.select_n(jnp.broadcast_to(index.astype(np.int32), jnp.shape(results[0])), *results)


jaxprs.wrap_batcher(jaxprs.scan_p, _scan_batch)
jaxprs.wrap_batcher(jaxprs.cond_p, _cond_batch)


def _choice_in_params(params):
    for value in params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if hasattr(item, "jaxpr") or hasattr(item, "eqns"):
                body = jaxprs.body_of(item)
                for eqn in body.eqns if jaxprs.body_holds_choice(body) else ():
                    if jaxprs.holds_choice(eqn):
                        return jaxprs.first_choice(eqn)
    return None


for _primitive in (jaxprs.jit_p, jaxprs.scan_p, jaxprs.cond_p, jaxprs.remat_p, jaxprs.while_p):
    jaxprs.guard_differentiation(_primitive, _choice_in_params)
