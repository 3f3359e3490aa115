"""Dreams: runs of the model, split into latent choices and observations."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from estimators.objectives.guides import detached
from ppl import AddressError, GenerativeFunction, simulate
from ppl._errors import user_source
from ppl.choicemap import Masked, flatten, nest, show


def dreamt(model: GenerativeFunction, params: Any, observed: Any, *inputs: Any) -> tuple[Any, Any]:
    """Draw latent choices and observations from the model, detached; observations have the types of `observed`."""
    dream, shapes = flatten(simulate(model)(detached(params), *inputs).choices), flatten(observed)
    _require_made(dream, shapes)
    seen = nest({path: _like(dream[path], leaf) for path, leaf in shapes.items()})
    return nest({path: leaf for path, leaf in dream.items() if path not in shapes}), seen


def _require_made(dream: dict, shapes: dict) -> None:
    missing = [show(path) for path in shapes if path not in dream]
    if missing:
        raise AddressError(
            f'The model makes no choice at "{missing[0]}", which is observed.',
            where=user_source(),
            expected=", ".join(f'"{show(path)}"' for path in dream),
            got=", ".join(f'"{name}"' for name in missing),
            remedy="observe choices that the model makes",
        )


def _like(dreamt: Any, leaf: Any) -> Any:
    """Give a dreamt value the dtype (and the mask) of what is observed."""
    if isinstance(leaf, Masked):
        return Masked(_like(dreamt, leaf.value), leaf.mask)
    return dreamt if isinstance(dreamt, Masked) else jnp.asarray(dreamt, jnp.result_type(leaf))
