"""The interpreter skeleton: every transformation walks the equations of a jaxpr with a subclass of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from jax import lax

from ppl import jaxprs
from ppl._errors import ControlFlowError
from ppl.jaxprs import Body, Literal, Scan


def refuse(eqn) -> ControlFlowError:
    """Build the error for a choice inside a construct that no transformation can descend into."""
    choice = jaxprs.first_choice(eqn)
    name = eqn.primitive.name
    remedies = {
        "while": "give the loop a static number of steps (`jax.lax.fori_loop` with static bounds, `jax.lax.scan`)",
        "custom_jvp_call": "make the choice outside and pass its value in",
        "custom_vjp_call": "make the choice outside and pass its value in",
    }
    return ControlFlowError(
        f"A random choice stands inside `{name}`, where it has no meaning.",
        where=f"{choice.params['label']!r} at {choice.params['source']}",
        expected="choices inside jit, scan, fori_loop with static bounds, cond, switch, vmap, checkpoint, nested calls",
        got=f"`{name}`",
        remedy=remedies.get(name, "move the choice out of it and pass its value in"),
    )


class Interpreter:
    """Walk a jaxpr and give meaning to its random choices; the base of every transformation.

    A subclass says what a choice, a density and a nested call mean, and how its state enters and leaves a nested body:
    `enter(extra)` makes the interpreter for a body, whose `leave()` returns the arrays to be handed out of it, and
    `absorb(extras, how)` takes them in. `location` is the path of equation indices to the current equation: a name for
    each place in the program that does not change when JAX traces a body twice.
    """

    def __init__(self, location: tuple[int, ...] = ()):
        self.location = location
        self.here = location

    # What a subclass may define.
    def enter(self, location: tuple[int, ...], extra: Any) -> Interpreter:
        """Return the interpreter for a nested body."""
        raise NotImplementedError

    def leave(self) -> Any:
        """Return a pytree of arrays that leaves the body this interpreter walked."""
        return ()

    def absorb(self, extras: Any, how: str) -> None:
        """Take in what left a body; `how` is "call" or "scan" (leading axis of steps)."""

    def scan_inputs(self, scan: Scan) -> Any:
        """Return a pytree with leading axis `length` whose slices reach `enter` in each step."""
        return ()

    def cond_inputs(self, branch: int) -> Any:
        """Return what `enter` is given in a branch."""
        return ()

    def special(self, eqn, values: Sequence) -> list:
        """Give meaning to a random choice or a nested call."""
        raise NotImplementedError

    def pad_branches(self, shapes: list, branch: int, extras: Any) -> Any:
        """Give what leaves one branch the structure common to all of them."""
        return extras

    # The walk.
    def run(self, body: Body, args: Sequence) -> list:
        """Evaluate a body on values."""
        env: dict[Any, Any] = dict(zip(body.constvars, body.consts, strict=True))
        env.update(zip(body.invars, args, strict=True))
        read = lambda var: var.val if isinstance(var, Literal) else env[var]
        for index, eqn in enumerate(body.eqns):
            self.here = (*self.location, index)
            with jaxprs.source_line(eqn):
                outs = self.equation(eqn, [read(var) for var in eqn.invars])
            env.update(zip(eqn.outvars, outs, strict=True))
        return [read(var) for var in body.outvars]

    def equation(self, eqn, values: Sequence) -> list:
        """Evaluate one equation."""
        if not jaxprs.holds_choice(eqn):
            return jaxprs.bind(eqn, values)
        if eqn.primitive in jaxprs.CHOICE_PRIMITIVES:
            return self.special(eqn, values)
        if eqn.primitive not in self.handlers:
            raise refuse(eqn)
        return self.handlers[eqn.primitive](eqn, values)

    @property
    def handlers(self) -> dict[Any, Any]:
        """What walks the bodies inside an equation, by primitive."""
        return {
            jaxprs.jit_p: self.jit,
            jaxprs.remat_p: self.remat,
            jaxprs.scan_p: self.scan,
            jaxprs.cond_p: self.cond,
        }

    def jit(self, eqn, values: Sequence) -> list:
        """Walk the body in place: compilation is the caller's business."""
        child = self.enter((*self.here, 0), ())
        outs = child.run(jaxprs.read_call(eqn), values)
        self.absorb(child.leave(), "call")
        return outs

    def remat(self, eqn, values: Sequence) -> list:
        """Walk the body under the same `jax.checkpoint`."""
        here = self.here

        def body(*operands):
            child = self.enter((*here, 0), ())
            return child.run(jaxprs.read_call(eqn), operands), child.leave()

        outs, extras = jaxprs.checkpointed(eqn, body)(*values)
        self.absorb(extras, "call")
        return outs

    def scan(self, eqn, values: Sequence) -> list:
        """Walk the body once, inside a scan of the same length and direction."""
        view, here = jaxprs.read_scan(eqn), self.here
        consts, init, xs = view.split(values)

        def body(carry, inputs):
            slices, extra = inputs
            child = self.enter((*here, 0), extra)
            new, ys = view.split_out(child.run(view.body, [*consts, *carry, *slices]))
            return new, (ys, child.leave())

        carry, (ys, extras) = lax.scan(
            body, init, (xs, self.scan_inputs(view)), view.length, reverse=view.reverse, unroll=view.unroll
        )
        self.absorb(extras, "scan")
        return [*carry, *ys]

    def cond(self, eqn, values: Sequence) -> list:
        """Walk every branch inside a switch; what leaves the branches is padded to one structure."""
        index, *operands = values
        branches, here = jaxprs.read_branches(eqn), self.here

        def walk(number):
            def branch(*ops):
                child = self.enter((*here, number), self.cond_inputs(number))
                return child.run(branches[number], ops), child.leave()

            return branch

        shapes = [jax.eval_shape(walk(number), *operands)[1] for number in range(len(branches))]

        def padded(number):
            def branch(*ops):
                outs, extras = walk(number)(*ops)
                return outs, self.pad_branches(shapes, number, extras)

            return branch

        outs, extras = lax.switch(index, [padded(number) for number in range(len(branches))], *operands)
        self.absorb(extras, "call")
        return outs


@dataclasses.dataclass(frozen=True)
class Place:
    """One random choice of a program and where it stands.

    `scans` holds the location and length of every enclosing scan, outermost first; `branches` the location, number
    and count of every enclosing branch; `prefix` the addresses of the enclosing nested calls.
    """

    location: tuple[int, ...]
    eqn: Any
    prefix: tuple[str, ...]
    scans: tuple[tuple[tuple[int, ...], int], ...]
    branches: tuple[tuple[tuple[int, ...], int, int], ...]


def places(body: Body, choice_p, call_p, several: dict) -> list[Place]:
    """List the random choices of a program in order; refuse those that have no meaning where they stand.

    `several` lists, by primitive, stand-ins for the choices of an equation that makes several.
    """
    return list(_walk(body, (), (), (), (), choice_p, call_p, several))


def _walk(body, location, prefix, scans, branches, *primitives) -> Iterator[Place]:
    choice_p, call_p, several = primitives
    for index, eqn in enumerate(body.eqns):
        here = (*location, index)
        if eqn.primitive is choice_p:
            yield Place(here, eqn, prefix, scans, branches)
        elif eqn.primitive in several:
            for number, stand in enumerate(several[eqn.primitive](eqn)):
                yield Place((*here, number), stand, prefix, scans, branches)
        elif not jaxprs.holds_choice(eqn) or eqn.primitive.name == "factor":
            continue
        elif eqn.primitive is jaxprs.scan_p:
            view = jaxprs.read_scan(eqn)
            inner = (*scans, (here, view.length))
            yield from _walk(view.body, (*here, 0), prefix, inner, branches, *primitives)
        elif eqn.primitive is jaxprs.cond_p:
            bodies = jaxprs.read_branches(eqn)
            for number, branch in enumerate(bodies):
                inner = (*branches, (here, number, len(bodies)))
                yield from _walk(branch, (*here, number), prefix, scans, inner, *primitives)
        elif eqn.primitive is call_p:
            nested = (*prefix, *eqn.params["address"])
            yield from _walk(jaxprs.read_call(eqn), (*here, 0), nested, scans, branches, *primitives)
        elif eqn.primitive in (jaxprs.jit_p, jaxprs.remat_p):
            yield from _walk(jaxprs.read_call(eqn), (*here, 0), prefix, scans, branches, *primitives)
        else:
            raise refuse(eqn)
