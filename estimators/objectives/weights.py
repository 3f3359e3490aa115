"""Weights of choices in an objective: which of them concern which program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ppl import PPLError, choicemap
from ppl._errors import user_source


def require_weights(usage: str, weights: Any) -> Mapping[str, Any]:
    """Refuse weights that are not given by glob; None is no weights."""
    if weights is None:
        return {}
    if isinstance(weights, Mapping) and all(isinstance(glob, str) for glob in weights):
        return weights
    raise PPLError(
        f"`{usage}` takes weights by glob.",
        where=user_source(),
        expected='a dict such as {"z": 0.5}',
        got=repr(weights),
        remedy="give a dict from globs on addresses to numbers or arrays",
    )


def shared_out(weights: Mapping[str, Any], *programs: Sequence[str]) -> list[dict[str, Any]]:
    """Return, for each program, the weights whose globs match one of its addresses.

    Args:
        weights: Weights by glob.
        *programs: The addresses of each program.

    Raises:
        AddressError: A glob matches no choice of any program.
    """
    paths = [[tuple(address.split("/")) for address in addresses] for addresses in programs]
    for glob in weights:
        choicemap.require_match(glob, dict.fromkeys(path for own in paths for path in own))
    concerns = lambda glob, own: any(choicemap.matches(glob, path) for path in own)
    return [{glob: weight for glob, weight in weights.items() if concerns(glob, own)} for own in paths]
