"""What is the same for all lanes of a branch stays one array: weights of a network in a branch, above all.

Where lanes differ in which branch they take, every branch runs in all lanes, and a lane that does not take it must not
send 0 * inf = NaN back to what the branch reads. An operand with an axis of lanes is cut off in such lanes. One that
all lanes share would first have to be written out by lane, and a matrix product with it would be one per lane. It is
therefore handed on as it is, as long as it is only moved, added and multiplied; where it meets values that differ
between lanes, these are zero in idle lanes, and so is what comes back from the result.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ppl import jaxprs

_PRODUCTS = frozenset({"mul", "dot_general", "conv_general_dilated"})
_SUMS = frozenset({"add", "sub", "add_any", "concatenate", "pad", "gather", "dynamic_slice", "dynamic_update_slice"})
_MOVES = frozenset(
    "neg reshape transpose broadcast_in_dim squeeze expand_dims convert_element_type slice rev copy reduce_sum".split()
)
"""Operations whose derivatives with respect to a shared operand are finite multiples of what comes back."""


class Kind(enum.Enum):
    """How a value of a branch relates to the lanes."""

    INERT = "the same for all lanes, without a derivative"
    SHARED = "the same for all lanes"
    LANE = "one for each lane"


class SharedWalk:
    """Evaluate the body of a branch in one lane, keeping shared operands apart.

    Args:
        taken: Whether the lane takes the branch.
        guard: Cuts off the derivative of a value where the branch is not taken.
        evaluate: Evaluates an equation none of whose operands is shared.
        enter: Evaluates a cond, or what makes choices, given which operands are shared; None if it cannot.
    """

    def __init__(self, taken, guard: Callable[[Any, Any], Any], evaluate: Callable, enter: Callable):
        self.taken, self.guard, self.evaluate, self.enter = taken, guard, evaluate, enter

    def run(self, body: jaxprs.Body, args: Sequence, shared: Sequence[bool]) -> list:
        """Evaluate a body, given which arguments are the same for all lanes; no result is shared any more."""
        kinds = [_kind(value) if one else Kind.LANE for value, one in zip(args, shared, strict=True)]
        return [self._own(*pair) for pair in self._walk(body, [*zip(args, kinds, strict=True)])]

    def _own(self, value, kind: Kind):
        return self.guard(self.taken, value) if kind is Kind.SHARED else value

    def _walk(self, body: jaxprs.Body, args: Sequence[tuple[Any, Kind]]) -> list[tuple[Any, Kind]]:
        env: dict[Any, tuple[Any, Kind]] = {
            var: (const, _kind(const)) for var, const in zip(body.constvars, body.consts, strict=True)
        }
        env.update(zip(body.invars, args, strict=True))
        read = lambda var: (var.val, Kind.INERT) if isinstance(var, jaxprs.Literal) else env[var]
        for eqn in body.eqns:
            with jaxprs.source_line(eqn):
                outs = self._equation(eqn, [read(var) for var in eqn.invars])
            env.update(zip(eqn.outvars, outs, strict=True))
        return [read(var) for var in body.outvars]

    def _equation(self, eqn, pairs: Sequence[tuple[Any, Kind]]) -> list[tuple[Any, Kind]]:
        name, kinds, special = eqn.primitive.name, {kind for _, kind in pairs}, jaxprs.holds_choice(eqn)
        if Kind.SHARED not in kinds:
            made = Kind.LANE if Kind.LANE in kinds or special else Kind.INERT
            return [(out, made) for out in self.evaluate(eqn, [value for value, _ in pairs])]
        if eqn.primitive is jaxprs.jit_p:
            return self._walk(jaxprs.read_call(eqn), pairs)
        if special or (eqn.primitive is jaxprs.cond_p and pairs[0][1] is Kind.LANE):
            outs = self.enter(eqn, [value for value, _ in pairs], [kind for _, kind in pairs])
            outs = self.evaluate(eqn, [self._own(*pair) for pair in pairs]) if outs is None else outs
            return [(out, Kind.LANE) for out in outs]
        if name not in _PRODUCTS | _SUMS | _MOVES:
            return [(out, Kind.LANE) for out in self.evaluate(eqn, [self._own(*pair) for pair in pairs])]
        if Kind.LANE not in kinds:
            return [(out, Kind.SHARED) for out in self.evaluate(eqn, [value for value, _ in pairs])]
        idle = lambda value: jnp.where(self.taken, value, 0) if name in _PRODUCTS else value
        values = [idle(value) if kind is Kind.LANE else value for value, kind in pairs]
        return [(self.guard(self.taken, out), Kind.LANE) for out in self.evaluate(eqn, values)]


def _kind(value) -> Kind:
    """Say what a value is that all lanes share."""
    is_traced = isinstance(value, jax.core.Tracer) and jnp.issubdtype(jnp.result_type(value), jnp.inexact)
    return Kind.SHARED if is_traced else Kind.INERT
