"""Derivatives of log densities in the choices: scores, for objectives that compare these."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from ppl import GenerativeFunction, PPLError
from ppl._errors import user_source
from ppl.choicemap import Masked, flatten, show


def vector_of(usage: str, choices: Any) -> tuple[jax.Array, Callable[[jax.Array], Any]]:
    """Return continuous, unconditional choices as one vector, and the way back.

    Raises:
        PPLError: A choice is discrete, or made only sometimes: it has no score.
    """
    for path, leaf in flatten(choices).items():
        if isinstance(leaf, Masked) or not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            kind = "made only sometimes" if isinstance(leaf, Masked) else "discrete"
            raise PPLError(
                f'`{usage}` takes derivatives in the choices, but "{show(path)}" is {kind}.',
                where=user_source(),
                expected="continuous choices that are always made",
                remedy="marginalise the choice (`ppl.marginal`), or use another objective",
            )
    return ravel_pytree(choices)


def require_real(usage: str, gf: GenerativeFunction, args: tuple) -> None:
    """Refuse choices of a guide whose support has an edge, over which a step would lead.

    Raises:
        PPLError: A family's support is not the whole line or space.
    """
    from ppl.transforms.layout import addressed
    from ppl.transforms.programs import list_places

    places, _ = list_places(gf.stage(args)[0].body)
    for path, place in addressed(places).items():
        support = place.eqn.params["spec"].family.support
        if not support.everywhere or place.eqn.params["spec"].family.discrete:
            raise PPLError(
                f'`{usage}` moves choices along their scores, but the support at "{show(path)}" has edges.',
                where=f'"{show(path)}" at {place.eqn.params["source"]}',
                expected="a family on the whole line or space, such as `normal`",
                got=str(place.eqn.params["spec"].family),
                remedy="choose an unconstrained value in model and guide, and transform it",
            )
