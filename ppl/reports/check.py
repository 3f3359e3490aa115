"""`check`: everything that does not fit between a model and a guide, at once, before anything runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from ppl import choicemap
from ppl._errors import PPLError, boundary, closest
from ppl.choicemap import Masked, Path, show
from ppl.generative import GenerativeFunction
from ppl.interpreter import Place
from ppl.transforms.given import check_given
from ppl.transforms.layout import addressed, trace_shape
from ppl.transforms.programs import list_places
from ppl.transforms.run import require_gf

_WIDER = {
    "unit_interval": {"nonnegative", "real"},
    "positive": {"nonnegative", "real"},
    "nonnegative": {"real", "positive"},  # They differ by a point, which has no mass under a density.
    "interval": {"real"},
    "boolean": {"count"},
    "index": {"count"},
    "simplex": {"real_vector", "real"},
    "real": {"real_vector"},
    "real_vector": {"real"},  # A joint normal guide of independent normal choices, and the other way round.
}
"""Supports that contain a support, besides itself."""


@dataclasses.dataclass(frozen=True)
class Report:
    """What `check` found.

    Attributes:
        problems: One text for each problem, in the form of the errors of this library.
    """

    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether there are no problems."""
        return not self.problems

    def __repr__(self) -> str:
        if self.ok:
            return "Report: no problems found"
        return "\n".join([f"Report: {len(self.problems)} problem(s)", *(f"- {problem}" for problem in self.problems)])


@boundary
def check(model: GenerativeFunction, guide: GenerativeFunction, args: tuple) -> Report:
    """Report every address, shape, type, support and strategy that does not fit between a model and a guide.

    Args:
        model: Called as `model(params, *inputs)`.
        guide: Called as `guide(params, observed, *inputs)`.
        args: `(params, observed, *inputs)`; only traced, never run.

    Returns:
        A [`Report`][ppl.reports.Report].

    Example:
        >>> import ppl
        >>> model = ppl.gen(lambda params: ppl.normal(0.0, 1.0) @ "z")
        >>> guide = ppl.gen(lambda params, observed: ppl.normal(params, 1.0) @ "zz")
        >>> ppl.check(model, guide, (0.0, {})).ok
        False
    """
    require_gf(model, "check")
    require_gf(guide, "check")
    params, observed, *inputs = args
    problems: list[str] = []
    model_places = _places(model, (params, *inputs), problems)
    guide_places = _places(guide, (params, observed, *inputs), problems)
    if model_places is not None and guide_places is not None:
        problems += _compare(model.name, guide.name, model_places, guide_places, choicemap.flatten(observed))
    return Report(tuple(problems))


def _places(gf: GenerativeFunction, args: tuple, problems: list[str]) -> dict[Path, Place] | None:
    try:
        return addressed(list_places(gf.stage(args)[0].body)[0])
    except PPLError as error:
        problems.append(str(error))
        return None


def _where(path: Path, place: Place) -> str:
    return f'"{show(path)}" at {place.eqn.params["source"]}'


def _compare(
    model: str, guide: str, needed: Mapping[Path, Place], made: Mapping[Path, Place], observed: Mapping[Path, Any]
) -> Iterator[str]:
    for path, leaf in observed.items():
        if path in needed:
            yield from _observation(model, path, needed, leaf)
        else:
            hint = closest(show(path), [show(other) for other in needed if other not in made])
            yield f'`{model}` makes no choice at "{show(path)}", which is observed.' + _did_you_mean(hint)
    for path, place in needed.items():
        if path not in made and path not in observed:
            hint = closest(show(path), [show(other) for other in made if other not in needed])
            text = (
                f"`{guide}` makes no choice at {_where(path, place)}, which `{model}` needs and which is not observed."
            )
            yield text + _did_you_mean(hint, "the guide's ")
    for path, place in made.items():
        if path in observed:
            yield f"`{guide}` makes a choice at {_where(path, place)}, which is observed."
        elif path not in needed:
            yield f"`{guide}` makes a choice at {_where(path, place)}, which `{model}` does not make."
        else:
            yield from _pair(model, guide, path, needed[path], place)


def _did_you_mean(hint: str | None, whose: str = "") -> str:
    return f' Did you mean {whose}"{hint}"?' if hint else ""


def _observation(model: str, path: Path, needed: Mapping[Path, Place], leaf: Any) -> Iterator[str]:
    try:
        check_given(model, needed, {path: leaf}, complete=False)
    except PPLError as error:
        yield str(error)
    if isinstance(leaf, Masked):
        yield f'"{show(path)}" is observed only in part: objectives need all of it, or a guide for the rest.'


def _pair(model: str, guide: str, path: Path, needed: Place, made: Place) -> Iterator[str]:
    ours, theirs = needed.eqn.params["spec"], made.eqn.params["spec"]
    if trace_shape(needed) != trace_shape(made):
        yield (
            f"The choice at {_where(path, made)} has shape {trace_shape(made)} in `{guide}`, "
            f"and {trace_shape(needed)} in `{model}` ({_where(path, needed)})."
        )
    if ours.family.discrete != theirs.family.discrete:
        yield f"The choice at {_where(path, made)} is {theirs.family} in `{guide}`, and {ours.family} in `{model}`."
    elif not _inside(theirs.family.support.name, ours.family.support.name):
        yield (
            f"The support of {theirs.family} at {_where(path, made)} in `{guide}` ({theirs.family.support}) is not "
            f"inside that of {ours.family} in `{model}` ({ours.family.support}): the objective would be -inf."
        )
    if made.eqn.params["strategy"] is None and theirs.names:
        yield f"The choice at {_where(path, made)} in `{guide}` has no gradient strategy: give it `grad=`."


def _inside(inner: str, outer: str) -> bool:
    known = {*_WIDER, *(name for wider in _WIDER.values() for name in wider)}
    return inner == outer or inner not in known or outer not in known or outer in _WIDER.get(inner, ())
