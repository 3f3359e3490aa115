"""The evaluator of exact sums: every marked density becomes a table over just the choices that it depends on."""

from __future__ import annotations

from typing import Any

import jax

from ppl import jaxprs
from ppl.analysis.dependence import Flow, Location
from ppl.analysis.plan import Plan
from ppl.analysis.plan import num_states as states_of
from ppl.analysis.terms import Terms
from ppl.generative import GenerativeFunction
from ppl.primitives import call_p, factor_p
from ppl.stochastic.primitive import rebound
from ppl.summation.factors import LogFactor, Scene
from ppl.summation.needs import plan_sum
from ppl.summation.program import marked_program
from ppl.summation.refusals import too_large
from ppl.transforms.axes import Val
from ppl.transforms.evaluate import Evaluator
from ppl.transforms.programs import list_places


class Tables(Evaluator):
    """Evaluate a program whose densities are marked on tables of all values of its choices.

    Attributes:
        scene: What is known of the choices.
        factors: The factors found so far in this body, and in those inside that are no scans.
    """

    def __init__(self, plan: Plan, scene: Scene, location: Location = (), factors: list[LogFactor] | None = None):
        super().__init__(plan, None, {}, {}, scene.sizes, location)
        self.scene = scene
        self.factors: list[LogFactor] = [] if factors is None else factors
        self.varying: set[Any] = set()

    def child(self, location, noise=None, scores=None, weights=None, active=None) -> Tables:
        """Return the evaluator of a nested body, whose factors are this one's."""
        inner = Tables(self.plan, self.scene, location, self.factors)
        inner.logs = self.logs
        return inner

    def step(self, location: Location, varying: set[Any]) -> Tables:
        """Return the evaluator of a step of a scan, with factors of its own; some variables differ between steps."""
        inner = Tables(self.plan, self.scene, location)
        inner.varying = varying
        return inner

    def _equation(self, index, eqn, flow: Flow, terms: Terms, vals) -> list[Val]:
        if eqn.primitive is factor_p:
            return self._mark(eqn, flow, vals)
        varies = not self.varying.isdisjoint(v for v in eqn.invars if not isinstance(v, jaxprs.Literal))
        count = len(self.factors)
        outs = self._looked_into(index, eqn, flow, terms, vals)
        if varies:
            self.factors[count:] = [_varying(factor) for factor in self.factors[count:]]
        return outs

    def _looked_into(self, index, eqn, flow: Flow, terms: Terms, vals) -> list[Val]:
        if eqn.primitive is jaxprs.scan_p and jaxprs.holds_choice(eqn):
            from ppl.summation.scans import ScanSum  # It evaluates its body with this class.

            return ScanSum(self, (*self.location, index), eqn, flow, terms, index).evaluate(vals)
        if eqn.primitive is jaxprs.scan_p:
            return self._plain(eqn, flow, terms, vals)
        if (index, 0) in flow.inner and eqn.primitive in (jaxprs.jit_p, jaxprs.remat_p, call_p):
            inner = self.child((*self.location, index, 0))
            return inner.run(jaxprs.read_call(eqn), flow.inner[index, 0], terms.inner[index, 0], vals)
        return super()._equation(index, eqn, flow, terms, vals)

    def _mark(self, eqn, flow: Flow, vals) -> list:
        (var,), (val,) = eqn.invars, vals
        factor = self.scene.factor(val, flow.of(var))
        literal = isinstance(var, jaxprs.Literal)
        self.factors.append(_varying(factor) if not literal and var in self.varying else factor)
        return []

    def _choice(self, here: Location, eqn, vals) -> Val:
        states = states_of(self.plan, here)
        if states > self.scene.max_states:
            raise too_large([self.plan.places[here]], float(states), self.scene.max_states)
        return super()._choice(here, eqn, vals)


def _varying(factor: LogFactor) -> LogFactor:
    return LogFactor(factor.axes, factor.dims, factor.raw, True)


def log_sum(
    gf: GenerativeFunction, given: dict, args: tuple, max_states: int, parallel: bool | None = None
) -> jax.Array:
    """Return the log density of the given choices, summed exactly over all others.

    Args:
        gf: The generative function.
        given: Values of the choices that are kept, by path.
        args: Its arguments.
        max_states: Largest number of joint values that are summed at once.
        parallel: Whether chains are multiplied as trees; None: as the device likes it.

    Returns:
        A scalar.

    Raises:
        StrategyError: Another choice has no finite support, or too many joint values meet.
        ControlFlowError: A choice stands where sums over it have not been worked out.
    """
    body, operands = marked_program(gf, given, args)
    places, _ = list_places(body)
    plan = plan_sum(body, places)

    def evaluate(*leaves):
        scene = Scene(places, plan.joint, {}, max_states, parallel)
        tables = Tables(plan, scene)
        tables.run(plan.body, plan.flow, plan.terms, [Val(leaf) for leaf in leaves])
        return [scene.total(scene.eliminate(tables.factors))]

    closed = jax.make_jaxpr(evaluate)(*(jax.typeof(operand) for operand in operands))
    (total,) = rebound(jaxprs.without_dead_equations(closed), operands)
    return total
