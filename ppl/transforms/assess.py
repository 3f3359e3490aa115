"""`assess`: a generative function becomes a function of its choices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax

from ppl import choicemap
from ppl._errors import boundary
from ppl.generative import GenerativeFunction
from ppl.transforms.run import require_gf, run


@boundary
def assess(gf: GenerativeFunction, weights: Mapping[str, Any] | None = None) -> Callable[..., tuple[jax.Array, Any]]:
    """Turn a generative function into a function of given choices: `(choices, *args) -> (log_density, retval)`.

    Args:
        gf: The generative function.
        weights: Factors of the log densities, by glob; scalars, or arrays over lanes and steps.

    Returns:
        The function; choices are nested dicts, with `Masked` or plain values where a choice is conditional.

    Raises:
        AddressError: A choice is missing, unknown, or has the wrong shape.
        SupportError: A concrete float that is not integral is given for a discrete choice.

    Example:
        >>> import ppl
        >>> model = ppl.gen(lambda: ppl.normal(0.0, 1.0) @ "z")
        >>> round(float(ppl.assess(model)({"z": 0.5})[0]), 4)
        -1.0439
    """
    require_gf(gf, "assess")

    @boundary
    def assessed(choices: Any, *args: Any) -> tuple[jax.Array, Any]:
        trace = run(gf, choicemap.flatten(choices), args, "assess", weights).trace
        return trace.log_density, trace.retval

    return assessed
