"""What is the same in all lanes of a sum is taken out of it: constants, and the scale of normal densities.

A thousand observations with one scale have one normalising constant, and their squares can be divided after they are
added up: sum(-(z / s)**2 / 2 - c) becomes -sum(z**2) / 2 s**2 - 1000 c, with derivatives to match. An expert
pulls it out by hand; a program that writes one density in a loop cannot.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ppl import jaxprs
from ppl.distributions.densities import normal_constant, sum_of_squares
from ppl.family import Spec
from ppl.passes.sums import SIGNS, live_equations, signed_sum
from ppl.primitives import density_p, view_of_density

LEAST = 2**8
"""Fewest lanes that are worth another equation."""


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A term of a sum over lanes.

    Attributes:
        sign: 1 or -1.
        var: The term; a single number stands for all lanes.
        density: The equation of a normal density with one scale, if it is one.
    """

    sign: int
    var: Any
    density: Any = None


def pull_out_shared(body: jaxprs.Body) -> jaxprs.Body:
    """Take out of sums over lanes what is the same in all of them.

    Args:
        body: A staged program whose costs nobody looks at lane by lane: all its choices are pathwise.

    Returns:
        The same program, the same numbers but for rounding; the very same body, where there is nothing to take out.

    Example:
        >>> import jax, ppl
        >>> from ppl.jaxprs import restage
        >>> cost = lambda x, s: jax.vmap(lambda x: ppl.normal(0.0, s).log_prob(x))(x).sum()
        >>> body = pull_out_shared(restage(cost, [jax.numpy.zeros(1000), jax.numpy.ones(())]))
        >>> [eqn.primitive.name for eqn in body.eqns]
        ['sub', 'custom_jvp_call', 'mul', 'log', 'add', 'mul', 'add']
    """
    found, inner = _find(body)
    if not found:
        return body
    return jaxprs.restage(lambda *args: _run(body, found, inner, args), jaxprs.in_shapes(body))


def _find(body: jaxprs.Body) -> tuple[dict[int, list[Leaf]], set[int]]:
    """Find sums with shared parts: their terms, and the equations that nobody else needs."""
    definitions = {var: index for index, eqn in enumerate(body.eqns) for var in eqn.outvars}
    wanted = [*body.outvars, *(atom for eqn in body.eqns if eqn.effects for atom in eqn.invars)]  # printed, say
    live = live_equations(body, definitions, wanted)
    atoms = [atom for index in live for atom in body.eqns[index].invars] + wanted
    reads = collections.Counter(atom for atom in atoms if _is_var(atom))
    found, inner = {}, set()
    for index in live:
        if not _is_sum(body.eqns[index]):
            continue
        leaves, used = _take_apart(body, definitions, reads, body.eqns[index].invars[0])
        if any(_is_shared(leaf, body.eqns[index].invars[0].aval) for leaf in leaves):
            found[index] = leaves
            inner |= used
    return found, inner


def _is_var(atom) -> bool:
    return not isinstance(atom, jaxprs.Literal)


def _is_sum(eqn) -> bool:
    if eqn.primitive.name != "reduce_sum" or not _is_var(eqn.invars[0]):
        return False
    aval = eqn.invars[0].aval
    lanes = math.prod(aval.shape[axis] for axis in eqn.params["axes"])
    return lanes >= LEAST and jnp.issubdtype(aval.dtype, jnp.floating)


def _take_apart(body: jaxprs.Body, definitions: dict, reads, root) -> tuple[list[Leaf], set[int]]:
    """Walk back from what is added up over lanes, through additions that are read once."""
    leaves, used, waiting = [], set(), [(1, root)]
    while waiting:
        sign, var = waiting.pop()
        index = definitions.get(var) if _is_var(var) and reads[var] == 1 else None
        eqn = None if index is None or var.aval.shape != root.aval.shape else body.eqns[index]
        if eqn is not None and eqn.primitive.name in SIGNS and _one_type(eqn):
            waiting += [(sign * own, atom) for own, atom in zip(SIGNS[eqn.primitive.name], eqn.invars, strict=True)]
        elif eqn is not None and _is_normal(eqn):
            leaves.append(Leaf(sign, var, eqn))
        elif eqn is not None and _is_copy(eqn):
            waiting.append((sign, eqn.invars[0]))
        else:
            leaves.append(Leaf(sign, var))
            continue
        used.add(index)
    return leaves[::-1], used


def _one_type(eqn) -> bool:
    return all(atom.aval.dtype == eqn.outvars[0].aval.dtype for atom in eqn.invars)


def _is_copy(eqn) -> bool:
    """Tell whether an equation hands on its operand, or the one number that it is."""
    if eqn.primitive.name not in ("broadcast_in_dim", "convert_element_type") or not _one_type(eqn):
        return False
    return eqn.invars[0].aval.size == 1 or eqn.invars[0].aval.shape == eqn.outvars[0].aval.shape


def _is_normal(eqn) -> bool:
    """Tell whether an equation is the density of normals of one scale."""
    if eqn.primitive is not density_p or eqn.params["masked"] or len(eqn.invars) != 3:
        return False
    spec = eqn.params["spec"]
    one_scale = eqn.invars[2].aval.size == 1 < eqn.outvars[0].aval.size
    return type(spec) is Spec and spec.family.name == "normal" and one_scale and _one_type(eqn)


def _is_shared(leaf: Leaf, aval) -> bool:
    """Tell whether a term, or a part of it, is the same in all lanes."""
    return leaf.density is not None or leaf.var.aval.size == 1 < aval.size


# --- Evaluation --------------------------------------------------------------------------------------------------


def _run(body: jaxprs.Body, found: dict[int, list[Leaf]], inner: set[int], args: Sequence) -> list:
    env = dict(zip([*body.constvars, *body.invars], [*body.consts, *args], strict=True))
    read = lambda atom: env[atom] if _is_var(atom) else atom.val
    for index, eqn in enumerate(body.eqns):
        if index in found:
            env[eqn.outvars[0]] = _add_up(eqn, found[index], read)
        elif index not in inner and all(atom in env for atom in eqn.invars if _is_var(atom)):  # or else it is dead
            env.update(zip(eqn.outvars, jaxprs.bind(eqn, [read(atom) for atom in eqn.invars]), strict=True))
    return [read(var) for var in body.outvars]


def _add_up(eqn, leaves: Sequence[Leaf], read) -> jax.Array:
    """Add up element by element what differs between lanes, and the other terms beside it."""
    operand, axes = eqn.invars[0].aval, eqn.params["axes"]
    lanes = math.prod(operand.shape[axis] for axis in axes)
    differing = [(leaf.sign, read(leaf.var)) for leaf in leaves if not _is_shared(leaf, operand)]
    terms = [(1, signed_sum(differing).sum(axes))] if differing else []
    for leaf in leaves:
        if leaf.density is not None:
            values = [read(atom) for atom in leaf.density.invars]
            terms += [(leaf.sign, term) for term in _normals(leaf.density, values, operand.shape, axes)]
        elif _is_shared(leaf, operand):
            terms.append((leaf.sign, lanes * jnp.asarray(read(leaf.var), operand.dtype).reshape(())))
    return signed_sum(terms)


def _normals(eqn, values: Sequence, shape: Sequence[int], axes: Sequence[int]) -> Iterator[jax.Array]:
    """Add up densities of one scale: the exponents, then the constants."""
    value, loc, scale = view_of_density(eqn, values)
    scale = scale.reshape(()) if scale.ndim else scale
    yield -0.5 * sum_of_squares(jnp.broadcast_to(value - loc, shape), scale, axes)
    yield -math.prod(shape[axis] for axis in axes) * normal_constant(scale)
