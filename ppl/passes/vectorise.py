"""Loop fission: what does not need its loop leaves it, random choices and densities included.

A guide that draws its latents in a scan, and a model that scores them in another, cost one generator call and one
density each, as if written with arrays; what really goes from step to step stays in a loop.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from ppl import jaxprs
from ppl.interpreter import Interpreter
from ppl.passes.fission import split_scan
from ppl.passes.known import find_known
from ppl.passes.policy import body_loops, loops, may_hoist, speaks
from ppl.primitives import call_p, choice_p


def vectorise(
    body: jaxprs.Body, kept: frozenset[str] = frozenset(), digests: Mapping[tuple[int, ...], int] | None = None
) -> jaxprs.Body:
    """Take the scans of a program apart; a program without scans around choices or densities is returned as it is.

    Nothing changes but rounding: a choice that leaves its loop is drawn in one call, with the key of each step.

    Args:
        body: The program.
        kept: Modes of the choices ("enumerate", "score", "path") that stay in their loops.
        digests: The names of its choices as numbers, by location: they keep them.

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
    walk = Vectorise(Task(kept, digests or {}))
    return jaxprs.restage(lambda *args: walk.run(body, args), jaxprs.in_shapes(body))


@dataclasses.dataclass(frozen=True)
class Task:
    """What holds for the whole program.

    Attributes:
        kept: Modes of the choices that stay in their loops.
        digests: Names of the choices, by location.
    """

    kept: frozenset[str]
    digests: Mapping[tuple[int, ...], int]


class Vectorise(Interpreter):
    """Walk a program, inner loops first, and take its scans apart.

    Attributes:
        task: What holds for the whole program.
        prefix: Addresses of the nested calls written out so far.
        flat: Whether to write out every call that speaks of choices or densities: in the body of a scan.
        frozen: Whether to leave the scans alone: under a checkpoint.
    """

    def __init__(self, task: Task, location=(), prefix: tuple[str, ...] = (), flat=False, frozen=False):
        super().__init__(location)
        self.task, self.prefix, self.flat, self.frozen = task, prefix, flat, frozen

    def enter(self, location, extra):
        """Rewrite inside as outside."""
        return Vectorise(self.task, location, self.prefix, self.flat, self.frozen)

    def equation(self, eqn, values: Sequence) -> list:
        """Rewrite what holds a choice or a loop; bind the rest as it is."""
        if jaxprs.holds_choice(eqn) or (loops(eqn) and not self.frozen) or (self.flat and self._is_open(eqn)):
            handlers = {jaxprs.remat_p: self.remat, jaxprs.scan_p: self.scan, jaxprs.cond_p: self.cond}
            handlers |= {jaxprs.jit_p: self.write_out, call_p: self.write_out, choice_p: self.choice}
            if eqn.primitive in handlers:
                return handlers[eqn.primitive](eqn, values)
        return jaxprs.rebind(eqn, values)

    @staticmethod
    def _is_open(eqn) -> bool:
        return eqn.primitive is jaxprs.jit_p and speaks(eqn)

    def choice(self, eqn, values: Sequence) -> list:
        """Let a choice keep its name and number, wherever it will stand."""
        label = "/".join([*self.prefix, eqn.params["label"]])
        digest = self.task.digests.get(self.here, eqn.params["digest"])
        return eqn.primitive.bind(*values, **dict(eqn.params, label=label, digest=digest))

    def write_out(self, eqn, values: Sequence) -> list:
        """Write out a jit or a nested call."""
        prefix = (*self.prefix, *eqn.params["address"]) if eqn.primitive is call_p else self.prefix
        inner = Vectorise(self.task, (*self.here, 0), prefix, self.flat, self.frozen)
        return inner.run(jaxprs.read_call(eqn), values)

    def remat(self, eqn, values: Sequence) -> list:
        """Leave the loops of a checkpointed body as they are: what it keeps in memory is the user's decision."""
        frozen, self.frozen = self.frozen, True
        outs = super().remat(eqn, values)
        self.frozen = frozen
        return outs

    def scan(self, eqn, values: Sequence) -> list:
        """Rewrite the body, then take the scan apart."""
        view = jaxprs.read_scan(eqn)
        if self.frozen or not view.length:
            return super().scan(eqn, values)
        inner = Vectorise(self.task, (*self.here, 0), self.prefix, flat=True)
        body = jaxprs.restage(lambda *args: inner.run(view.body, args), jaxprs.in_shapes(view.body))
        view = jaxprs.with_body(view, body)
        hoist = lambda eqn, fixed: may_hoist(eqn, fixed, view.length, self.task.kept)
        return split_scan(view, values, find_known(view, hoist))
