"""Where a value is asked for: of enumerated choices, often only at one of their values.

What a branch computes counts at one value of the choice that its predicate looks at, and what an object looks like
counts where there is one. Such a value is evaluated there alone, not for all values of the choice. The predicates are
followed forwards, as tables over the enumerated choices; what is asked for is followed backwards.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ppl import jaxprs
from ppl.analysis.dependence import NONE, Flow, Location
from ppl.analysis.plan import Plan, follows, num_values
from ppl.analysis.terms import Terms
from ppl.primitives import choice_p, density_p

LARGEST = 2**12
"""Largest number of joint values of the choices that a predicate may look at."""

States = Mapping[Location, int]
"""Enumerated choices, each at one of its values (their position in the order of enumeration)."""

_ELEMENTWISE = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "max": np.maximum,
    "min": np.minimum,
    "neg": np.negative,
    "sign": np.sign,
    "abs": np.abs,
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "and": lambda x, y: x & y,
    "or": lambda x, y: x | y,
    "xor": lambda x, y: x ^ y,
    "not": lambda x: ~x,
    "clamp": lambda low, x, high: np.clip(x, low, high),
}
_KINDS = "iubf"
"""Kinds of NumPy types that tables have: what is made of whole numbers stays exact, or is rounded as JAX would."""

_MOVES = frozenset(
    "broadcast_in_dim squeeze reshape transpose expand_dims convert_element_type copy slice rev stop_gradient".split()
)


@dataclasses.dataclass(frozen=True)
class Known:
    """A number or bool that all lanes have in common, for each joint value of some choices.

    Attributes:
        sites: The choices.
        table: Their joint values along its axes, in this order.
    """

    sites: tuple[Location, ...]
    table: np.ndarray

    def over(self, sites: Sequence[Location]) -> np.ndarray:
        """Return the table with axes for more choices."""
        sizes = dict(zip(self.sites, self.table.shape, strict=True))
        return self.table.reshape([sizes.get(site, 1) for site in sites])

    def states_of(self, value: Any) -> States:
        """Say at which values of the choices this is `value`, of those that have just one such value."""
        hits = self.table == value
        if not hits.any():
            return {}
        found = {}
        for axis, site in enumerate(self.sites):
            (where,) = np.nonzero(hits.any(tuple(other for other in range(hits.ndim) if other != axis)))
            if len(where) == 1 and hits.shape[axis] > 1:
                found[site] = int(where[0])
        return found


class Demand:
    """What the equations of a body ask for.

    Attributes:
        asked: For each equation and operand, the states at which the operand is asked for; only where there are any.
    """

    def __init__(
        self, plan: Plan, body: jaxprs.Body, flow: Flow, terms: Terms, location: Location, args: Sequence = ()
    ):
        self.plan, self.body, self.flow, self.terms, self.location = plan, body, flow, terms, location
        self.known: dict[Any, Known] = {
            var: known for var, known in zip(body.invars, args, strict=False) if known is not None
        }
        self.uses: dict[Any, States] = {}
        self.asked: dict[int, list[States]] = {}
        self.calls: dict[int, Demand] = {}
        for index, eqn in enumerate(body.eqns):
            for var, found in zip(eqn.outvars, self._forwards(index, eqn), strict=False):
                if found is not None and all(self._in_step(var, site) for site in found.sites):
                    self.known[var] = found

    def find(self, results: Sequence[States]) -> Demand:
        """Find what is asked for, given where each result of the body is; return this."""
        for var, states in zip(self.body.outvars, results, strict=True):
            self._use(var, states)
        for index in range(len(self.body.eqns) - 1, -1, -1):
            eqn = self.body.eqns[index]
            if self.terms.needs(eqn):
                whole = self._of_results(index, eqn)
                if whole is None:
                    continue
                asked = self._of_operands(index, eqn, whole)
                asked = [self._lane_by_lane(var, states) for var, states in zip(eqn.invars, asked, strict=True)]
                for var, states in zip(eqn.invars, asked, strict=True):
                    if states is not None:
                        self._use(var, states)
                if any(asked):  # Of an operand that counts nowhere any value will do.
                    self.asked[index] = [whole if states is None else states for states in asked]
        return self

    def _in_step(self, var, site: Location) -> bool:
        """Tell whether lanes that a cost mixes are still apart: else no lane's value says what that of others is."""
        if site not in self.plan.in_step or isinstance(var, jaxprs.Literal):
            return True
        return follows(self.plan, self.flow.deps.get(var, NONE), site)

    # Predicates.
    def _read(self, var) -> Known | None:
        if not isinstance(var, jaxprs.Literal):
            return self.known.get(var)
        value = np.asarray(var.val)
        return Known((), value) if value.ndim == 0 and value.dtype.kind in _KINDS else None

    def _forwards(self, index: int, eqn) -> Sequence[Known | None]:
        operands = [self._read(var) for var in eqn.invars]
        if eqn.primitive is choice_p:
            return [self._choice((*self.location, index), eqn)]
        if self._is_call(index, eqn):
            body, flow, terms = jaxprs.read_call(eqn), self.flow.inner[index, 0], self.terms.inner[index, 0]
            call = self.calls[index] = Demand(self.plan, body, flow, terms, (*self.location, index, 0), operands)
            return [call._read(var) for var in body.outvars]
        if len(eqn.outvars) != 1 or getattr(eqn.outvars[0].aval.dtype, "kind", "V") not in _KINDS:
            return []
        return [None if not operands or None in operands else self._folded(eqn, operands)]

    def _is_call(self, index: int, eqn) -> bool:
        """Tell of a call that makes no choice and adds up no terms."""
        if eqn.primitive is not jaxprs.jit_p or (index, 0) not in self.flow.inner or jaxprs.holds_choice(eqn):
            return False
        return (index, 0) in self.terms.inner and not any(var in self.terms.surrogate for var in eqn.outvars)

    def _folded(self, eqn, operands: Sequence[Known]) -> Known | None:
        name, dtype = eqn.primitive.name, eqn.outvars[0].aval.dtype
        if name in _MOVES and len(operands) == 1:
            return Known(operands[0].sites, operands[0].table.astype(dtype))
        sites = tuple(sorted({site for operand in operands for site in operand.sites}))
        tables = [operand.over(sites) for operand in operands]
        if math.prod(np.broadcast_shapes(*(table.shape for table in tables))) > LARGEST:
            return None
        if name == "select_n":
            which, *cases = tables
            cases = np.broadcast_arrays(*cases)
            return Known(sites, np.select([which == n for n in range(len(cases))], cases).astype(dtype))
        if name not in _ELEMENTWISE:
            return None
        return Known(sites, np.asarray(_ELEMENTWISE[name](*tables)).astype(dtype))

    def _choice(self, here: Location, eqn) -> Known | None:
        plan = self.plan
        if plan.modes.get(here) != "enumerate" or (plan.joint[here] and here not in plan.in_step):
            return None
        values = eqn.params["spec"].first_value() + np.arange(num_values(plan.places[here]))
        if len(values) > LARGEST:
            return None
        made = Known((here,), values.astype(np.int32))
        if not eqn.params["masked"]:
            return made
        mask = self._read(eqn.invars[-1])
        if mask is None:
            return None
        sites = tuple(sorted({here, *mask.sites}))
        return Known(sites, np.where(mask.over(sites), made.over(sites), 0).astype(np.int32))

    # What is asked for.
    def _use(self, var, states: States) -> None:
        if not isinstance(var, jaxprs.Literal):
            before = self.uses.get(var)
            self.uses[var] = states if before is None else dict(before.items() & states.items())

    def _of_results(self, index: int, eqn) -> States | None:
        """Say where the results count; those of choices and of bodies that are entered everywhere; None: nowhere."""
        is_made = eqn.primitive is choice_p and (*self.location, index) in self.plan.modes
        is_entered = (index, 0) in self.flow.inner and index not in self.calls
        if is_made or is_entered or any(var in self.terms.charged for var in eqn.outvars):
            return {}
        used = [set(self.uses[var].items()) for var in eqn.outvars if var in self.uses]
        return dict(set.intersection(*used)) if used else None

    def _lane_by_lane(self, var, states: States | None) -> States | None:
        """Ask at all joint values for what has mixed the lanes of a choice."""
        return None if states is None else {at: state for at, state in states.items() if self._in_step(var, at)}

    def _of_operands(self, index: int, eqn, whole: States) -> list[States | None]:
        """Say where operands count in an equation whose results are asked for at some states; None: nowhere."""
        count, params = len(eqn.invars), eqn.params
        if index in self.calls:
            call = self.calls[index].find([whole] * len(eqn.outvars))
            return [call.uses.get(var) for var in call.body.invars]
        own: list[States] = [{}] * count
        if eqn.primitive.name == "select_n":
            which = self._read(eqn.invars[0])
            own = [{}, *({} if which is None else which.states_of(n) for n in range(count - 1))]
        elif eqn.primitive in (choice_p, density_p) and params["masked"]:
            mask = self._read(eqn.invars[-1])
            made = {} if mask is None else mask.states_of(True)
            given = len(params["spec"].names) + (eqn.primitive is density_p)
            own = [made] * given + [{}] * (count - given)
        clash = lambda states: any(whole.get(site, state) != state for site, state in states.items())
        return [None if clash(states) else {**whole, **states} for states in own]

    def states(self, index: int, eqn) -> Sequence[States]:
        """Say at which states of enumerated choices an equation asks for its operands."""
        return self.asked.get(index, [{}] * len(eqn.invars))

    def known_at(self, var, states: States) -> Known | None:
        """Return what is known of an operand at the states at which it is asked for."""
        known = None if isinstance(var, jaxprs.Literal) else self.known.get(var)
        if known is None or not any(site in states for site in known.sites):
            return known
        table = known.table[tuple(states.get(site, slice(None)) for site in known.sites)]
        return Known(tuple(site for site in known.sites if site not in states), table)


def demand(plan: Plan, body: jaxprs.Body, flow: Flow, terms: Terms, location: Location) -> Demand | None:
    """Find what the equations of a body ask for; None, where nothing is enumerated."""
    if not any(mode == "enumerate" for mode in plan.modes.values()):
        return None
    return Demand(plan, body, flow, terms, location).find([{}] * len(body.outvars))
