"""A program whose like terms are evaluated together, and what is still known of its choices one by one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from ppl.analysis.smoothness import Smoothness, smoothness
from ppl.draws import is_counter_based
from ppl.passes import flatten, pack, pull_out_shared
from ppl.transforms.programs import Program, with_body


def pack_program(program: Program, aux: Sequence[bool], key: Any) -> tuple[Program, Callable[[], Smoothness] | None]:
    """Evaluate like terms together, if nobody has to tell the costs of its choices apart.

    Returns:
        The program, and what judges its pathwise choices: as they were before (None: the program is as it was).
    """
    modes = {place.eqn.params["strategy"].mode for place in program.places.values() if place.eqn.params["strategy"]}
    if modes - {"path"} or not is_counter_based(key):
        return program, None
    flat = with_body(program, flatten(program.staged.body, program.digests))
    found = smoothness(flat.staged.body, flat.places, aux)
    packed = with_body(flat, pack(flat.staged.body, flat.digests, found.unsound))
    packed = with_body(packed, pull_out_shared(packed.staged.body))
    return (program, None) if packed is flat else (packed, lambda: _moved(found, flat, packed))


def _moved(found: Smoothness, before: Program, packed: Program) -> Smoothness:
    """Report each fault at the place where the choice now stands, as the first choice of a pack that has it."""
    places = {}
    for location, digest in packed.digests.items():
        places.update(dict.fromkeys(digest if isinstance(digest, tuple) else (digest,), location))
    moved: dict = {}
    for location, path in found.unsound.items():
        if before.digests[location] in places:  # Others are not needed for the result.
            moved.setdefault(places[before.digests[location]], path)
    return dataclasses.replace(found, unsound=moved)
