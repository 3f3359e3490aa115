"""A program taken apart at its scan: what comes before it, one step, and what comes after it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from ppl import jaxprs
from ppl._errors import ControlFlowError
from ppl.choicemap import Path, show
from ppl.generative import GenerativeFunction
from ppl.interpreter import Place
from ppl.stochastic.inlining import holds_stochastic
from ppl.transforms.given import check_given
from ppl.transforms.layout import addressed
from ppl.transforms.programs import list_places
from ppl.transforms.run import Run


@dataclasses.dataclass(frozen=True)
class Sequenced:
    """A program whose latent choices are made in one scan.

    Attributes:
        name: Its name.
        staged: The program.
        leaves: Its traced arguments.
        places: Its choices, by location.
        by_path: Its choices, by path.
        cut: Number of the equation of the scan.
        view: The scan.
    """

    name: str
    staged: jaxprs.Staged
    leaves: list
    places: Mapping[tuple[int, ...], Place]
    by_path: Mapping[Path, Place]
    cut: int
    view: jaxprs.Scan

    @property
    def body(self) -> jaxprs.Body:
        """The jaxpr."""
        return self.staged.body

    def walk(self, given: Mapping[Path, Any], weighed: frozenset[Path]) -> Run:
        """Return an interpreter that reads what is given, samples the rest, and weighs these choices."""
        given = check_given(self.name, self.by_path, given, complete=False)
        walk = Run(self.places, given, "observe", {}, False)
        walk.weighed = weighed
        walk.here = (self.cut,)
        return walk

    def before(self, walk: Run) -> tuple[list, tuple]:
        """Run what comes before the scan; return the values that are needed later, and what left."""
        env = dict(zip(self.body.constvars, self.body.consts, strict=True))
        env.update(zip(self.body.invars, self.leaves, strict=True))
        self._part(walk, env, range(self.cut))
        return [env[var] for var in self.needed], walk.leave()

    @property
    def needed(self) -> list:
        """Variables made before the scan that it, or what comes after it, reads."""
        eqns = self.body.eqns
        made = {var for eqn in eqns[: self.cut] for var in eqn.outvars} | {*self.body.invars, *self.body.constvars}
        read = [var for eqn in eqns[self.cut :] for var in eqn.invars] + list(self.body.outvars)
        return list(dict.fromkeys(var for var in read if not isinstance(var, jaxprs.Literal) and var in made))

    def operands(self, values: Sequence) -> tuple[list, list, list]:
        """Return constants, first carry and inputs of the scan."""
        env = dict(zip(self.needed, values, strict=True))
        read = [var.val if isinstance(var, jaxprs.Literal) else env[var] for var in self.body.eqns[self.cut].invars]
        consts, carry, xs = self.view.split([jnp.asarray(value) for value in read])
        return list(consts), list(carry), list(xs)

    def step(self, walk: Run, consts, carry, xs, slices) -> tuple[list, list, tuple]:
        """Run one step; return the new carry, what it hands out, and what left."""
        child = walk.child(slices, {}, (self.cut, 0))
        new, ys = self.view.split_out(child.run(self.view.body, [*consts, *carry, *xs]))
        return list(new), list(ys), child.leave()

    def after(self, walk: Run, values: Sequence, outs: Sequence) -> tuple[Any, tuple]:
        """Run what comes after the scan; return the program's result, and what left."""
        env = dict(zip(self.needed, values, strict=True))
        env.update(zip(self.body.eqns[self.cut].outvars, outs, strict=True))
        self._part(walk, env, range(self.cut + 1, len(self.body.eqns)))
        read = lambda var: var.val if isinstance(var, jaxprs.Literal) else env[var]
        return [read(var) for var in self.body.outvars], walk.leave()

    def _part(self, walk: Run, env: dict, numbers: range) -> None:
        read = lambda var: var.val if isinstance(var, jaxprs.Literal) else env[var]
        for number in numbers:
            eqn = self.body.eqns[number]
            walk.here = (number,)
            with jaxprs.source_line(eqn):
                outs = walk.equation(eqn, [read(var) for var in eqn.invars])
            env.update(zip(eqn.outvars, outs, strict=True))


def sequence(gf: GenerativeFunction, args: tuple, given: Mapping[Path, Any]) -> Sequenced:
    """Take a program apart at the scan that makes its latent choices.

    Raises:
        ControlFlowError: There is not just one such scan at the top of the program, or a density in it is stochastic.
    """
    staged, leaves = gf.stage(args)
    places, _ = list_places(staged.body)
    by_path = addressed(places)
    latent = {path: place for path, place in by_path.items() if path not in given}
    cuts = {place.scans[0][0] for place in latent.values() if place.scans and len(place.scans[0][0]) == 1}
    inside = [show(path) for path, place in latent.items() if place.scans and len(place.scans[0][0]) > 1]
    if len(cuts) != 1 or inside or holds_stochastic(staged.body):
        where = next(iter(latent.values())).eqn.params["source"] if latent else gf.name
        raise ControlFlowError(
            f"`{gf.name}` is not a sequence that particles could follow.",
            where=where,
            expected="latent choices in one `jax.lax.scan` of the program's own body, with exact densities",
            got=f"{len(cuts)} such scans; latent choices at " + (", ".join(f'"{show(p)}"' for p in latent) or "none"),
            remedy="write the steps as one scan, or use `ppl.methods.sir()`",
        )
    (cut,) = next(iter(cuts))
    return Sequenced(gf.name, staged, leaves, places, by_path, cut, jaxprs.read_scan(staged.body.eqns[cut]))
