"""Soundness of pathwise gradients: which choices reach the result through a discontinuity.

A pathwise gradient differentiates the result in the value of a choice. It is unbiased where the result is a continuous
function of that value, piecewise differentiable with an integrable derivative: kinks do no harm, jumps do, and the
gradient misses them without a sign. The analysis follows every pathwise choice through the staged program. What it
cannot show to be continuous it refuses. Not checked is whether derivatives are integrable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ppl import jaxprs
from ppl.analysis.dependence import Location
from ppl.analysis.smoothness.flow import Walk
from ppl.analysis.smoothness.frames import NOTHING, Break, Frame, is_inexact
from ppl.analysis.smoothness.paths import Path as Path
from ppl.analysis.smoothness.paths import Smoothness as Smoothness
from ppl.analysis.smoothness.paths import Step as Step
from ppl.analysis.smoothness.paths import make_path
from ppl.interpreter import Place


def smoothness(body: jaxprs.Body, places: Mapping[Location, Place], aux: Sequence[bool]) -> Smoothness:
    """Judge the pathwise choices of a staged program.

    Args:
        body: The program.
        places: Its choices, by location.
        aux: Which of its results are auxiliary: they have no derivative, and may jump.

    Returns:
        The choices that are unsound, each with the way to a discontinuity, and what is detached.
    """
    walk, frame = Walk(), Frame(body, ())
    outs = walk.body(frame, [NOTHING] * len(body.invars))
    broken: dict[Location, Break] = {}
    for var, fact, is_aux in zip(body.outvars, outs, aux, strict=True):
        if not is_aux and is_inexact(var):
            for site, found in fact.broken.items():
                broken.setdefault(site, found)
    unsound = {site: make_path(places[site], _label(places[site]), found) for site, found in sorted(broken.items())}
    detached = {
        site: tuple(dict.fromkeys(jaxprs.user_line_of(eqn) or jaxprs.source_of(eqn) for eqn in eqns))
        for site, eqns in walk.detached.items()
    }
    return Smoothness(unsound, detached)


def _label(place: Place) -> str:
    return "/".join([*place.prefix, place.eqn.params["label"]])
