"""The unobserved choices of a model, and how each is laid out in one unconstrained vector."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from ppl import choicemap
from ppl._errors import ControlFlowError, PPLError, StrategyError, SupportError
from ppl.choicemap import Masked, Path, show
from ppl.generative import GenerativeFunction
from ppl.guides.bijectors import BOUNDS, SUPPORTS, bijector
from ppl.guides.bounds import UNKNOWN, Known, edges
from ppl.interpreter import Place
from ppl.specs import Whole
from ppl.transforms.given import check_given
from ppl.transforms.layout import addressed, trace_shape
from ppl.transforms.programs import list_places
from ppl.transforms.run import require_gf

_EDGES = {"above_loc": ("left_bounded", "loc"), "from_scale": ("left_bounded", "scale")}
"""Supports that begin at a parameter of another name."""


@dataclasses.dataclass(frozen=True)
class Latent:
    """An unobserved choice.

    Attributes:
        path: Its address.
        shape: Its shape in a trace.
        support: Name of its support.
        bounds: Edges of the support, where they are numbers.
        free: Shape of its unconstrained form.
        start: Where that begins in the vector of all.
    """

    path: Path
    shape: tuple[int, ...]
    support: str
    bounds: dict[str, Any]
    free: tuple[int, ...]
    start: int

    @property
    def size(self) -> int:
        """Number of unconstrained numbers."""
        return math.prod(self.free)

    @property
    def stop(self) -> int:
        """Where its part of the vector ends."""
        return self.start + self.size


@dataclasses.dataclass(frozen=True)
class Latents:
    """The unobserved choices of a model, in the order of `log_joint`.

    Attributes:
        model: Name of the model.
        choices: One entry for each choice.
        num_inputs: Number of the model's inputs.
        dtype: Type of the vector.
    """

    model: str
    choices: tuple[Latent, ...]
    num_inputs: int
    dtype: Any

    @property
    def size(self) -> int:
        """Length of the unconstrained vector."""
        return sum(latent.size for latent in self.choices)


def find_latents(usage: str, model: GenerativeFunction, observed: Any, inputs: tuple, params: Any) -> Latents:
    """List the unobserved choices of a model.

    Raises:
        AddressError: An observed choice is unknown or has the wrong shape.
        StrategyError: An unobserved choice is discrete or foreign.
        ControlFlowError: An unobserved choice is made only sometimes.
        SupportError: The edges of a support are not fixed numbers.
        PPLError: The model needs parameters that are not given, has nothing to guess, or is observed in part.
    """
    require_gf(model, f"guides.{usage}")
    staged = stage_model(model, params, inputs)
    places, _ = list_places(staged.body)
    by_path = addressed(places)
    given = check_given(model.name, by_path, choicemap.flatten(observed), complete=False)
    _refuse_partly(given, by_path)
    latent = {path: place for path, place in by_path.items() if path not in given}
    for path, place in latent.items():
        _check(usage, path, place)
    if not latent:
        raise PPLError(
            f"`{model.name}` has no unobserved choice, so there is nothing to guess.",
            where=f"`guides.{usage}({model.name}, ...)`",
            expected="choices of the model that are not in `observed`",
            got=", ".join(f'"{show(path)}"' for path in by_path) + ", all observed",
            remedy="leave out of `observed` what is to be inferred",
        )
    known = Known()
    known.run(staged.body, [UNKNOWN] * len(staged.body.invars))
    found, start = [], 0
    for path, place in latent.items():
        found.append(_describe(path, place, known.operands[place.location], start))
        start = found[-1].stop
    dtype = jnp.result_type(*(place.eqn.outvars[0].aval.dtype for place in latent.values()))
    return Latents(model.name, tuple(found), len(inputs), dtype)


def stage_model(model: GenerativeFunction, params: Any, inputs: tuple):
    """Trace a model that reads its parameters at `params["model"]`."""
    try:
        return model.stage(({"guide": {}, "model": params}, *inputs))[0]
    except PPLError:
        raise
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise PPLError(
            f"`{model.name}` could not be traced with `params` = {{'guide': ..., 'model': {_brief(params)}}}.",
            where=f"`{model.name}(params, *inputs)` with {len(inputs)} inputs",
            expected='a model that reads its own parameters at `params["model"]`',
            got=f"{type(error).__name__}: {error}",
            remedy="give the parameters, `params=...`, and all inputs of the model",
        ) from error


def _brief(params: Any) -> str:
    return str(jax.tree.map(lambda leaf: "array" if hasattr(leaf, "shape") else leaf, params))


def _refuse_partly(given, places) -> None:
    for path, leaf in given.items():
        if isinstance(leaf, Masked):
            raise PPLError(
                f'The choice at "{show(path)}" is observed in part, which guides do not complete.',
                where=f'"{show(path)}" at {places[path].eqn.params["source"]}',
                expected="all of it, or nothing",
                got="a `Masked` value",
                remedy="observe all of it, or sample the missing elements by `ppl.log_joint` and NUTS",
            )


def _check(usage: str, path: Path, place: Place) -> None:
    params = place.eqn.params
    family, where = params["spec"].family, f'"{show(path)}" at {params["source"]}'
    if family.discrete:
        raise StrategyError(
            f'The choice at "{show(path)}" is discrete, and `guides.{usage}` has continuous choices only.',
            where=where,
            expected="continuous unobserved choices",
            got=str(family),
            remedy="observe it; or write the guide yourself, with `grad=enum()` or `grad=reinforce()` at this choice",
        )
    if isinstance(params["spec"], Whole) or family.support.name == "sphere":
        raise StrategyError(
            f'There is no map from unconstrained numbers to the choice at "{show(path)}".',
            where=where,
            expected="a distribution of this library, over numbers, a simplex or matrices",
            got=f"{family}, with the support `{family.support}`",
            remedy="use another constructor, observe the choice, or write the guide yourself",
        )
    if place.branches or params["masked"]:
        raise ControlFlowError(
            f'The choice at "{show(path)}" is made only sometimes, so the vector would have no fixed length.',
            where=where,
            expected="choices that every run makes",
            got="a choice in a branch of a `cond`",
            remedy="make it outside of the branch, or observe it",
        )


def _describe(path: Path, place: Place, operands, start: int) -> Latent:
    spec = place.eqn.params["spec"]
    name = spec.family.support.name
    support, own = _EDGES.get(name, (name, None))
    names = (own,) if own else BOUNDS.get(support, ())
    bounds = edges(place, operands, names)
    if bounds is None or support not in SUPPORTS:
        raise SupportError(
            f'The support of the choice at "{show(path)}" is not fixed.',
            where=f'"{show(path)}" at {place.eqn.params["source"]}',
            expected="edges that are numbers written in the model",
            got=f"{spec.family} ({name}), with edges that depend on other choices, on parameters, inputs or steps",
            remedy="draw it from a fixed support, e.g. `u = uniform(0.0, 1.0) @ ...`, and scale it in the model",
        )
    if own:
        bounds = {"low": bounds[own]}
    shape = trace_shape(place)
    free = jax.eval_shape(bijector(support, bounds)._inverse, jax.ShapeDtypeStruct(shape, jnp.result_type(float))).shape
    return Latent(path, shape, support, bounds, free, start)
