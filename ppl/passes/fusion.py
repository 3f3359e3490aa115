"""Scans that read, step by step, what another scan made: run as one loop where the first enumerates choices.

A guide that walks over hidden states and a model that is assessed on them are two scans. A choice of the first that is
summed over its values can be summed together with the costs of the second only while both are in the same step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jax import lax

from ppl import jaxprs
from ppl.batching import Rebind
from ppl.primitives import call_p, choice_p


def fuse(body: jaxprs.Body) -> jaxprs.Body:
    """Join each scan that enumerates choices with the scans that take its stacked results as their scanned inputs.

    Args:
        body: A staged program.

    Returns:
        The same program with fewer loops; the very same body, where there is nothing to join.
    """
    if not _joinable(body):
        return body
    return jaxprs.restage(lambda *args: _Joined(()).run(body, args), jaxprs.in_shapes(body))


class _Joined(Rebind):
    """Join scans in a body and in those inside it."""

    def run(self, body, args):
        """Join the scans of this body, then walk it."""
        while (pair := _find(body)) is not None:
            run = lambda *args, body=body, pair=pair: _Fused(body, *pair).run(args)
            body = jaxprs.restage(run, jaxprs.in_shapes(body))
        return super().run(body, args)


def _joinable(body: jaxprs.Body) -> bool:
    inner = [jaxprs.inner_bodies(eqn) for eqn in body.eqns if jaxprs.holds_choice(eqn) and eqn.primitive is not call_p]
    return _find(body) is not None or any(_joinable(found) for bodies in inner for found in bodies)


def _enumerates(body: jaxprs.Body) -> bool:
    for eqn in body.eqns:
        if eqn.primitive is choice_p:
            strategy = eqn.params["strategy"]
            if strategy is not None and strategy.mode == "enumerate":
                return True
        elif jaxprs.holds_choice(eqn) and any(map(_enumerates, jaxprs.inner_bodies(eqn))):
            return True
    return False


def _find(body: jaxprs.Body) -> tuple[int, int] | None:
    """Find two scans of a body that can be joined, by index."""
    scans = [index for index, eqn in enumerate(body.eqns) if eqn.primitive is jaxprs.scan_p]
    for first in scans:
        if _enumerates(jaxprs.read_scan(body.eqns[first]).body):
            for second in scans:
                if second > first and _fits(body, first, second):
                    return first, second
    return None


def _fits(body: jaxprs.Body, first: int, second: int) -> bool:
    one, two = body.eqns[first], body.eqns[second]
    ahead, behind = jaxprs.read_scan(one), jaxprs.read_scan(two)
    stacked = set(one.outvars[ahead.num_carry :])
    consts, init, xs = behind.split(two.invars)  # Literals are scalars: none is scanned.
    linked = any(var in stacked for var in xs)
    if not linked or (ahead.length, ahead.reverse) != (behind.length, behind.reverse):
        return False
    after = _dependent(body, first, second)
    free = [*consts, *init, *(var for var in xs if var not in stacked)]
    return not any(var in after for var in free if not isinstance(var, jaxprs.Literal))


def _dependent(body: jaxprs.Body, first: int, second: int) -> set[Any]:
    """Collect the variables between two equations that depend on the first."""
    after = set(body.eqns[first].outvars)
    for eqn in body.eqns[first + 1 : second]:
        if any(var in after for var in eqn.invars if not isinstance(var, jaxprs.Literal)):
            after.update(eqn.outvars)
    return after


class _Fused:
    """A body with two of its scans run as one, where the second stood."""

    def __init__(self, body: jaxprs.Body, first: int, second: int):
        self.body, self.first, self.second = body, first, second
        self.later = _dependent(body, first, second)

    def run(self, args: Sequence) -> list:
        """Evaluate the body; what needs the first scan waits for the joint one."""
        body = self.body
        env: dict[Any, Any] = dict(zip([*body.constvars, *body.invars], [*body.consts, *args], strict=True))
        read = lambda var: var.val if isinstance(var, jaxprs.Literal) else env[var]
        waits = [
            index
            for index in range(self.first + 1, self.second)
            if any(var in self.later for var in body.eqns[index].outvars)
        ]
        order = [i for i in range(len(body.eqns)) if i not in waits and i != self.first]
        order = [j for i in order for j in ((i, *waits) if i == self.second else (i,))]
        for index in order:
            eqn = body.eqns[index]
            if index == self.second:
                self._joint(env, read)
            else:
                outs = Rebind(()).equation(eqn, [read(var) for var in eqn.invars])
                env.update(zip(eqn.outvars, outs, strict=True))
        return [read(var) for var in body.outvars]

    def _joint(self, env: dict, read) -> None:
        one, two = self.body.eqns[self.first], self.body.eqns[self.second]
        ahead, behind = jaxprs.read_scan(one), jaxprs.read_scan(two)
        stacked = one.outvars[ahead.num_carry :]
        consts, init, xs = ahead.split([read(var) for var in one.invars])
        other_consts, other_init, other_vars = behind.split(two.invars)
        links = [stacked.index(var) if _is_in(var, stacked) else None for var in other_vars]
        other_consts, other_init = ([read(var) for var in part] for part in (other_consts, other_init))
        other_xs = [read(var) for var, link in zip(other_vars, links, strict=True) if link is None]

        def step(carry, inputs):
            (state, other), (row, other_row) = carry, inputs
            state, made = ahead.split_out(Rebind(()).run(ahead.body, [*consts, *state, *row]))
            rest = iter(other_row)
            taken = [next(rest) if link is None else made[link] for link in links]
            other, other_made = behind.split_out(Rebind(()).run(behind.body, [*other_consts, *other, *taken]))
            return (state, other), (made, other_made)

        (state, other), (made, other_made) = lax.scan(
            step,
            (init, other_init),
            (xs, other_xs),
            ahead.length,
            reverse=ahead.reverse,
            unroll=max(ahead.unroll, behind.unroll),
        )
        env.update(zip([*one.outvars, *two.outvars], [*state, *made, *other, *other_made], strict=True))


def _is_in(var, variables) -> bool:
    return not isinstance(var, jaxprs.Literal) and var in variables
