"""What is found, in the user's words: the way from a choice to a discontinuity, with source lines."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from ppl import jaxprs
from ppl._errors import UnsoundGradientError
from ppl.analysis.dependence import Location
from ppl.analysis.smoothness import trust
from ppl.analysis.smoothness.frames import Break, steps_back
from ppl.interpreter import Place
from ppl.primitives import choice_p, density_p


@dataclasses.dataclass(frozen=True)
class Step:
    """An operation on the way: its name and the user's line."""

    name: str
    source: str

    def __str__(self) -> str:
        return f"{self.name} at {self.source}"


@dataclasses.dataclass(frozen=True)
class Path:
    """The way of a pathwise value to a discontinuity.

    Attributes:
        label: Path of the choice.
        source: Source line of the choice.
        family: Its family.
        steps: Operations, the first one first; the last one is the offending one.
        reason: What is wrong with the last one.
    """

    label: str
    source: str
    family: str
    steps: tuple[Step, ...]
    reason: str

    def __str__(self) -> str:
        return " -> ".join([f"{self.label!r} at {self.source}", *map(str, self.steps)])

    def error(self) -> UnsoundGradientError:
        """Build the error for a derivative that meets the choice."""
        return UnsoundGradientError(
            f"The pathwise gradient of {self.family} {self.label!r} would be biased: the value reaches the result "
            f"through `{self.steps[-1].name}`, and {self.reason}.",
            where=f"{self.label!r} at {self.source}",
            expected="continuous operations between a pathwise choice and the result",
            got=str(self),
            remedy="use `grad=reinforce()` for this choice; or wrap what is computed in `ppl.assume_continuous(...)` "
            "if it is continuous after all; or `grad=pathwise(unchecked=True)` to do without this check",
        )


@dataclasses.dataclass(frozen=True)
class Smoothness:
    """The verdict on a program.

    Attributes:
        unsound: For each pathwise choice whose gradient may be biased, the way to the discontinuity.
        detached: For each pathwise choice the source lines of `stop_gradient` on values that depend on it.
    """

    unsound: Mapping[Location, Path]
    detached: Mapping[Location, tuple[str, ...]]


def make_path(place: Place, label: str, found: Break) -> Path:
    """Follow a discontinuity back to its choice."""
    steps = [_step(found.eqn)]
    for _, eqn in steps_back(found.frame, found.var, place.location):
        if eqn.primitive is choice_p and eqn.params["label"] == place.eqn.params["label"]:
            continue
        step = _step(eqn)
        if step != steps[0] and jaxprs.user_line_of(eqn) is not None:
            steps.insert(0, step)
    params = place.eqn.params
    return Path(label, params["source"], str(params["spec"].family), tuple(steps), found.reason)


def _step(eqn) -> Step:
    if eqn.primitive is density_p:
        return Step(f"log density of {eqn.params['label']!r}", _line(eqn))
    if eqn.primitive is choice_p:
        return Step(f"{eqn.params['spec'].family} {eqn.params['label']!r}", eqn.params["source"])
    return Step(trust.display_name(eqn), _line(eqn))


def _line(eqn) -> str:
    return jaxprs.user_line_of(eqn) or jaxprs.source_of(eqn)
