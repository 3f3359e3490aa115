"""A scan taken apart: what is known of it is evaluated for all steps at once, the rest stays in a smaller loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ppl import jaxprs
from ppl.passes.known import Action, Known
from ppl.passes.policy import better_inside
from ppl.primitives import choice_p


def split_scan(view: jaxprs.Scan, values: Sequence, known: Known) -> list:
    """Evaluate a scan, given what is known of it.

    Args:
        view: The scan.
        values: Its operands.
        known: What is known of its body.

    Returns:
        Its results.
    """
    remains = _Remainder(view, known)
    outside = _Outside(view, values, known)
    outside.evaluate({*remains.given, *_read_at_the_end(view, known)})
    final, stacked = _loop(view, values, remains, outside)
    outs = view.body.outvars
    carry = [outside.final(i, final.get(i)) for i in range(view.num_carry)]
    ys = [stacked[j] if j in stacked else outside.stacked(outs[j]) for j in range(view.num_carry, len(outs))]
    return [*carry, *ys]


def _variables(atoms) -> set:
    return {atom for atom in atoms if not isinstance(atom, jaxprs.Literal)}


def _read_at_the_end(view: jaxprs.Scan, known: Known) -> set:
    """Collect the known variables that make up the scan's results."""
    wanted = [out for out in view.body.outvars[view.num_carry :] if known.is_known(out)]
    for role, out in zip(known.roles, view.body.outvars, strict=False):
        wanted += [out] if role == "shift" else []
    wanted += [var for increments in known.increments.values() for _, var in increments]
    return _variables(wanted)


class _Remainder:
    """What stays in the loop.

    Attributes:
        carry: Numbers of the carries.
        outs: Numbers of the stacked outputs.
        eqns: Indices of the equations, in order.
        given: Variables that are not made in it.
        left: Indices of the equations that are not evaluated in it.
    """

    def __init__(self, view: jaxprs.Scan, known: Known):
        self.body, self.known = view.body, known
        outs = view.body.outvars
        self.carry = [i for i, role in enumerate(known.roles) if role == "loop"]
        self.outs = [j for j in range(view.num_carry, len(outs)) if not known.is_known(outs[j])]
        hoisted = {action.index for action in known.actions if action.kind == "equation"}
        self.left = hoisted - better_inside(view.body, hoisted, known.is_fixed, view.length)
        self.eqns, self.given = self._live([outs[i] for i in (*self.carry, *self.outs)])

    def _live(self, outs: list) -> tuple[list[int], list]:
        """Walk back from what the loop must hand out; cheap known values are computed where they are read."""
        eqns, inside, needed = [], set(), dict.fromkeys(outs)
        for index in range(len(self.body.eqns) - 1, -1, -1):
            eqn = self.body.eqns[index]
            wanted = any(var in needed for var in eqn.outvars) or not eqn.outvars or bool(eqn.effects)
            if wanted and index not in self.left:
                eqns.append(index)
                inside.update(eqn.outvars)
                needed.update(dict.fromkeys(_ordered(eqn.invars)))
        return eqns[::-1], [var for var in needed if var not in inside]


class _Outside:
    """Values outside the loop: fixed ones as they are, others with a leading axis of steps."""

    def __init__(self, view: jaxprs.Scan, values: Sequence, known: Known):
        self.view, self.known, self.body = view, known, view.body
        consts, self.init, xs = view.split(values)
        const_vars, carry_vars, x_vars = view.split(view.body.invars)
        self.fixed: dict[Any, Any] = dict(zip(view.body.constvars, view.body.consts, strict=True))
        self.fixed.update(zip(const_vars, consts, strict=True))
        self.fixed.update(
            (var, start) for var, start, role in zip(carry_vars, self.init, known.roles, strict=True) if role == "fixed"
        )
        self.steps: dict[Any, Any] = dict(zip(x_vars, xs, strict=True))
        self.carry_vars = carry_vars

    # Evaluation.
    def evaluate(self, targets: set) -> None:
        """Compute these variables, and what they are computed from."""
        wanted, actions = set(targets), []
        for action in reversed(self.known.actions):
            made, read = self._made(action), self._read(action)
            if any(var in wanted for var in made):
                wanted |= read
                actions.append(action)
        for group in _grouped(actions[::-1]):
            if group[0].kind == "equation":
                self._equations([self.body.eqns[action.index] for action in group], wanted)
            elif group[0].kind == "shift":
                self.steps[self.carry_vars[group[0].index]] = self._shifted(group[0].index)
            else:
                self.steps[self.carry_vars[group[0].index]] = self._prefix(group[0].index)

    def _made(self, action: Action) -> list:
        return self.body.eqns[action.index].outvars if action.kind == "equation" else [self.carry_vars[action.index]]

    def _read(self, action: Action) -> set:
        if action.kind == "equation":
            return _variables(self.body.eqns[action.index].invars)
        if action.kind == "shift":
            return _variables([self.body.outvars[action.index]])
        return _variables(var for _, var in self.known.increments[action.index])

    def _equations(self, eqns: list, wanted: set) -> None:
        """Evaluate fixed equations once, the others together under one `jax.vmap`."""
        mapped = []
        for eqn in eqns:
            if all(var in self.known.fixed for var in eqn.outvars):
                outs = jaxprs.rebind(eqn, [self._fixed(var) for var in eqn.invars])
                self.fixed.update(zip(eqn.outvars, outs, strict=True))
            else:
                mapped.append(eqn)
        if not mapped:
            return
        made = [var for eqn in mapped for var in eqn.outvars]
        inputs = [var for var in _ordered(var for eqn in mapped for var in eqn.invars) if var in self.steps]
        outputs = [var for var in made if var in wanted]

        def step(slices):
            env = dict(zip(inputs, slices, strict=True))
            read = lambda var: env[var] if not isinstance(var, jaxprs.Literal) and var in env else self._fixed(var)
            for eqn in mapped:
                env.update(zip(eqn.outvars, _bind_outside(eqn, [read(var) for var in eqn.invars]), strict=True))
            return [env[var] for var in outputs]

        outs = jax.vmap(step, axis_size=self.view.length)([self.steps[var] for var in inputs])
        self.steps.update(zip(outputs, outs, strict=True))

    def _fixed(self, var):
        return var.val if isinstance(var, jaxprs.Literal) else self.fixed[var]

    # Carries.
    def _shifted(self, i: int):
        """Hand every step what the one before it handed on; XLA pads in vectors, but concatenates one by one."""
        made, first = self.stacked(self.body.outvars[i]), self.init[i]
        dtype = jnp.result_type(first)
        made = made if made.dtype == dtype else made.astype(dtype)
        if made.ndim == 1 and not isinstance(first, jax.core.Tracer):
            return lax.pad(made, jnp.asarray(first), [(-1, 1, 0) if self.view.reverse else (1, -1, 0)])
        start = jnp.asarray(first)[None]
        return jnp.concatenate([made[1:], start] if self.view.reverse else [start, made[:-1]])

    def _prefix(self, i: int):
        """Hand every step the sum over the steps before it."""
        start, length = jnp.asarray(self.init[i]), self.view.length
        total = start
        for sign, var in self.known.increments[i]:
            if self.known.is_fixed(var):
                before = jnp.arange(length, dtype=start.dtype)
                before = before[::-1] if self.view.reverse else before
                part = before.reshape((-1,) + (1,) * start.ndim) * self._fixed(var)
            else:
                part = self._cumulative(self.steps[var])
            total = total + part if sign > 0 else total - part
        return jnp.broadcast_to(total, (length, *start.shape)).astype(start.dtype)

    def _cumulative(self, added):
        """Sum over earlier steps, without the step itself."""
        zero = jnp.zeros_like(added[:1])
        if self.view.reverse:
            return jnp.concatenate([lax.cumsum(added[1:], axis=0, reverse=True), zero])
        return jnp.concatenate([zero, lax.cumsum(added[:-1], axis=0)])

    # Results.
    def stacked(self, var):
        """Return a known variable with a leading axis of steps."""
        if not self.known.is_fixed(var):
            return self.steps[var]
        value = jnp.asarray(self._fixed(var))
        value = value if value.dtype == var.aval.dtype else value.astype(var.aval.dtype)
        return jnp.broadcast_to(value, (self.view.length, *value.shape))

    def final(self, i: int, looped):
        """Return what the last step hands on."""
        role, out = self.known.roles[i], self.body.outvars[i]
        if role == "loop":
            return looped
        if role == "fixed":
            return self.init[i]
        if role == "sum":
            return self._total(i)
        if self.known.is_fixed(out):
            return jnp.asarray(self._fixed(out))
        return self.steps[out][0 if self.view.reverse else -1]

    def _total(self, i: int):
        total = jnp.asarray(self.init[i])
        for sign, var in self.known.increments[i]:
            if self.known.is_fixed(var):
                part = self._fixed(var) * jnp.asarray(self.view.length, total.dtype)
            else:
                part = self.steps[var].sum(0, dtype=total.dtype)
            total = total + part if sign > 0 else total - part
        return total


def _bind_outside(eqn, values: Sequence) -> list:
    """Bind an equation for all steps; a choice remembers that its new lane is a loop's steps, each with its key."""
    if eqn.primitive is choice_p:
        return choice_p.bind(*values, **dict(eqn.params, steps=eqn.params["steps"] + 1))
    if eqn.primitive.name == "reduce_sum" and not eqn.params["axes"]:
        return list(values)  # Scalar densities are summed over no axes.
    return jaxprs.rebind(eqn, values)


def _ordered(atoms) -> list:
    return list(dict.fromkeys(atom for atom in atoms if not isinstance(atom, jaxprs.Literal)))


def _grouped(actions: Sequence[Action]) -> list[list[Action]]:
    """Put equations that follow one another together."""
    groups: list[list[Action]] = []
    for action in actions:
        if groups and groups[-1][0].kind == action.kind == "equation":
            groups[-1].append(action)
        else:
            groups.append([action])
    return groups


def _loop(view: jaxprs.Scan, values, remains: _Remainder, outside: _Outside) -> tuple[dict, dict]:
    """Run what remains of the loop; results by their number."""
    eqns = [view.body.eqns[index] for index in remains.eqns]
    if not (remains.carry or remains.outs or eqns):
        return {}, {}
    sliced = [var for var in remains.given if var in outside.steps]
    carried = [outside.carry_vars[i] for i in remains.carry]

    def step(carry, slices):
        env = dict(outside.fixed)
        env.update(zip(carried, carry, strict=True))
        env.update(zip(sliced, slices, strict=True))
        read = lambda var: var.val if isinstance(var, jaxprs.Literal) else env[var]
        for eqn in eqns:
            env.update(zip(eqn.outvars, jaxprs.rebind(eqn, [read(var) for var in eqn.invars]), strict=True))
        outs = view.body.outvars
        return [read(outs[i]) for i in remains.carry], [read(outs[j]) for j in remains.outs]

    init = [outside.init[i] for i in remains.carry]
    xs = [outside.steps[var] for var in sliced]
    final, ys = lax.scan(step, init, xs, view.length, reverse=view.reverse, unroll=view.unroll)
    return dict(zip(remains.carry, final, strict=True)), dict(zip(remains.outs, ys, strict=True))
