"""What can be known about the choices of a generative function without running it: for objectives that ask."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax

from ppl import choicemap
from ppl.choicemap import Masked, Path, show
from ppl.generative import GenerativeFunction, Trace
from ppl.interpreter import Place
from ppl.stochastic.primitive import KeptSpec
from ppl.strategies import Strategy
from ppl.transforms.assess import assess
from ppl.transforms.derive import factor_paths
from ppl.transforms.given import check_given
from ppl.transforms.layout import addressed, path_of
from ppl.transforms.programs import list_places
from ppl.transforms.records import Record
from ppl.transforms.run import Part, run, total


def _groups(gf: GenerativeFunction, args: tuple) -> dict[str, list[Place]]:
    """List the places of every address: several where branches of a cond share one."""
    places, _ = list_places(gf.stage(args)[0].body)
    groups: dict[str, list[Place]] = {show(path): [] for path in addressed(places)}
    for place in places.values():
        if not place.eqn.params["spec"].silent:
            groups[show(path_of(place))].append(place)
    return groups


def strategies(gf: GenerativeFunction, args: tuple) -> dict[str, tuple[Strategy | None, ...]]:
    """Return the strategies of every address, one for each choice that is made there."""
    groups = _groups(gf, args)
    return {name: tuple(place.eqn.params["strategy"] for place in group) for name, group in groups.items()}


def specs(gf: GenerativeFunction, args: tuple) -> dict[str, tuple[Any, ...]]:
    """Return what is drawn at every address, one specification for each choice that is made there."""
    groups = _groups(gf, args)
    return {name: tuple(place.eqn.params["spec"] for place in group) for name, group in groups.items()}


def estimated(gf: GenerativeFunction, args: tuple) -> list[str]:
    """List the addresses whose density is an estimate: those that a marginal or a normalised program keeps."""
    groups = _groups(gf, args)
    return [name for name, group in groups.items() if any(isinstance(p.eqn.params["spec"], KeptSpec) for p in group)]


def density_of(gf: GenerativeFunction, trace: Trace, names: Iterable[str]) -> jax.Array:
    """Return the part of a trace's log density due to these very addresses; `project` takes globs."""
    wanted = set(names)
    return _part(gf, trace.choices, trace.args, lambda paths: {path for path in paths if show(path) in wanted})


def density_without(gf: GenerativeFunction, choices: Any, args: tuple, names: Iterable[str]) -> jax.Array:
    """Return the log density of given choices and factors, but for these very addresses.

    They are not evaluated, unless some choices are conditional: whether those are made where the program makes them is
    for `assess` to tell, which gives -inf where they are not.
    """
    flat, unwanted = choicemap.flatten(choices), set(names)
    if any(isinstance(leaf, Masked) for leaf in flat.values()):
        weights = {show(path): float(show(path) not in unwanted) for path in flat}
        return assess(gf, exact_globs(weights))(choices, *args)[0]
    return _part(gf, choices, args, lambda paths: {path for path in paths if show(path) not in unwanted})


def _part(gf: GenerativeFunction, choices: Any, args: tuple, pick: Callable[[set[Path]], set[Path]]) -> jax.Array:
    staged, leaves = gf.stage(args)
    places, _ = list_places(staged.body)
    by_path = addressed(places)
    given = check_given(gf.name, by_path, choicemap.flatten(choices), complete=True)
    walk = Part(places, given, frozenset(pick({*by_path, *factor_paths(staged.body)})))
    walk.run(staged.body, leaves)
    return total(walk.log_densities)


def elements(gf: GenerativeFunction, choices: Any, args: tuple) -> dict[str, Record]:
    """Return every given choice, by address, with its log density element by element, and where it is made.

    Axes of the densities: lanes and steps as in a trace (`lead` of them), then the batch. No weights are counted.
    """
    found = run(gf, choicemap.flatten(choices), args, "assess", track="elements").records
    return {show(path): record for path, record in found.items()}


def exact_globs(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Return globs that give every one of these addresses its own weight.

    A bare address also matches under any prefix, and the last match wins: so longer ones come later.
    """
    return {glob.escape(name): weights[name] for name in sorted(weights, key=lambda name: name.count("/"))}
