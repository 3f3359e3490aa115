"""Loop fission: what does not need its loop leaves it, random choices and densities included.

A guide that draws its latents in a scan, and a model that scores them in another, cost one generator call and one
density each, as if written with arrays; what really goes from step to step stays in a loop.
"""

from __future__ import annotations

from collections.abc import Sequence

from ppl import jaxprs
from ppl.interpreter import Interpreter
from ppl.passes.fission import split_scan
from ppl.passes.known import find_known
from ppl.passes.policy import body_loops, loops, may_hoist, speaks
from ppl.passes.taint import enumerated_in_scans
from ppl.primitives import call_p, choice_p


def vectorise(body: jaxprs.Body, kept: frozenset[str] = frozenset()) -> jaxprs.Body:
    """Take the scans of a program apart; a program without scans around choices or densities is returned as it is.

    The values of choice-free programs do not change, but for rounding. Choices keep their distributions, and stay
    independent of one another, but a choice that leaves its loop is drawn in one call, so that its numbers change.

    Args:
        body: The program.
        kept: Modes of the choices ("enumerate", "score", "path") that stay in their loops.

    Returns:
        The same program with smaller loops.

    Example:
        >>> import jax, jax.numpy as jnp, ppl
        >>> from ppl.jaxprs import restage
        >>> def draw(locs):
        ...     return jax.lax.scan(lambda c, loc: (c, ppl.normal(loc, 1.0).sample()), 0.0, locs)[1]
        >>> [eqn.primitive.name for eqn in vectorise(restage(draw, [jnp.zeros(3)])).eqns]
        ['choice']
    """
    if not body_loops(body):
        return body
    tainted = enumerated_in_scans(body) if "enumerate" in kept else set()
    walk = Vectorise(kept, tainted)
    return jaxprs.restage(lambda *args: walk.run(body, args), jaxprs.in_shapes(body))


class Vectorise(Interpreter):
    """Walk a program, inner loops first, and take its scans apart.

    Attributes:
        kept: Modes of the choices that stay in their loops.
        tainted: Variables that must not leave their loops.
        prefix: Addresses of the nested calls written out so far.
        flat: Whether to write out every call that speaks of choices or densities: in the body of a scan.
    """

    def __init__(self, kept: frozenset[str], tainted: set, prefix: tuple[str, ...] = (), flat: bool = False):
        super().__init__(())
        self.kept, self.tainted, self.prefix, self.flat = kept, tainted, prefix, flat

    def enter(self, location, extra):
        """Rewrite inside as outside."""
        return Vectorise(self.kept, self.tainted, self.prefix, self.flat)

    def equation(self, eqn, values: Sequence) -> list:
        """Rewrite what holds a loop; bind the rest as it is."""
        if eqn.primitive is choice_p and self.prefix:
            return eqn.primitive.bind(*values, **dict(eqn.params, label="/".join([*self.prefix, eqn.params["label"]])))
        if eqn.primitive is jaxprs.remat_p or not self._looks_into(eqn):
            return jaxprs.rebind(eqn, values)
        if eqn.primitive is jaxprs.scan_p:
            return self.scan(eqn, values)
        if eqn.primitive is jaxprs.cond_p:
            return self.cond(eqn, values)
        prefix = (*self.prefix, *eqn.params["address"]) if eqn.primitive is call_p else self.prefix
        return Vectorise(self.kept, self.tainted, prefix, self.flat).run(jaxprs.read_call(eqn), values)

    def _looks_into(self, eqn) -> bool:
        if eqn.primitive is jaxprs.scan_p:
            return speaks(eqn)
        if eqn.primitive in (jaxprs.jit_p, call_p):
            return loops(eqn) or (speaks(eqn) and (self.flat or bool(self.prefix)))
        return eqn.primitive is jaxprs.cond_p and (loops(eqn) or (bool(self.prefix) and speaks(eqn)))

    def scan(self, eqn, values: Sequence) -> list:
        """Rewrite the body, then take the scan apart."""
        view = jaxprs.read_scan(eqn)
        inner = Vectorise(self.kept, self.tainted, self.prefix, flat=True)
        body = jaxprs.restage(lambda *args: inner.run(view.body, args), jaxprs.in_shapes(view.body))
        view = jaxprs.with_body(view, body)
        usable = [isinstance(var, jaxprs.Literal) or var not in self.tainted for var in eqn.invars]
        hoist = lambda eqn, fixed: may_hoist(eqn, fixed, view.length, self.kept)
        return split_scan(view, values, find_known(view, usable, hoist))
