"""The walk: which values are continuous functions of which pathwise choices.

Every value carries the choices that it depends on continuously, and those that it depends on through a discontinuity.
Bodies of jit, checkpoint, nested calls, custom derivatives, cond, scan and while are walked; carries to a fixpoint.
`stop_gradient` ends both, before a discontinuity and behind it: detaching is a decision, and is recorded.
"""

from __future__ import annotations

from collections.abc import Sequence

from ppl import jaxprs
from ppl.analysis.dependence import Location
from ppl.analysis.smoothness import densities, rules, trust
from ppl.analysis.smoothness.frames import NOTHING, Break, Fact, Frame, Sites, is_inexact, union
from ppl.primitives import choice_p, continuous_p, density_p
from ppl.specs import Foreign

_SIGN_OF_DETERMINANT = {"slogdet": (0,)}
"""Results of trusted functions that jump."""


class Walk:
    """Follow pathwise choices through a staged program.

    Attributes:
        detached: For each choice the equations that detach a value which depends on it.
    """

    def __init__(self):
        self.detached: dict[Location, list] = {}

    def body(self, frame: Frame, args: Sequence[Fact]) -> list[Fact]:
        """Walk a body, given what is known of its arguments; return what is known of its results."""
        for var, fact in zip(frame.body.invars, args, strict=True):
            if fact is not NOTHING:
                frame.facts[var] = fact
        for index, eqn in enumerate(frame.body.eqns):
            frame.define(index, eqn)
        for index, eqn in enumerate(frame.body.eqns):
            for var, fact in zip(eqn.outvars, self._equation(frame, index, eqn), strict=True):
                if fact is not NOTHING:
                    frame.facts[var] = fact
        return [frame.fact(var) for var in frame.body.outvars]

    def _equation(self, frame: Frame, index: int, eqn) -> list[Fact]:
        args = [frame.fact(var) for var in eqn.invars]
        known = any(arg is not NOTHING for arg in args)
        if eqn.primitive is choice_p:
            return [self._choice(frame, index, eqn, args)]
        if not known and not jaxprs.inner_bodies(eqn):
            return [NOTHING] * len(eqn.outvars)
        if eqn.primitive is density_p:
            return [self._density(frame, index, eqn, args)]
        if eqn.primitive is continuous_p:
            return [Fact(args[0].sites)]
        if jaxprs.is_stop_gradient(eqn) and not frame.trusted and not trust.is_trusted_detachment(eqn):
            for site in args[0].sites:
                self.detached.setdefault(site, []).append(eqn)
            return [NOTHING]
        if eqn.primitive is jaxprs.scan_p:
            return self._scan(frame, index, eqn, args)
        if eqn.primitive is jaxprs.cond_p:
            return self._cond(frame, index, eqn, args)
        if eqn.primitive is jaxprs.while_p:
            return self._while(frame, index, eqn, args)
        bodies = jaxprs.inner_bodies(eqn)
        if len(bodies) == 1 and len(bodies[0].invars) == len(eqn.invars):
            return self._call(frame, index, eqn, bodies[0], args)
        return self._plain(frame, eqn, args) if known else [NOTHING] * len(eqn.outvars)

    # Ordinary equations.
    def _plain(self, frame: Frame, eqn, args) -> list[Fact]:
        fact = union(args)
        found = rules.why_discontinuous(frame, eqn) if fact.smooth else None
        if found is not None and self._does_no_harm(frame, eqn):
            found = None
        if found is None:
            kept = Fact(Sites(), fact.broken) if fact.broken else NOTHING
            outs = [fact if is_inexact(var) else kept for var in eqn.outvars]
            if eqn.primitive.name in ("top_k", "approx_top_k") and not frame.trusted:
                outs[1] = self._broken(frame, eqn, ("the place of the largest jumps", [0]), fact)
            return outs
        after = self._broken(frame, eqn, found, fact)
        jumping = rules.results_that_jump(eqn)
        return [after if number in jumping else fact for number in range(len(eqn.outvars))]

    @staticmethod
    def _does_no_harm(frame: Frame, eqn) -> bool:
        if frame.trusted or frame.blamed is not None:
            return frame.trusted
        return trust.is_harmless(eqn) or trust.is_trusted(eqn, packages=not frame.strict)

    def _broken(self, frame: Frame, eqn, found: tuple[str, list[int]], fact: Fact) -> Fact:
        """Break the choices that reach these operands."""
        reason, operands = found
        broken = dict(fact.broken)
        for var in (eqn.invars[i] for i in operands):
            for site in frame.fact(var).smooth:
                broken.setdefault(site, Break(frame, frame.blamed or eqn, var, reason))
        return Fact(fact.smooth.difference(broken), broken)

    # Choices and densities.
    def _choice(self, frame: Frame, index: int, eqn, args) -> Fact:
        """A pathwise value is a continuous function of its parameters; any other is detached from them."""
        strategy, spec = eqn.params["strategy"], eqn.params["spec"]
        pathwise = strategy is not None and strategy.mode == "path"
        own = Sites([(*frame.location, index)]) if pathwise and not strategy.unchecked else Sites()
        fact = union(args)
        if isinstance(spec, Foreign):
            jumps = self._foreign_choice(frame, index, eqn, args, own, pathwise)
            fact = Fact(fact.smooth, {**jumps, **fact.broken})
        if not pathwise:
            return Fact(Sites(), fact.broken) if fact.broken else NOTHING
        return Fact((fact.smooth | own).difference(fact.broken), fact.broken)

    def _foreign_choice(self, frame: Frame, index: int, eqn, args, own: Sites, pathwise: bool) -> dict:
        """Say through which jumps a foreign sampler (under a score function: its density) depends on choices."""
        spec, none = eqn.params["spec"], (NOTHING, None)
        operands = [(union([fact, Fact(own)]), var) for fact, var in zip(args, eqn.invars, strict=True)]
        if pathwise:
            drawn = [*operands[: spec.num_sampler], none]
            return self._method(frame, index, spec.sampler, drawn, strict=True).broken
        inner = operands[spec.num_sampler : len(spec.names)]
        return self._method(frame, index, spec.density, [*inner, none]).broken

    def _density(self, frame: Frame, index: int, eqn, args) -> Fact:
        spec, fact = eqn.params["spec"], union(args)
        if isinstance(spec, Foreign):
            value, *operands = zip(args, eqn.invars, strict=True)
            return self._method(frame, index, spec.density, [*operands[spec.num_sampler : len(spec.names)], value])
        found = densities.edge(frame, eqn) if fact.smooth else None
        return fact if found is None else self._broken(frame, eqn, found, fact)

    def _method(self, frame: Frame, index: int, jaxpr, args: Sequence, strict: bool = False) -> Fact:
        """Walk a method of a foreign distribution, given what is known of its arguments and where they come from."""
        child = Frame(jaxprs.body_of(jaxpr), (*frame.location, index, 0), strict=strict)
        for var, (_, outer) in zip(child.body.invars, args, strict=True):
            child.sources[var] = [(frame, outer)] if outer is not None else []
        frame.children[index] = [child]
        return union(self.body(child, [fact for fact, _ in args]))

    # Bodies.
    def _child(self, frame: Frame, index: int, number: int, body, outer: Sequence, trusted: bool = False) -> Frame:
        child = Frame(body, (*frame.location, index, number), frame.trusted or trusted, frame.blamed, frame.strict)
        child.sources = {var: [(frame, source)] for var, source in zip(body.invars, outer, strict=True)}
        return child

    def _call(self, frame: Frame, index: int, eqn, body, args) -> list[Fact]:
        if trust.is_harmless(eqn):
            return [NOTHING] * len(eqn.outvars)
        called = trust.called_function(eqn) if any(arg.smooth for arg in args) else None
        trusted = called is not None and trust.is_trusted(eqn, packages=not frame.strict)
        child = self._child(frame, index, 0, body, eqn.invars, trusted)
        if called is not None and not trusted and frame.blamed is None:
            child.blamed = eqn
        frame.children[index] = [child]
        outs = self.body(child, args)
        if not trusted or frame.trusted:
            return outs
        jumping = _SIGN_OF_DETERMINANT.get(called[0], ())
        fact, everywhere = union(args), list(range(len(eqn.invars)))
        after = self._broken(frame, eqn, ("its result is discrete", everywhere), fact)
        return [
            after if number in jumping or not is_inexact(var) else out
            for number, (out, var) in enumerate(zip(outs, eqn.outvars, strict=True))
        ]

    def _scan(self, frame: Frame, index: int, eqn, args) -> list[Fact]:
        view = jaxprs.read_scan(eqn)
        consts, carry, xs = view.split(args)
        while True:
            child = self._child(frame, index, 0, view.body, eqn.invars)
            _tie(child, view.body.invars[view.num_consts :][: view.num_carry], child, view.body.outvars)
            outs = self.body(child, [*consts, *carry, *xs])
            grown = [union([old, new]) for old, new in zip(carry, outs, strict=False)]
            if all(old.sites == new.sites and old.smooth == new.smooth for old, new in zip(carry, grown, strict=True)):
                break
            carry = grown
        frame.children[index] = [child]
        return [*grown, *outs[view.num_carry :]]

    def _cond(self, frame: Frame, index: int, eqn, args) -> list[Fact]:
        predicate, *operands = args
        outs = [[Fact(Sites(), predicate.broken)] if predicate.broken else [] for _ in eqn.outvars]
        frame.children[index] = []
        for number, branch in enumerate(jaxprs.read_branches(eqn)):
            child = self._child(frame, index, number, branch, eqn.invars[1:])
            frame.children[index].append(child)
            for out, fact in zip(outs, self.body(child, operands), strict=True):
                out.append(fact)
        return [union(facts) for facts in outs]

    def _while(self, frame: Frame, index: int, eqn, args) -> list[Fact]:
        view = jaxprs.read_while(eqn)
        if not any(arg is not NOTHING for arg in args):
            return [NOTHING] * len(eqn.outvars)
        before, consts, carry = view.split(args)
        for_condition, for_body, start = view.split(eqn.invars)
        while True:
            test = self._child(frame, index, 0, view.condition, [*for_condition, *start])
            child = self._child(frame, index, 1, view.body, [*for_body, *start])
            _tie(test, view.condition.invars[view.num_condition :], child, view.body.outvars)
            _tie(child, view.body.invars[view.num_body :], child, view.body.outvars)
            (predicate,) = self.body(test, [*before, *carry])
            outs = self.body(child, [*consts, *carry])
            stop = Fact(Sites(), predicate.broken) if predicate.broken else NOTHING
            grown = [union([old, new, stop]) for old, new in zip(carry, outs, strict=True)]
            if all(old.sites == new.sites and old.smooth == new.smooth for old, new in zip(carry, grown, strict=True)):
                break
            carry = grown
        frame.children[index] = [child, test]
        return grown


def _tie(frame: Frame, carried: Sequence, body: Frame, outs: Sequence) -> None:
    """Say of carried values, before the walk asks how large they are, that they come from the step before, too."""
    for var, out in zip(carried, outs, strict=False):
        frame.sources[var] = [*frame.sources[var], (body, out)]
