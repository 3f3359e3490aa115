"""Sums of sums become sums of elements: costs of the same enumerated choices are added up before they are weighted.

A density of guide and model each, summed over lanes or over the steps of a scan, are two terms to be weighted with the
same probabilities. Added up first, element by element, they are one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax

from ppl import jaxprs
from ppl.analysis.dependence import Flow, location_of, resolution_of
from ppl.batching import Rebind


@dataclasses.dataclass(frozen=True)
class Node:
    """A part of a sum.

    Attributes:
        var: A variable; or None.
        eqn: A linear equation of one operand, applied to the parts; or None.
        scan: Index of a scan that adds the parts up in every step, as another stacked result; or None.
        parts: Signs and nodes.
        number: Which of the additional results of the scan it is.
    """

    var: Any = None
    eqn: Any = None
    scan: int | None = None
    parts: tuple[tuple[int, Node], ...] = ()
    number: int = 0


Parts = list[tuple[int, Node]]


def merge_sums(body: jaxprs.Body, flow: Flow, modes) -> jaxprs.Body:
    """Add up costs of the same enumerated choices before they are summed over lanes and steps.

    Args:
        body: A staged program.
        flow: Its dependencies.
        modes: Modes of its choices.

    Returns:
        The same program with such sums in another order; the very same body, where there is none.
    """
    finder = _Finder(body, flow, modes)
    results = [finder.find(var) for var in body.outvars]
    if not finder.merges:
        return body
    return jaxprs.restage(lambda *args: _run(finder, results, args), jaxprs.in_shapes(body))


class _Finder:
    """Find the sums of a body that can be merged.

    Attributes:
        merges: How many are.
        extra: For each scan, the finder of its body, and what it has to add up in every step.
    """

    def __init__(self, body: jaxprs.Body, flow: Flow, modes):
        self.body, self.flow, self.modes = body, flow, modes
        self.made = {var: (index, eqn) for index, eqn in enumerate(body.eqns) for var in eqn.outvars}
        self.merges = 0
        self.extra: dict[int, tuple[_Finder, list[Parts]]] = {}

    def find(self, var) -> Parts:
        """Take a variable apart, and merge its parts."""
        if isinstance(var, jaxprs.Literal) or not _is_inexact(var):
            return [(1, Node(var))]
        return self.merge(self.parts(var, 1))

    def parts(self, var, sign: int) -> Parts:
        """Walk back through additions."""
        _, eqn = (None, None) if isinstance(var, jaxprs.Literal) else self.made.get(var, (None, None))
        if eqn is None or not self._is_random(var):
            return [(sign, Node(var))]
        name = eqn.primitive.name
        if name in ("add", "sub", "add_any"):
            first, second = eqn.invars
            return self.parts(first, sign) + self.parts(second, -sign if name == "sub" else sign)
        if name == "neg" or _is_identity(eqn):
            return self.parts(eqn.invars[0], -sign if name == "neg" else sign)
        return [(sign, Node(var))]

    def merge(self, parts: Parts) -> Parts:
        """Merge the sums over the same axes, then what is left of one scan."""
        merged = []
        for group in _grouped(parts, self._sum_of):
            merged += self._merged_sums(group) if len(group) > 1 else [self._inside(*group[0])]
        out = []
        for group in _grouped(merged, self._stacked_by):
            out += self._merged_steps(group) if len(group) > 1 else group
        return out

    def _is_random(self, var) -> bool:
        return any(self.modes[location_of(key)] == "enumerate" for key in self.flow.of(var))

    def _sum_of(self, node: Node):
        """Say over what a part is summed, and of which lanes of which choices; None, if it is no sum."""
        eqn = self._reduction(node)
        if eqn is None or not self._is_random(eqn.invars[0]):
            return None
        operand = eqn.invars[0]
        return eqn.params["axes"], operand.aval.shape, operand.aval.dtype

    def _reduction(self, node: Node):
        eqn = self.made.get(node.var, (None, None))[1] if _is_variable(node.var) else None
        return eqn if eqn is not None and eqn.primitive.name == "reduce_sum" else None

    def _merged_sums(self, group: Parts) -> Parts:
        """Add up the operands of several sums, as far as these depend on the same."""
        eqn = self._reduction(group[0][1])
        operands = [part for sign, node in group for part in self.parts(self._reduction(node).invars[0], sign)]
        shape = eqn.invars[0].aval.shape
        out = []
        for alike in _grouped(operands, lambda node: self._resolution(node, shape)):
            self.merges += len(alike) > 1
            out.append((1, Node(eqn=eqn, parts=tuple(self.merge(alike)))))
        return out

    def _resolution(self, node: Node, shape):
        if not _is_variable(node.var) or node.var.aval.shape != shape:
            return None
        return frozenset(resolution_of(self.flow.of(node.var)).items())

    def _inside(self, sign: int, node: Node) -> tuple[int, Node]:
        """Look into a sum that stands alone."""
        eqn = self._reduction(node)
        if eqn is None or not self._is_random(eqn.invars[0]):
            return sign, node
        before = self.merges
        parts = self.merge(self.parts(eqn.invars[0], 1))
        return (sign, Node(eqn=eqn, parts=tuple(parts))) if self.merges > before else (sign, node)

    # Scans.
    def _stacked_by(self, node: Node):
        """Say which scan has stacked a part, and on what it depends in a step; None, if none has."""
        if not _is_variable(node.var) or node.var not in self.made:
            return None
        index, eqn = self.made[node.var]
        if eqn.primitive is not jaxprs.scan_p or (index, 0) not in self.flow.inner:
            return None
        number = eqn.outvars.index(node.var)
        inner = self.flow.inner[index, 0].outs[number]
        random = any(self.modes[location_of(key)] == "enumerate" for key in inner)
        stacked = number >= jaxprs.read_scan(eqn).num_carry
        return (index, frozenset(resolution_of(inner).items())) if random and stacked else None

    def _merged_steps(self, group: Parts) -> Parts:
        """Let a scan add up several of its stacked results in every step."""
        index, eqn = self.made[group[0][1].var]
        view = jaxprs.read_scan(eqn)
        if index not in self.extra:
            self.extra[index] = _Finder(view.body, self.flow.inner[index, 0], self.modes), []
        inner, asked = self.extra[index]
        outs = [(sign, view.body.outvars[eqn.outvars.index(node.var)]) for sign, node in group]
        parts = inner.merge([part for sign, var in outs for part in inner.parts(var, sign)])
        asked.append(parts)
        self.merges += 1
        return [(1, Node(scan=index, number=len(asked) - 1))]


def _is_variable(var) -> bool:
    return var is not None and not isinstance(var, jaxprs.Literal)


def _is_inexact(var) -> bool:
    return jnp.issubdtype(var.aval.dtype, jnp.inexact)


def _is_identity(eqn) -> bool:
    if eqn.primitive.name == "convert_element_type":
        return eqn.invars[0].aval.dtype == eqn.outvars[0].aval.dtype
    return eqn.primitive.name == "reduce_sum" and not eqn.params["axes"]


def _grouped(parts: Parts, kind: Callable) -> list[Parts]:
    """Put parts of one kind together; those of no kind stay alone."""
    groups: dict[Any, Parts] = {}
    for number, part in enumerate(parts):
        found = kind(part[1])
        groups.setdefault(("alone", number) if found is None else ("kind", found), []).append(part)
    return list(groups.values())


# --- Evaluation --------------------------------------------------------------------------------------------------


def _run(finder: _Finder, results: Sequence[Parts], args: Sequence) -> list:
    """Evaluate a body with its results as they have been taken apart."""
    env, extras = _walk(finder, args)
    return [_add_up(parts, env, extras) for parts in results]


def _walk(finder: _Finder, args: Sequence) -> tuple[dict, dict]:
    body, rebind = finder.body, Rebind(())
    env: dict[Any, Any] = dict(zip([*body.constvars, *body.invars], [*body.consts, *args], strict=True))
    extras: dict[int, list] = {}
    for index, eqn in enumerate(body.eqns):
        values = [_read(env, var) for var in eqn.invars]
        if index in finder.extra:
            outs, extras[index] = _scan(eqn, values, *finder.extra[index])
        else:
            outs = rebind.equation(eqn, values)
        env.update(zip(eqn.outvars, outs, strict=True))
    return env, extras


def _scan(eqn, values: Sequence, inner: _Finder, asked: Sequence[Parts]) -> tuple[list, list]:
    """Run a scan that adds some results up in every step."""
    view = jaxprs.read_scan(eqn)
    consts, init, xs = view.split(values)

    def step(carry, slices):
        env, extras = _walk(inner, [*consts, *carry, *slices])
        new, ys = view.split_out([_read(env, var) for var in view.body.outvars])
        return new, (ys, [_add_up(parts, env, extras) for parts in asked])

    carry, (ys, added) = lax.scan(step, init, xs, view.length, reverse=view.reverse, unroll=view.unroll)
    return [*carry, *ys], added


def _read(env, var):
    return var.val if isinstance(var, jaxprs.Literal) else env[var]


def _add_up(parts: Parts, env, extras):
    """Evaluate a sum, what is added first."""
    total = None
    for sign, node in sorted(parts, key=lambda part: -part[0]):
        value = _value(node, env, extras)
        if total is None:
            total = value if sign > 0 else -value
        else:
            total = total + value if sign > 0 else total - value
    return total


def _value(node: Node, env, extras):
    if node.scan is not None:
        return extras[node.scan][node.number]
    if node.eqn is not None:
        return jaxprs.rebind(node.eqn, [_add_up(node.parts, env, extras)])[0]
    return _read(env, node.var)
