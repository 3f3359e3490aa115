"""Where the choices of a generative function stand in its traces: addresses, shapes, axes."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from ppl._errors import AddressError
from ppl.choicemap import Path, show
from ppl.interpreter import Place


def path_of(place: Place) -> Path:
    """Return the full address of a choice of a generative function."""
    address = place.eqn.params["address"]
    if address is None:
        raise AddressError(
            "A choice of a generative function has no address.",
            where=f"{place.eqn.params['label']!r} at {place.eqn.params['source']}",
            expected='`... @ "address"`',
            got="`.sample()`, which is for objectives",
            remedy='write `... @ "name"`',
        )
    return (*place.prefix, *address)


def label_path(place: Place) -> Path:
    """Return the path of a choice, which ends in its label (with "/" in it) where it has no address."""
    address = place.eqn.params["address"]
    return (*place.prefix, *((place.eqn.params["label"],) if address is None else address))


def trace_shape(place: Place) -> tuple[int, ...]:
    """Return the shape of a choice in the trace: axes of scans and lanes from the outermost in, then the value's."""
    shape = list(place.eqn.outvars[0].aval.shape)
    for level in range(len(place.scans) - 1, -1, -1):
        shape.insert(outer_lanes(place, level), place.scans[level][1])
    return tuple(shape)


def outer_lanes(place: Place, level: int) -> int:
    """Count the lanes of a choice that stand outside its `level`-th enclosing scan (0 is the outermost)."""
    return sum(lane.depth >= len(place.scans) - level for lane in place.eqn.params["lanes"])


def addressed(places: Mapping[tuple[int, ...], Place]) -> dict[Path, Place]:
    """List the choices of a generative function that have a place in its traces, by path.

    Raises:
        AddressError: Two choices may be made under one address; or in different branches, but of different shape.
    """
    groups: dict[Path, list[Place]] = {}
    for place in places.values():
        if not place.eqn.params["spec"].silent:
            groups.setdefault(path_of(place), []).append(place)
    for path, group in groups.items():
        for first, second in itertools.combinations(group, 2):
            _check_pair(path, first, second)
        for i in range(1, len(path)):
            if path[:i] in groups:
                raise _duplicate(path[:i], groups[path[:i]][0], group[0])
    return {path: group[0] for path, group in groups.items()}


def _check_pair(path: Path, first: Place, second: Place) -> None:
    if not _exclusive(first, second):
        raise _duplicate(path, first, second)
    kinds = [(trace_shape(place), place.eqn.outvars[0].aval.dtype) for place in (first, second)]
    if kinds[0] != kinds[1]:
        raise AddressError(
            f'The branches of a cond make choices of different shape or dtype at "{show(path)}".',
            where=_sources(path, first, second),
            expected="one shape and dtype",
            got=" and ".join(f"{dtype}{list(shape)}" for shape, dtype in kinds),
            remedy="give them different addresses",
        )


def _exclusive(first: Place, second: Place) -> bool:
    """Tell whether two choices stand in different branches of one cond."""
    guards = ((place.branches, place.eqn.params["guards"]) for place in (first, second))
    (branches, others), (other_branches, other_guards) = guards
    pairs = [*itertools.product(branches, other_branches), *itertools.product(others, other_guards)]
    return any(a[0] == b[0] and a[1] != b[1] for a, b in pairs)


def _duplicate(path: Path, first: Place, second: Place) -> AddressError:
    return AddressError(
        f'Two choices are made at "{show(path)}".',
        where=_sources(path, first, second),
        expected="each address once (or once in each branch of a cond, with one shape and dtype)",
        got="a second choice, or a call with choices of its own",
        remedy="rename one of them, or nest a call under an address of its own",
    )


def _sources(path: Path, first: Place, second: Place) -> str:
    sources = dict.fromkeys(place.eqn.params["source"] for place in (first, second))
    return f'"{show(path)}" at {" and ".join(sources)}'
