"""Where the choices of a generative function stand in its traces: addresses, shapes, axes."""

from __future__ import annotations

from ppl._errors import AddressError
from ppl.choicemap import Path
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


def trace_shape(place: Place) -> tuple[int, ...]:
    """Return the shape of a choice in the trace: axes of scans and lanes from the outermost in, then the value's."""
    shape = list(place.eqn.outvars[0].aval.shape)
    for level in range(len(place.scans) - 1, -1, -1):
        shape.insert(outer_lanes(place, level), place.scans[level][1])
    return tuple(shape)


def outer_lanes(place: Place, level: int) -> int:
    """Count the lanes of a choice that stand outside its `level`-th enclosing scan (0 is the outermost)."""
    return sum(lane.depth >= len(place.scans) - level for lane in place.eqn.params["lanes"])
