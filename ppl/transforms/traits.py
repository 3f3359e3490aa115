"""What can be known about the choices of a generative function without running it: for objectives that ask."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Mapping
from typing import Any

import jax

from ppl import choicemap
from ppl.generative import GenerativeFunction, Trace
from ppl.interpreter import Place
from ppl.stochastic.primitive import KeptSpec
from ppl.strategies import Strategy
from ppl.transforms.given import check_given
from ppl.transforms.layout import addressed, path_of
from ppl.transforms.programs import list_places
from ppl.transforms.run import Part, total


def _groups(gf: GenerativeFunction, args: tuple) -> dict[str, list[Place]]:
    """List the places of every address: several where branches of a cond share one."""
    places, _ = list_places(gf.stage(args)[0].body)
    groups: dict[str, list[Place]] = {choicemap.show(path): [] for path in addressed(places)}
    for place in places.values():
        if not place.eqn.params["spec"].silent:
            groups[choicemap.show(path_of(place))].append(place)
    return groups


def strategies(gf: GenerativeFunction, args: tuple) -> dict[str, tuple[Strategy | None, ...]]:
    """Return the strategies of every address, one for each choice that is made there."""
    groups = _groups(gf, args)
    return {name: tuple(place.eqn.params["strategy"] for place in group) for name, group in groups.items()}


def estimated(gf: GenerativeFunction, args: tuple) -> list[str]:
    """List the addresses whose density is an estimate: those that a marginal or a normalised program keeps."""
    groups = _groups(gf, args)
    return [name for name, group in groups.items() if any(isinstance(p.eqn.params["spec"], KeptSpec) for p in group)]


def density_of(gf: GenerativeFunction, trace: Trace, names: Iterable[str]) -> jax.Array:
    """Return the part of a trace's log density due to these very addresses; `project` takes globs."""
    staged, leaves = gf.stage(trace.args)
    places, _ = list_places(staged.body)
    by_path, wanted = addressed(places), set(names)
    selected = frozenset(path for path in by_path if choicemap.show(path) in wanted)
    walk = Part(places, check_given(gf.name, by_path, choicemap.flatten(trace.choices), complete=True), selected)
    walk.run(staged.body, leaves)
    return total(walk.log_densities)


def exact_globs(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Return globs that give every one of these addresses its own weight.

    A bare address also matches under any prefix, and the last match wins: so longer ones come later.
    """
    return {glob.escape(name): weights[name] for name in sorted(weights, key=lambda name: name.count("/"))}
