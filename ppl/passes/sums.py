"""Sums of a program, taken apart into the terms that are added up and their signs."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from ppl import jaxprs

SIGNS = {"add": (1, 1), "add_any": (1, 1), "sub": (1, -1), "neg": (-1,)}

Leaf = tuple[int, Any]
"""Sign and variable of a term."""


def signed_sum(terms: Sequence[tuple[int, Any]]) -> Any:
    """Add terms up, those of sign 1 first, so that nothing need be negated but where all are of sign -1."""
    added, taken = ([term for own, term in terms if own == sign] for sign in (1, -1))
    total = added[0] if added else -taken[0]
    for term in added[1:]:
        total = total + term
    for term in taken if added else taken[1:]:
        total = total - term
    return total


def live_equations(body: jaxprs.Body, definitions: dict, wanted: Sequence | None = None) -> list[int]:
    """List the equations that the results, or others that are wanted, need; in order."""
    wanted = body.outvars if wanted is None else wanted
    live, waiting = set(), [var for var in wanted if not isinstance(var, jaxprs.Literal)]
    while waiting:
        index = definitions.get(waiting.pop())
        if index is not None and index not in live:
            live.add(index)
            waiting += [var for var in body.eqns[index].invars if not isinstance(var, jaxprs.Literal)]
    return sorted(live)


def find_sums(body: jaxprs.Body, definitions: dict, live: Sequence[int]) -> dict[int, list[Leaf]]:
    """List the terms of every sum of a body that is not itself read by another sum alone.

    Args:
        body: A body.
        definitions: For each variable, the index of its equation.
        live: The equations that are looked at.

    Returns:
        Signs and variables of the terms, by the index of the last addition.
    """
    reads = collections.Counter(var for var in _read(body, live) if not isinstance(var, jaxprs.Literal))
    inner = set()  # Additions whose result goes into another one, and nowhere else.
    additions = [index for index in live if _adds(body.eqns[index])]
    for index in additions:
        for var in body.eqns[index].invars:
            if not isinstance(var, jaxprs.Literal) and reads[var] == 1 and var in definitions:
                inner.add(_through(body, definitions, var))
    is_inner = lambda var: not isinstance(var, jaxprs.Literal) and reads[var] == 1
    return {
        index: _leaves(body, definitions, index, is_inner)
        for index in additions
        if body.eqns[index].outvars[0] not in inner
    }


def _read(body: jaxprs.Body, live: Sequence[int]):
    for index in live:
        yield from body.eqns[index].invars
    yield from body.outvars


def _adds(eqn) -> bool:
    return eqn.primitive.name in SIGNS and jnp.issubdtype(eqn.outvars[0].aval.dtype, jnp.floating)


def _through(body: jaxprs.Body, definitions: dict, var):
    """Look through sums over no axes, which scalar densities are handed to."""
    while var in definitions:
        eqn = body.eqns[definitions[var]]
        if eqn.primitive.name != "reduce_sum" or eqn.params["axes"] or isinstance(eqn.invars[0], jaxprs.Literal):
            break
        var = eqn.invars[0]
    return var


def _leaves(body: jaxprs.Body, definitions: dict, root: int, is_inner) -> list[Leaf]:
    found, waiting = [], [(1, body.eqns[root].outvars[0], True)]
    while waiting:
        sign, var, opened = waiting.pop()
        if not isinstance(var, jaxprs.Literal):
            var = _through(body, definitions, var)
        eqn = body.eqns[definitions[var]] if not isinstance(var, jaxprs.Literal) and var in definitions else None
        if opened and eqn is not None and _adds(eqn):
            signs = zip(SIGNS[eqn.primitive.name], eqn.invars, strict=True)
            waiting += [(sign * own, operand, is_inner(operand)) for own, operand in signs][::-1]
        else:
            found.append((sign, var))
    return found
