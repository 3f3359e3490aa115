"""Enumerated choices that a scan hands on to its next step and no further: summed by passing messages.

If all that a step keeps of an enumerated choice is its own value (z_t, no function of z_t and z_{t-1}), the carry has
one entry for each value of the last choice, and what a step needs to know of the past is the probability of each. With
k values and T steps that is T k^2 work in a program whose size does not depend on T (forward recursion; Rabiner 1989).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping

from ppl import jaxprs
from ppl.analysis.dependence import Flow, Location, Past, Slice, is_inside, location_of, site_shape
from ppl.analysis.terms import Terms
from ppl.interpreter import Place


@dataclasses.dataclass(frozen=True)
class Chain:
    """A scan whose enumerated choices reach its carry or its stacked results as values.

    Attributes:
        sites: Those that reach the carry.
        carry: For each carry that is needed as it is, those of them that it is computed from.
        leaving: The one that reaches stacked results, if any: outside, its steps are lanes, each with the probability
            that its value has at that step.
    """

    sites: tuple[Location, ...]
    carry: tuple[tuple[Location, ...], ...]
    leaving: tuple[Location, ...] = ()


@dataclasses.dataclass(frozen=True)
class Scene:
    """What the search for chains looks at.

    Attributes:
        modes: Modes of choices.
        places: Places of choices.
        apart: Tells whether all that is outside of a scan looks at a choice in it one step at a time.
    """

    modes: Mapping[Location, str]
    places: Mapping[Location, Place]
    apart: Callable[[Location, Location], bool]


def find_chains(scene: Scene, body, flow: Flow, values: Flow, terms: Terms, location=()) -> dict[Location, Chain]:
    """Find the scans of a program that can be summed by passing messages, by location.

    Args:
        scene: The choices.
        body: The program.
        flow: Its dependencies.
        values: The same, where an enumerated value does not depend on the parameters of its choice.
        terms: Its cost terms.
        location: Where the program stands.
    """
    return dict(_chains(scene, body, flow, values, terms, location))


def _chains(scene: Scene, body, flow, values, terms, location) -> Iterator[tuple[Location, Chain]]:
    for index, number in flow.inner:
        if (index, number) not in terms.inner:
            continue  # Nothing of it is needed.
        here, eqn = (*location, index), body.eqns[index]
        inner = flow.inner[index, number], values.inner[index, number], terms.inner[index, number]
        if eqn.primitive is jaxprs.scan_p:
            chain = _chain(scene, here, *inner, len(flow.carry[index]))
            if chain is not None:
                yield here, chain
        yield from _chains(scene, jaxprs.read_body(eqn, number), *inner, (*here, number))


def _chain(scene: Scene, here: Location, flow: Flow, values: Flow, terms: Terms, num_carry: int) -> Chain | None:
    kept = [
        [key for key in deps if raw and is_inside(key, here) and scene.modes[location_of(key)] == "enumerate"]
        for deps, raw in zip(values.outs, terms.out_raw, strict=True)
    ]
    if any(isinstance(key, Past) for keys in kept for key in keys):
        return None
    sites, leaving = (_sites(part) for part in (kept[:num_carry], kept[num_carry:]))
    everyone = tuple(sorted({*sites, *leaving}))
    if not everyone or len(leaving) > 1 or not all(_may_chain(scene, s, here, flow, len(sites)) for s in everyone):
        return None
    if leaving and (len(sites) > 1 or not all(scene.apart(site, here) for site in everyone)):
        return None  # Of two steps together, or of a step and the end, only the marginals would be known.
    return Chain(sites, tuple(tuple(sorted(keys)) for keys in kept[:num_carry]), leaving)


def _sites(kept) -> tuple[Location, ...]:
    return tuple(sorted({location_of(key) for keys in kept for key in keys}))


def _may_chain(scene: Scene, site: Location, here: Location, flow: Flow, count: int) -> bool:
    place = scene.places[site]
    alone = count == 1 or not site_shape(place.eqn)
    apart = not _mixes_scores(scene, site, here, flow) and not _waits_for_another(scene, site, here, flow)
    return alone and place.scans[-1][0] == here and apart


def _waits_for_another(scene: Scene, site: Location, here: Location, flow: Flow) -> bool:
    """Tell whether all steps depend on one enumerated choice outside: each of its values would need a message."""
    outside = [key for key in flow.sites[site] if not isinstance(key, Slice) and not is_inside(key, here)]
    return any(scene.modes[location_of(key)] == "enumerate" for key in outside)


def _mixes_scores(scene: Scene, site: Location, here: Location, flow: Flow) -> bool:
    """Tell whether a choice depends on a scored one that itself depends on the state: its score would weigh the sum."""
    scored = [key for key in flow.sites[site] if scene.modes[location_of(key)] == "score" and is_inside(key, here)]
    upstream = [key for score in scored for key in flow.sites[location_of(score)]]
    return any(scene.modes[location_of(key)] == "enumerate" and is_inside(key, here) for key in upstream)
