"""What several objectives ask of a guide: draws, detached parameters, and which choices are differentiated how."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from ppl import GenerativeFunction, StrategyError, Trace, simulate
from ppl._errors import user_source
from ppl.transforms.traits import estimated


def detached(tree: Any) -> Any:
    """Stop the derivatives of all inexact arrays (and Python floats) of a tree; leave every other leaf alone."""
    return jax.tree.map(_detach, tree)


def _detach(leaf: Any) -> Any:
    inexact = isinstance(leaf, float) or (hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.inexact))
    return jax.lax.stop_gradient(leaf) if inexact else leaf


def tangents_of(value: jax.Array) -> jax.Array:
    """Return 0 with the derivatives of a value: terms that change a gradient alone."""
    return value - jax.lax.stop_gradient(value)


def charged(guide: GenerativeFunction, *args: Any) -> list[str]:
    """List the addresses all of whose choices are differentiated by a score function."""
    found = guide.strategies(*args)
    return [name for name, ways in found.items() if all(getattr(way, "mode", None) == "score" for way in ways)]


def simulate_detached(guide: GenerativeFunction, params: Any, observed: Any, *inputs: Any) -> Trace:
    """Draw from the guide at detached parameters: no derivative goes through these draws, whatever their strategy."""
    return simulate(guide)(detached(params), observed, *inputs)


def require_exact(usage: str, program: GenerativeFunction, *args: Any) -> None:
    """Refuse a program whose density is an estimate: assessed at the same values again, it would be another one."""
    names = estimated(program, args)
    if names:
        raise StrategyError(
            f"`{usage}` assesses `{program.name}` twice at the same values, but its density is an estimate.",
            where=user_source(),
            expected="a program whose density is exact",
            got="a marginal or normalised program at " + ", ".join(f'"{name}"' for name in names),
            remedy="use `elbo` or `iwelbo`, which take every density once",
        )
