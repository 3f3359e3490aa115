"""Checks of given choices against a program, before it runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from ppl._errors import AddressError, SupportError, closest, did_you_mean
from ppl.choicemap import Masked, Path, show
from ppl.interpreter import Place
from ppl.specs import Subset
from ppl.transforms.layout import trace_shape
from ppl.transforms.records import spread
from ppl.value_checks import checking, require


def check_given(name: str, places: Mapping[Path, Place], given: Mapping[Path, Any], complete: bool) -> dict[Path, Any]:
    """Check addresses, shapes and types of given choices; return them as arrays of the right type.

    Args:
        name: Name of the generative function.
        places: Its choices, by path.
        given: Values by path.
        complete: Whether every choice must be given.

    Raises:
        AddressError: A choice is missing or unknown, or has the wrong shape.
        SupportError: A concrete float that is not integral is given for a discrete choice.
    """
    unknown = [path for path in given if path not in places]
    missing = [path for path in places if path not in given] if complete else []
    if unknown or missing:
        raise _address_mismatch(name, places, given, unknown, missing)
    return {path: _check_value(name, path, places, leaf) for path, leaf in given.items()}


def _address_mismatch(name, places, given, unknown, missing) -> AddressError:
    listed = lambda paths: ", ".join(f'"{show(path)}"' for path in paths) or "none"
    if missing:
        wanted = show(missing[0])
        what = f'`{name}` needs a choice at "{wanted}", which is not given.'
        where = f'"{wanted}" at {places[missing[0]].eqn.params["source"]}'
        close = closest(wanted, [show(path) for path in unknown])
        hint = f'did you mean "{wanted}" where you gave "{close}"?' if close else None
    else:
        wanted = show(unknown[0])
        what = f'`{name}` makes no choice at "{wanted}".'
        where = f'"{wanted}", given to `{name}`'
        hint = did_you_mean(wanted, [show(path) for path in places])
    return AddressError(
        what,
        where=where,
        expected=f"choices at {listed(places)}",
        got=f"values at {listed(given)}",
        remedy=hint or "give every choice of the program once, and nothing else",
    )


def _check_value(name: str, path: Path, places: Mapping[Path, Place], leaf: Any) -> Any:
    place = places[path]
    value = _as_array(name, path, place, leaf.value if isinstance(leaf, Masked) else leaf)
    expected, source = trace_shape(place), place.eqn.params["source"]
    if value.shape not in _all_elements(path, places, expected):
        raise AddressError(
            f'The value given at "{show(path)}" of `{name}` has the wrong shape.',
            where=f'"{show(path)}" at {source}',
            expected=f"shape {expected}",
            got=f"shape {value.shape}",
            remedy="axes of scan and vmap lead, outer ones first; then the choice's own shape",
        )
    _check_real(path, place, value)
    _check_integral(path, place, leaf.value if isinstance(leaf, Masked) else leaf)
    value = _cast(place, value)
    if checking():
        mask = _check_mask(name, path, place, value, leaf.mask) if isinstance(leaf, Masked) else None
        value = _check_traced(path, place, value, mask)
    return Masked(value, _check_mask(name, path, place, value, leaf.mask)) if isinstance(leaf, Masked) else value


def _as_array(name: str, path: Path, place: Place, value: Any) -> jax.Array:
    try:
        return jnp.asarray(value)
    except (TypeError, ValueError):  # ValueError: None, and ragged lists.
        raise AddressError(
            f'The value given at "{show(path)}" of `{name}` is not an array.',
            where=f'"{show(path)}" at {place.eqn.params["source"]}',
            expected=f"an array of shape {trace_shape(place)}",
            got=f"{type(value).__name__} {value!r}",
            remedy="give numbers or arrays",
        ) from None


def _check_mask(name: str, path: Path, place: Place, value: jax.Array, mask: Any) -> jax.Array:
    mask = jnp.asarray(mask)
    lead = len(place.scans) + len(place.eqn.params["lanes"])
    spec = place.eqn.params["spec"]
    events = len(spec.event_shape([var.aval.shape for var in place.eqn.invars[: len(spec.names)]]))
    if mask.dtype != bool or not lead <= mask.ndim <= value.ndim - events or mask.shape != value.shape[: mask.ndim]:
        raise AddressError(
            f'The mask given at "{show(path)}" of `{name}` does not fit its value.',
            where=f'"{show(path)}" at {place.eqn.params["source"]}',
            expected=f"booleans of shape {value.shape[:lead]}",
            got=f"{mask.dtype} of shape {mask.shape}",
            remedy="give one boolean for each lane and step",
        )
    return mask


def _all_elements(path: Path, places: Mapping[Path, Place], shape: tuple[int, ...]) -> set[tuple[int, ...]]:
    """Return the shapes that a choice may be given in: with the drawn or with all elements of each subsample around."""
    allowed = {shape}
    for i in range(len(path)):
        indices = places.get((*path[:i], "indices"))
        if indices is not None and isinstance(indices.eqn.params["spec"], Subset) and path[i:] != ("indices",):
            axis = len(trace_shape(indices)) - 1
            n = indices.eqn.params["spec"].n
            allowed |= {(*known[:axis], n, *known[axis + 1 :]) for known in allowed}
    return allowed


def _cast(place: Place, value: jax.Array) -> jax.Array:
    """Give a value the type of its choice; a traced float under a discrete choice keeps its own, to be checked."""
    floating = jnp.issubdtype(value.dtype, jnp.floating)
    if not place.eqn.params["spec"].family.discrete:
        return value if floating else value.astype(place.eqn.outvars[0].aval.dtype)
    return value if floating else value.astype(np.int32)


def _check_real(path: Path, place: Place, value: jax.Array) -> None:
    """Refuse complex values under a real choice: a cast would drop their imaginary part."""
    dtype = place.eqn.outvars[0].aval.dtype
    if jnp.issubdtype(value.dtype, jnp.complexfloating) and not jnp.issubdtype(dtype, jnp.complexfloating):
        raise SupportError(
            f'A complex value is given at "{show(path)}".',
            where=f'"{show(path)}" at {place.eqn.params["source"]}',
            expected=f"{dtype} values, for {place.eqn.params['spec'].family}",
            got=f"{value.dtype}",
            remedy="give real and imaginary part to choices of their own",
        )


def _check_integral(path: Path, place: Place, value: Any) -> None:
    """Refuse concrete floats that are not integral; the density is -inf at traced ones."""
    family = place.eqn.params["spec"].family
    if not family.discrete or isinstance(value, Tracer):
        return
    values = np.asarray(value)
    wrong = values[values != np.round(values)] if values.dtype.kind == "f" else np.zeros(0)
    if wrong.size:
        raise _not_integral(path, place, f"{values.dtype} values such as {wrong[0]}")


def _check_traced(path: Path, place: Place, value: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Tie a traced value of a discrete choice to a check that it is integral where it is given."""
    if not (place.eqn.params["spec"].family.discrete and jnp.issubdtype(value.dtype, jnp.floating)):
        return value
    wrong = value != jnp.round(value)
    wrong = wrong if mask is None else wrong & spread(mask, wrong.ndim)
    return require(value, wrong, _not_integral(path, place, f"{value.dtype} values"))


def _not_integral(path: Path, place: Place, got: str) -> SupportError:
    return SupportError(
        f'A value that is not integral is given at "{show(path)}".',
        where=f'"{show(path)}" at {place.eqn.params["source"]}',
        expected=f"integers, for {place.eqn.params['spec'].family}",
        got=got,
        remedy="round or threshold the data, or use a continuous distribution",
    )
