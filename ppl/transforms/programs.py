"""What every transformation begins with: a staged program, the places of its choices, and their names."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import gc
import hashlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ppl import jaxprs
from ppl._errors import PPLError, boundary, user_source
from ppl.choice import tracing
from ppl.generative import GenerativeFunction
from ppl.interpreter import Place, places
from ppl.primitives import call_p, choice_p, factor_p
from ppl.stochastic.inlining import written_out
from ppl.stochastic.primitive import kept_choices, stochastic_p


@dataclasses.dataclass(frozen=True)
class Program:
    """A staged stochastic function.

    Attributes:
        name: Name of the Python function.
        staged: Its jaxpr and the layout of its results.
        leaves: The traced leaves of the arguments that it was staged with.
        places: Its random choices, by location.
        digests: A fixed 32-bit name for each choice, from its path and how often that path came before.
        plan: What has been decided about this very body, if anything.
    """

    name: str
    staged: jaxprs.Staged
    leaves: list
    places: dict[tuple[int, ...], Place]
    digests: dict[tuple[int, ...], int]
    plan: Any = None


def name_of(function: Any) -> str:
    """Return a function's name for messages."""
    return getattr(function, "__name__", None) or getattr(function, "name", type(function).__name__)


def keyed(function: Callable) -> Callable[[Callable], Callable]:
    """Give a function of `(key, *args)` the name and docstring of a function of `args`, and plain tracebacks.

    It does not get the signature, which lacks the key.

    The garbage collector waits while it runs. Tracing makes objects that nearly all stay alive, and the collector would
    look through the growing program again and again: 400 choices would take more than twice as long as twice 200.
    """

    def decorate(run: Callable) -> Callable:
        @boundary
        def uncollected(*args: Any, **kwargs: Any) -> Any:
            with collector_paused():
                return run(*args, **kwargs)

        functools.update_wrapper(uncollected, function, updated=())
        del uncollected.__wrapped__  # `inspect.signature` would follow it, and miss the key.
        return uncollected

    return decorate


@contextlib.contextmanager
def collector_paused():
    """Pause Python's cyclic garbage collector; what it was before is restored, also after an error."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def require_function(function: Any, usage: str) -> None:
    """Refuse what cannot be called with arguments."""
    if not callable(function) or hasattr(function, "used"):
        raise PPLError(
            f"`{usage}` takes a function that makes random choices.",
            where=user_source(),
            got=f"{function!r} of type {type(function).__name__}",
            remedy="pass the function itself, not the result of a call",
        )


def stage_function(function: Callable, args: tuple) -> tuple[jaxprs.Staged, list]:
    """Trace a stochastic function, or a generative one, whose choices are then its own."""
    if isinstance(function, GenerativeFunction):
        return function.stage(args)

    def body(*inner):
        with tracing(name_of(function)):
            return function(*inner)

    body.__name__ = name_of(function)
    return jaxprs.stage(body, args)


def stage_program(function: Callable, args: tuple) -> Program:
    """Trace a stochastic function (or a generative one) and list its choices."""
    staged, leaves = stage_function(function, args)
    stray = unnormalised(staged.body)
    if stray is not None:
        raise PPLError(
            f"`{name_of(function)}` is unnormalised: it weighs its runs, which sampling cannot do.",
            where=source_of(stray),
            expected="factors and score priors in generative functions that are assessed",
            remedy="pass the generative function to an objective, such as `elbo`",
        )
    staged = dataclasses.replace(staged, body=written_out(staged.body))
    return Program(name_of(function), staged, leaves, *list_places(staged.body))


_SEVERAL = {stochastic_p: lambda eqn: kept_choices(eqn, choice_p)}


def list_places(body: jaxprs.Body) -> tuple[dict, dict]:
    """List the choices of a body by location, and their digests."""
    found = {place.location: place for place in places(body, choice_p, call_p, _SEVERAL)}
    return found, _digests(found)


def drawn_places(program: Program) -> list[tuple[int, ...]]:
    """List the choices that are drawn when costs are estimated: all but enumerated ones."""
    modes = {where: getattr(place.eqn.params["strategy"], "mode", None) for where, place in program.places.items()}
    return [where for where, mode in modes.items() if mode != "enumerate"]


def with_body(program: Program, body: jaxprs.Body) -> Program:
    """Return a rewritten program; its choices are listed anew."""
    if body is program.staged.body:
        return program
    staged = dataclasses.replace(program.staged, body=body)
    return Program(program.name, staged, program.leaves, *list_places(body))


def unnormalised(body: jaxprs.Body):
    """Return an equation that makes a program unnormalised (a factor, a prior known by its score), or None."""
    for eqn in body.eqns:
        if eqn.primitive is factor_p or (eqn.primitive is choice_p and not eqn.params["spec"].can_sample):
            return eqn
        if eqn.primitive is stochastic_p and eqn.params["fixed"]:
            return eqn
        if jaxprs.holds_choice(eqn):
            found = [unnormalised(inner) for inner in jaxprs.inner_bodies(eqn)]
            stray = next((eqn for eqn in found if eqn is not None), None)
            if stray is not None:
                return stray
    return None


def source_of(eqn) -> str:
    """Return the address and source line of a choice or factor."""
    return f"{eqn.params['label']!r} at {eqn.params['source']}"


def label_of(place: Place) -> str:
    """Return the "/"-joined path of a choice, or the family's name where it has no address."""
    return "/".join([*place.prefix, place.eqn.params["label"]])


def _digests(places: dict) -> dict[tuple[int, ...], int]:
    seen, used, digests = collections.Counter(), set(), {}
    for location, place in places.items():
        label, digest = label_of(place), place.eqn.params["digest"]
        name, seen[label] = f"{label}#{seen[label]}", seen[label] + 1
        while digest is None or digest in used:  # Two choices with one digest would share their noise.
            digest = int.from_bytes(hashlib.blake2s(name.encode(), digest_size=4).digest(), "big")
            name += "'"
        used.add(digest)
        digests[location] = digest
    return digests


def check_key(key: Any, usage: str) -> None:
    """Refuse anything but one typed key."""
    dtype = getattr(key, "dtype", None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if typed and key.shape == ():
        return
    got = (
        f"a batch of keys of shape {key.shape}"
        if typed
        else f"{type(key).__name__} {getattr(key, 'shape', '')} {dtype or ''}"
    )
    raise PPLError(
        f"`{usage}` needs a PRNG key as its first argument.",
        where=user_source(),
        expected="one key made by `jax.random.key(seed)`",
        got=got.strip(),
        remedy="use `jax.vmap` over the keys" if typed else "pass `jax.random.key(0)` (not `jax.random.PRNGKey`)",
    )
