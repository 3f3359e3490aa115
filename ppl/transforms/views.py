"""The distributions of a program's choices, at given choices: for objectives that know more of them than densities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from ppl import choicemap
from ppl.choicemap import Path
from ppl.generative import GenerativeFunction
from ppl.operands import without_baseline
from ppl.primitives import View, view
from ppl.transforms.given import check_given
from ppl.transforms.layout import addressed
from ppl.transforms.programs import list_places
from ppl.transforms.run import Run


class _Views(Run):
    """Collect the distributions of choices that are always made, once: outside of scans, branches and checkpoints."""

    def __init__(self, *args: Any):
        super().__init__(*args)
        self.views: dict[Path, View] = {}
        self.in_place = False

    def child(self, given, weights, location):
        """Return the interpreter for a nested body; one that is walked in place collects with this one."""
        child = _Views(self.places, given, self.mode, weights, self.track, location, self.prefix, dict(self.subsamples))
        child.views = self.views if self.in_place else {}
        return child

    def jit(self, eqn, values):
        """Walk the body in place."""
        self.in_place = True
        try:
            return super().jit(eqn, values)
        finally:
            self.in_place = False

    def _choose(self, eqn, operands):
        value = super()._choose(eqn, operands)
        params, path = eqn.params, self.path(eqn)
        if not params["masked"] and not self._around(path):
            own, lanes = without_baseline(params, operands)
            self.views[path] = view(params["spec"], lanes, False, own)
        return value


def views(gf: GenerativeFunction, choices: Any, args: tuple) -> dict[str, View]:
    """Return the distribution of every choice, by address, given all choices.

    Left out are choices that are not always made, or in every step of a scan, or in a subsample, those inside of
    `jax.checkpoint`, and those whose density is an estimate.
    """
    staged, leaves = gf.stage(args)
    places, _ = list_places(staged.body)
    given = check_given(gf.name, addressed(places), choicemap.flatten(choices), complete=True)
    walk = _Views(places, given, "assess", {}, False)
    walk.run(staged.body, leaves)
    return {choicemap.show(path): found for path, found in walk.views.items()}


def parents(gf: GenerativeFunction, choices: Any, args: tuple) -> dict[str, set[str]]:
    """Return for every distribution of `views` the addresses of the choices that its parameters may depend on."""
    flat = {choicemap.show(path): leaf for path, leaf in choicemap.flatten(choices).items()}
    names: list[str] = []
    counts: list[int] = []

    def params(flat: Mapping[str, Any]) -> list[Any]:
        found = views(gf, choicemap.nest({tuple(name.split("/")): leaf for name, leaf in flat.items()}), args)
        names[:], counts[:] = list(found), [len(one.params) for one in found.values()]
        return [param for one in found.values() for param in one.params]

    jaxpr = jax.make_jaxpr(params)(flat).jaxpr
    sources = [name for name in sorted(flat) for _ in jax.tree.leaves(flat[name])]
    reached = {var: {name} for var, name in zip(jaxpr.invars, sources, strict=True)}
    for eqn in jaxpr.eqns:
        inside = set().union(*(reached.get(var, ()) for var in eqn.invars if not hasattr(var, "val")))
        reached.update({var: inside for var in eqn.outvars})
    outs = iter(jaxpr.outvars)
    take = lambda: reached.get(var, set()) if not hasattr(var := next(outs), "val") else set()
    return {name: set().union(*(take() for _ in range(count))) for name, count in zip(names, counts, strict=True)}
