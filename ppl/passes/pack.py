"""Like densities and choices of one program evaluated together: see `ppl.passes.packing` for which they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ppl import jaxprs
from ppl.passes.own_noise import draw, find_own, log_density
from ppl.passes.packing import Element, Packing, find_packs
from ppl.passes.policy import speaks
from ppl.passes.sums import live_equations, signed_sum
from ppl.passes.vectorise import Task, Vectorise
from ppl.primitives import call_p, choice_p, density_p

Node = tuple[str, int]
"""An equation, a pack or a sum, with its number."""


def flatten(body: jaxprs.Body, digests: Mapping[tuple[int, ...], int]) -> jaxprs.Body:
    """Write out the nested calls and jits that make choices or hold densities."""
    if not any(eqn.primitive in (call_p, jaxprs.jit_p) and speaks(eqn) for eqn in body.eqns):
        return body
    walk = Vectorise(Task(frozenset(), digests), flat=True, frozen=True)
    return jaxprs.restage(lambda *args: walk.run(body, args), jaxprs.in_shapes(body))


def pack(
    body: jaxprs.Body, digests: Mapping[tuple[int, ...], int], unsound: Iterable[tuple[int, ...]] = ()
) -> jaxprs.Body:
    """Evaluate like terms of a program together, and the choices that they are made of.

    Nothing changes but rounding: every choice keeps its own key. A choice with a `digest` of several numbers is several
    choices, one in each of its first lanes. A choice of location and scale becomes one of its noise where its density
    is taken at its own value.

    Args:
        body: A program without nested calls (see `flatten`), all of whose choices are pathwise.
        digests: The names of its choices as numbers, by location: they keep them.
        unsound: Locations of the choices whose derivatives are refused.

    Returns:
        The same program with fewer equations; the very same body, where there is nothing to gain.

    Example:
        >>> import jax, ppl
        >>> from ppl.jaxprs import restage
        >>> cost = lambda x: sum(ppl.normal(float(i), 1.0).log_prob(x[i]) for i in range(4))
        >>> body = restage(cost, [jax.numpy.zeros(4)])
        >>> [eqn.primitive.name for eqn in pack(body, {}).eqns]
        ['log_density', 'reduce_sum', 'add']
    """
    if any(eqn.effects for eqn in body.eqns):
        return body
    packing = find_packs(body)
    live = live_equations(body, packing.definitions)
    own = find_own(body, packing.definitions, live, [location[0] for location in unsound if len(location) == 1])
    order = _order(packing) if packing.packs or own else None
    if order is None:
        return body
    run = lambda *args: _Packed(packing, digests, own, args).run(order)
    return jaxprs.restage(run, jaxprs.in_shapes(body))


# --- Order -------------------------------------------------------------------------------------------------------


def _node(packing: Packing, index: int) -> Node:
    if index in packing.lane:
        return "pack", packing.lane[index][0]
    return ("sum" if index in packing.sums else "equation"), index


def _read(packing: Packing, node: Node) -> list:
    """List the variables that a node reads."""
    kind, number = node
    if kind == "equation":
        return packing.body.eqns[number].invars
    if kind == "sum":
        return [var for _, var in packing.sums[number][1]]
    atoms = [atom for operand in packing.packs[number].operands for atom in operand]
    found = [None if isinstance(atom, jaxprs.Literal) else packing.element(atom) for atom in atoms]
    return [atom if element is None else element.base for atom, element in zip(atoms, found, strict=True)]


def _needed(packing: Packing, node: Node) -> list[Node]:
    """List the nodes that a node needs."""
    indices = [
        packing.definitions[var]
        for var in _read(packing, node)
        if not isinstance(var, jaxprs.Literal) and var in packing.definitions
    ]
    packs = [("pack", number) for _, number in packing.sums[node[1]][0]] if node[0] == "sum" else []
    return [*packs, *(_node(packing, index) for index in dict.fromkeys(indices))]


def _order(packing: Packing) -> list[Node] | None:
    """Put what the results need in an order of evaluation; None, if packs need one another."""
    outs = [var for var in packing.body.outvars if not isinstance(var, jaxprs.Literal) and var in packing.definitions]
    done, open_, order = set(), set(), []
    waiting = [(_node(packing, packing.definitions[var]), False) for var in outs][::-1]
    while waiting:
        node, is_ready = waiting.pop()
        if is_ready:
            done.add(node)
            order.append(node)
        elif node in open_ and node not in done:
            return None
        elif node not in done:
            open_.add(node)
            waiting.append((node, True))
            waiting += [(other, False) for other in _needed(packing, node) if other not in done]
    return order


# --- Evaluation --------------------------------------------------------------------------------------------------


class _Packed:
    """The evaluation of a packed program."""

    def __init__(self, packing: Packing, digests: Mapping, own: set[int], args: Sequence):
        body = packing.body
        self.packing, self.digests, self.own = packing, digests, own
        self.env: dict[Any, Any] = dict(zip([*body.constvars, *body.invars], [*body.consts, *args], strict=True))
        self.arrays: dict[int, Any] = {}
        self.stacks: dict[tuple, tuple] = {}
        self.noises: list[tuple] = []  # Values with their equation, operands and noise.

    def run(self, order: Sequence[Node]) -> list:
        """Evaluate nodes in order; return the results."""
        for kind, number in order:
            {"equation": self._equation, "pack": self._pack, "sum": self._sum}[kind](number)
        return [self.read(var) for var in self.packing.body.outvars]

    def read(self, var):
        """Return a value; one that is a lane of a pack is cut out once."""
        if isinstance(var, jaxprs.Literal):
            return var.val
        if var not in self.env:
            number, lane = self.packing.lane[self.packing.definitions[var]]
            self.env[var] = lax.index_in_dim(self.arrays[number], lane, keepdims=False)
        return self.env[var]

    def _equation(self, index: int) -> None:
        eqn = self.packing.body.eqns[index]
        values = [self.read(var) for var in eqn.invars]
        outs = self._evaluate(eqn, (index,), values, None, [(var,) for var in eqn.invars])
        self.env.update(zip(eqn.outvars, outs, strict=True))

    def _sum(self, root: int) -> None:
        packs, rest = self.packing.sums[root]
        terms = [(sign, self.arrays[number].sum(0)) for sign, number in packs]
        terms += [(sign, self.read(var)) for sign, var in rest]
        self.env[self.packing.body.eqns[root].outvars[0]] = signed_sum(terms)

    def _pack(self, number: int) -> None:
        pack = self.packing.packs[number]
        operands, axes = zip(*(self.stack(operand) for operand in pack.operands), strict=True)
        eqn = self.packing.body.eqns[pack.members[0]]
        (self.arrays[number],) = self._evaluate(eqn, pack.members, list(operands), list(axes), pack.operands)

    def _evaluate(self, eqn, members: Sequence[int], operands: list, axes: list | None, atoms: Sequence) -> list:
        """Evaluate an equation, for all members of a pack if there are axes."""
        mapped = lambda function, in_axes: (
            function if axes is None else jax.vmap(function, in_axes, axis_size=len(members))
        )
        if eqn.primitive is density_p and (found := self._noise_of(eqn, operands)) is not None:
            _, _, choice, noise, located = found
            log_scale, axis = self._log(atoms[2], operands[2], axes and axes[2])
            evaluate = lambda *given: [log_density(choice, *given)]
            return mapped(evaluate, (axes and axes[1], axis, 0, 0))(operands[1], log_scale, noise, located)
        if eqn.primitive is not choice_p:
            return mapped(lambda operands: jaxprs.bind(eqn, operands), (axes,))(operands)
        names = self._names(members, axes is not None)
        if not self.own.issuperset(members):
            return mapped(lambda operands: choice_p.bind(*operands, **dict(eqn.params, **names)), (axes,))(operands)
        value, noise, located = mapped(lambda operands: draw(eqn, operands, **names), (axes,))(operands)
        self.noises.append((value, operands, eqn, noise, located))
        return [value]

    def _noise_of(self, eqn, operands: list) -> tuple | None:
        """Return what a density's value is made of, if it is taken at the very same parameters."""
        for found in self.noises:
            value, given, choice = found[:3]
            same = value is operands[0] and all(a is b for a, b in zip(given, operands[1:], strict=True))
            if same and choice.params["spec"] == eqn.params["spec"]:
                return found
        return None

    def _log(self, atoms: tuple, scale, axis: int | None) -> tuple[Any, int | None]:
        """Return the logarithm of a scale: what it is exp of, if it is."""
        logs = tuple(map(self._log_of, atoms if axis is not None else atoms[:1]))
        if any(log is None for log in logs):
            return jnp.log(scale), axis
        return (self._row(logs[0]), None) if axis is None else self.stack(logs)

    def _row(self, atom):
        """Return a value, or a row of one."""
        element = atom if isinstance(atom, Element) else self.packing.element(atom)
        if element is None or (not isinstance(atom, Element) and atom in self.env):
            return self.read(atom)
        return lax.index_in_dim(self.read(element.base), element.row, keepdims=False)

    def _log_of(self, atom):
        if isinstance(atom, jaxprs.Literal):
            return None
        element = self.packing.element(atom)
        index = self.packing.definitions.get(atom if element is None else element.base)
        if index is None or self.packing.body.eqns[index].primitive.name != "exp":
            return None
        var = self.packing.body.eqns[index].invars[0]
        usable = var in self.env or self.packing.definitions.get(var) in self.packing.lane
        if isinstance(var, jaxprs.Literal) or not (usable or self.packing.element(var) is not None):
            return None
        return var if element is None else Element(var, element.row)

    def _names(self, members: Sequence[int], is_pack: bool) -> dict[str, Any]:
        """Return digest and label of a choice, or of all choices of a pack."""
        params = [self.packing.body.eqns[index].params for index in members]
        digests = [self.digests.get((index,), own["digest"]) for index, own in zip(members, params, strict=True)]
        label = ", ".join(own["label"] for own in params)
        return {"digest": tuple(digests) if is_pack else digests[0], "label": label}

    # Operands.
    def stack(self, atoms: tuple) -> tuple[Any, int | None]:
        """Put values (variables, literals, rows of arrays) along a new leading axis: 0; None, if all are the same."""
        key = tuple(map(id, atoms))
        if key not in self.stacks:
            self.stacks[key] = (
                atoms,
                self._stacked(atoms),
            )  # The atoms stay alive, so that no other has their numbers.
        return self.stacks[key][1]

    def _stacked(self, atoms: tuple) -> tuple[Any, int | None]:
        first = atoms[0]
        if all(atom is first for atom in atoms):
            return self.read(first), None
        if all(isinstance(atom, jaxprs.Literal) for atom in atoms):
            values = np.array([atom.val for atom in atoms], first.aval.dtype)
            same = (values == values[0]).all()
            return (first.val, None) if same else (jnp.asarray(values), 0)
        runs = _runs([self._source(atom) for atom in atoms])
        return self._beside_constants(runs) if len(runs) == 2 else self._concatenated(runs), 0

    def _concatenated(self, runs: Sequence[tuple[Any, int, int]]):
        parts = [self._part(run) for run in runs]
        return parts[0] if len(parts) == 1 else jnp.concatenate(parts)

    def _beside_constants(self, runs: Sequence[tuple[Any, int, int]]):
        """Pad a vector by a constant: XLA pads in vectors, and concatenates one by one."""
        constants = [isinstance(source, jaxprs.Literal) for source, _, _ in runs]
        if sum(constants) != 1:
            return self._concatenated(runs)
        array, constant = self._part(runs[not constants[1]]), runs[constants[1]][0]
        if array.ndim != 1:
            return self._concatenated(runs)
        number = jnp.asarray(constant.val, array.dtype)
        return lax.pad(array, number, [(1, 0, 0) if constants[0] else (0, 1, 0)])

    def _source(self, atom) -> tuple[Any, int]:
        """Say what a value is a row of: a pack, an array, or (row 0) itself."""
        if isinstance(atom, (jaxprs.Literal, Element)):
            return atom, atom.row if isinstance(atom, Element) else 0
        index = self.packing.definitions.get(atom)
        if index in self.packing.lane:
            return self.packing.lane[index]
        element = self.packing.element(atom)
        return (element, element.row) if element is not None else (atom, 0)

    def _part(self, run: tuple[Any, int, int]):
        source, first, last = run
        if isinstance(source, int):
            array = self.arrays[source]
        elif isinstance(source, Element):
            array = self.read(source.base)
        elif isinstance(source, jaxprs.Literal):
            return jnp.asarray(source.val, source.aval.dtype)[None]
        else:
            return self.read(source)[None]
        return array if last - first == len(array) else lax.slice_in_dim(array, first, last)


def _same(one, other) -> bool:
    if isinstance(one, Element) and isinstance(other, Element):
        return one.base is other.base
    return isinstance(one, int) and one == other


def _runs(sources: Sequence[tuple[Any, int]]) -> list[tuple[Any, int, int]]:
    """Join rows of one array that follow one another."""
    runs: list[tuple[Any, int, int]] = []
    for source, row in sources:
        if runs and _same(runs[-1][0], source) and runs[-1][2] == row:
            runs[-1] = (*runs[-1][:2], row + 1)
        else:
            runs.append((source, row, row + 1))
    return runs
