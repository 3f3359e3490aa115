"""What can be known about the choices of a generative function without running it: for objectives that ask."""

from __future__ import annotations

from ppl import choicemap
from ppl.generative import GenerativeFunction
from ppl.interpreter import Place
from ppl.stochastic.primitive import KeptSpec
from ppl.strategies import Strategy
from ppl.transforms.layout import addressed, path_of
from ppl.transforms.programs import list_places


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
