"""What `ppl.methods.exact()` cannot sum, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable

from ppl._errors import ControlFlowError, StrategyError
from ppl.choicemap import Path, show
from ppl.interpreter import Place


def not_finite(path: Path, eqn) -> StrategyError:
    """Build the error for an auxiliary choice without a finite support."""
    family = eqn.params["spec"].family
    kind = "has no finite support that is known in advance" if family.discrete else "is continuous"
    return StrategyError(
        f'The auxiliary choice at "{show(path)}" {kind}, so it cannot be summed out exactly.',
        where=f'"{show(path)}" at {eqn.params["source"]}',
        expected="auxiliary choices with finitely many values, such as bernoulli and categorical",
        got=str(family),
        remedy="use `method=ppl.methods.quadrature(points)` (few continuous ones) or `ppl.methods.importance()`; "
        "or keep this choice",
    )


def has_no_place(path: Path, eqn, construct: str, remedy: str) -> ControlFlowError:
    """Build the error for a choice where sums over auxiliary choices have not been worked out."""
    return ControlFlowError(
        f'The choice at "{show(path)}" stands {construct}, where `exact()` cannot sum over auxiliary choices.',
        where=f'"{show(path)}" at {eqn.params["source"]}',
        expected="choices that are always made, also in `vmap` and in `scan`",
        got=construct,
        remedy=remedy,
    )


def beyond_a_step(place: Place, what: str) -> ControlFlowError:
    """Build the error for a choice of a scan of which more than its last value is handed on."""
    return ControlFlowError(
        f"The auxiliary choice {_name(place)!r} leaves its step of the scan as more than its own last value.",
        where=_where(place),
        expected="a carry that is a function of this step's choices alone, and no stacked results made of them",
        got=what,
        remedy="hand on the choice itself, and use it in the next step; or `method=ppl.methods.importance()`, `smc()`",
    )


def too_large(places: Iterable[Place], states: float, max_states: int) -> StrategyError:
    """Build the error for a sum with too many joint values."""
    found = list(places)
    listed = ", ".join(repr(_name(place)) for place in found[:6]) + (", ..." if len(found) > 6 else "")
    return StrategyError(
        f"Auxiliary choices have to be summed together: {states:.3g} joint values of {listed}.",
        where=_where(found[-1]),
        expected=f"at most {max_states} joint values",
        got=f"{states:.3g}",
        remedy="raise `ppl.methods.exact(max_states=...)`, keep some of these choices, let fewer of them meet in one "
        "density, or use `ppl.methods.importance()`",
    )


def lanes_cross(place: Place) -> StrategyError:
    """Build the error for lanes of choices that meet in all combinations."""
    return StrategyError(
        f"The lanes of the auxiliary choice {_name(place)!r} meet those of another one in all combinations.",
        where=_where(place),
        expected="lanes that are independent once choices outside of them are given",
        got="one density over two auxiliary choices, each with lanes of its own",
        remedy="keep one of the two choices, or use `ppl.methods.importance()`",
    )


def _name(place: Place) -> str:
    return "/".join([*place.prefix, place.eqn.params["label"]])


def _where(place: Place) -> str:
    return f"{_name(place)!r} at {place.eqn.params['source']}"
