"""Which like equations of a program can be evaluated together, as lanes of one: densities and choices of their own.

A program may make a hundred scalar choices where an expert writes one array. Terms of one sum that are made alike are
packed: one equation with an axis of lanes stands for all of them, and so on backwards for what they are made of. What
cannot be packed is stacked. Only choices with pathwise derivatives are, whose costs nobody looks at.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Sequence
from typing import Any

from ppl import jaxprs
from ppl.family import Spec
from ppl.passes.sums import Leaf, find_sums, live_equations
from ppl.primitives import choice_p, density_p

LEAST = 3
"""Smallest number of like equations that are packed."""

MEMBER_ELEMENTS = 2**8
"""Largest result of an equation that gains by it: beyond, stacking costs more than it saves."""

_DEPTH = 3  # How far back terms must be alike to be tried together.
_ELEMENTWISE = {
    *("add", "sub", "mul", "div", "neg", "exp", "log", "log1p", "expm1", "tanh", "logistic", "sqrt", "rsqrt", "square"),
    *("integer_pow", "pow", "max", "min", "abs", "convert_element_type", "reduce_sum", "broadcast_in_dim", "squeeze"),
}


@dataclasses.dataclass(frozen=True)
class Pack:
    """Equations that are evaluated as lanes of one.

    Attributes:
        members: Their indices.
        operands: For each operand, that of every member.
    """

    members: tuple[int, ...]
    operands: tuple[tuple[Any, ...], ...]


@dataclasses.dataclass(frozen=True)
class Element:
    """A row of an array: `base[row]`."""

    base: Any
    row: int


@dataclasses.dataclass(frozen=True)
class Made:
    """How a value is made: the kind of its equation, and how the operands are."""

    kind: Hashable
    operands: tuple[Hashable, ...]


@dataclasses.dataclass
class Packing:
    """What is evaluated together.

    Attributes:
        body: The program.
        definitions: The index of the equation of each variable.
        packs: All packs.
        lane: For each equation in a pack, the number of the pack and of its lane.
        sums: For each sum that holds packs: their signs and numbers, and the other terms.
    """

    body: jaxprs.Body
    definitions: dict[Any, int]
    packs: list[Pack] = dataclasses.field(default_factory=list)
    lane: dict[int, tuple[int, int]] = dataclasses.field(default_factory=dict)
    sums: dict[int, tuple[list[tuple[int, int]], list[Leaf]]] = dataclasses.field(default_factory=dict)

    def element(self, var) -> Element | None:
        """Read `base[row]`, if that is what a variable is."""
        index = self.definitions.get(var)
        if index is None or self.body.eqns[index].primitive.name != "squeeze":
            return None
        squeeze = self.body.eqns[index]
        index = self.definitions.get(squeeze.invars[0]) if not isinstance(squeeze.invars[0], jaxprs.Literal) else None
        if index is None or self.body.eqns[index].primitive.name != "slice" or squeeze.params["dimensions"] != (0,):
            return None
        cut, base = self.body.eqns[index].params, self.body.eqns[index].invars[0]
        whole = all(first == 0 for first in cut["start_indices"][1:]) and cut["strides"] is None
        if not whole or cut["limit_indices"][1:] != base.aval.shape[1:]:
            return None
        return Element(base, cut["start_indices"][0])


def find_packs(body: jaxprs.Body) -> Packing:
    """Find what can be packed."""
    if not _repeats(body):
        return Packing(body, _definitions(body))
    finder = _Finder(body)
    definitions = finder.packing.definitions
    sums = find_sums(body, definitions, live_equations(body, definitions))
    groups = [(root, key[0], leaves) for root, terms in sums.items() for key, leaves in finder.alike(terms).items()]
    packed: dict[int, list] = {}
    for root, sign, leaves in sorted(groups, key=lambda group: -len(group[2])):
        number = finder.pack(leaves)
        if number is not None:
            packed.setdefault(root, []).append((sign, number, leaves))
    for root, found in packed.items():
        taken = {(sign, var) for sign, _, leaves in found for var in leaves}
        rest = [term for term in sums[root] if isinstance(term[1], jaxprs.Literal) or term not in taken]
        finder.packing.sums[root] = [(sign, number) for sign, number, _ in found], rest
    return finder.packing


def _definitions(body: jaxprs.Body) -> dict[Any, int]:
    return {var: index for index, eqn in enumerate(body.eqns) for var in eqn.outvars}


def _repeats(body: jaxprs.Body) -> bool:
    """Tell whether some family has densities enough, before anything else is looked at."""
    specs = [eqn.params["spec"] for eqn in body.eqns if eqn.primitive is density_p]
    return any(specs.count(spec) >= LEAST for spec in {*specs})


class _Finder:
    def __init__(self, body: jaxprs.Body):
        definitions = _definitions(body)
        self.body, self.packing = body, Packing(body, definitions)
        self.kinds: dict[int, Hashable] = {}
        self.before: list[int] = []  # For each equation, a set (of bits) of those that it depends on.
        for eqn in body.eqns:
            read = {
                definitions[var] for var in eqn.invars if not isinstance(var, jaxprs.Literal) and var in definitions
            }
            bits = 0
            for index in read:
                bits |= self.before[index] | (1 << index)
            self.before.append(bits)

    # What is alike.
    def alike(self, terms: Sequence[Leaf]) -> dict[tuple, list]:
        """Group the terms of a sum by sign and by how they are made; only groups that are large enough."""
        groups: dict[tuple, list] = {}
        for sign, var in terms:
            if not isinstance(var, jaxprs.Literal) and self.kind(self.packing.definitions.get(var)) is not None:
                groups.setdefault((sign, self.signature(var, _DEPTH)), []).append(var)
        places = {var: place for place, (_, var) in enumerate(terms) if not isinstance(var, jaxprs.Literal)}
        return {key: sorted(leaves, key=places.__getitem__) for key, leaves in self.joined(groups).items()}

    def joined(self, groups: dict[tuple, list]) -> dict[tuple, list]:
        """Keep the groups that are large enough; single terms with a constant where those have values join them."""
        large = {key: list(leaves) for key, leaves in groups.items() if len(leaves) >= LEAST}
        made = lambda var: self.body.eqns[self.packing.definitions[var]].invars
        for key, leaves in groups.items():
            for host in [] if key in large or len(leaves) > 1 else large:
                columns = zip(*map(made, groups[host]), strict=True)
                fits = host[0] == key[0] and _fits(key[1], host[1])
                if fits and all(map(self.lines_up, made(leaves[0]), columns)):
                    large[host] += leaves
                    break
        return large

    def lines_up(self, atom, others: Sequence) -> bool:
        """Tell whether an operand may stand beside those of others: their array grows, or they go on to share one."""
        if not isinstance(atom, jaxprs.Literal):
            return True
        if any(isinstance(other, jaxprs.Literal) for other in others):
            return all(isinstance(other, jaxprs.Literal) and other.val == atom.val for other in others)
        return len({self.packing.element(other) or other for other in others}) == len(others)

    def signature(self, var, depth: int) -> Hashable:
        """Say how a value is made, up to some depth."""
        if isinstance(var, jaxprs.Literal):
            return "literal"
        if self.packing.element(var) is not None:
            return "element"
        index = self.packing.definitions.get(var)
        kind = self.kind(index)
        if kind is None:
            return "value"
        if not depth or self.body.eqns[index].primitive is choice_p:
            return kind
        return Made(kind, tuple(self.signature(operand, depth - 1) for operand in self.body.eqns[index].invars))

    def kind(self, index: int | None) -> Hashable:
        """Return what equations must have in common to be packed; None, if this one cannot be."""
        if index is None:
            return None
        if index not in self.kinds:
            self.kinds[index] = _kind(self.body.eqns[index])
        return self.kinds[index]

    # Packs.
    def pack(self, values: Sequence, depth: int = 32) -> int | None:
        """Pack the equations of some values, and backwards what these are made of; None, if that cannot be."""
        indices = [None if isinstance(var, jaxprs.Literal) else self.packing.definitions.get(var) for var in values]
        if (known := self._known(indices)) is not None:
            return known
        if not depth or not self._can_pack(indices):
            return None
        number = len(self.packing.packs)
        operands = tuple(zip(*(self.body.eqns[index].invars for index in indices), strict=True))
        self.packing.packs.append(Pack(tuple(indices), operands))
        self.packing.lane.update((index, (number, lane)) for lane, index in enumerate(indices))
        for operand in operands:
            made = [var for var in operand if not isinstance(var, jaxprs.Literal)]
            if len(made) >= LEAST and not any(map(self.packing.element, made)):
                self.pack(made, depth - 1)
        return number

    def _known(self, indices: list) -> int | None:
        """Return the pack that consists of the very same equations."""
        number, _ = self.packing.lane.get(indices[0], (None, 0))
        same = number is not None and sorted(self.packing.packs[number].members) == sorted(map(_number, indices))
        return number if same else None

    def _can_pack(self, indices: list) -> bool:
        kinds = {self.kind(index) for index in indices}
        if len(kinds) > 1 or None in kinds or len(set(indices)) < len(indices):
            return False
        if any(index in self.packing.lane for index in indices):
            return False
        together = sum(1 << index for index in indices)
        return not any(self.before[index] & together for index in indices)


def _fits(signature: Hashable, other: Hashable) -> bool:
    """Tell whether a term is made like others, but for constants where they have values."""
    if not isinstance(signature, Made) or not isinstance(other, Made) or signature.kind != other.kind:
        return False
    return all(one in (two, "literal") for one, two in zip(signature.operands, other.operands, strict=True))


def _number(index: int | None) -> int:
    return -1 if index is None else index


def _kind(eqn) -> Hashable:
    shapes = tuple((var.aval.shape, var.aval.dtype) for var in eqn.invars)
    if len(eqn.outvars) != 1 or math.prod(eqn.outvars[0].aval.shape) > MEMBER_ELEMENTS:
        return None
    if eqn.primitive is choice_p:
        kind = _choice_kind(eqn.params)
        return None if kind is None else ("choice", kind, shapes)
    if eqn.primitive is density_p:
        names = ("spec", "lanes", "masked", "inside")
        return None if eqn.params["masked"] else ("density", *(eqn.params[name] for name in names), shapes)
    if eqn.primitive.name not in _ELEMENTWISE:
        return None
    return eqn.primitive.name, tuple((name, repr(value)) for name, value in sorted(eqn.params.items())), shapes


def _choice_kind(params) -> Hashable:
    strategy = params["strategy"]
    if strategy is None or strategy.mode != "path" or type(params["spec"]) is not Spec:
        return None
    if params["masked"] or params["steps"] or params["guards"]:
        return None
    return params["spec"], params["lanes"], params["depth"], repr(strategy)
