"""`log_joint`: the density of a program over one unconstrained vector, for samplers and optimisers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ppl import choicemap
from ppl._errors import ControlFlowError, StrategyError, boundary
from ppl.choicemap import Masked, Path, show
from ppl.generative import GenerativeFunction
from ppl.interpreter import Place
from ppl.primitives import lane_shapes
from ppl.specs import Whole
from ppl.transforms.given import check_given
from ppl.transforms.layout import addressed, trace_shape
from ppl.transforms.missing import Missing, Partly, over, partly_missing
from ppl.transforms.programs import list_places
from ppl.transforms.run import Run, require_gf, require_values, total


@dataclasses.dataclass(frozen=True)
class Constrain:
    """The map from an unconstrained vector to choices.

    Attributes:
        size: Length of the vector.
        shapes: Shape of each choice in its unconstrained form, in order; of its missing elements, where it is partly
            observed.
    """

    size: int
    shapes: dict[Path, tuple[int, ...]]
    _walk: Callable[[dict[Path, Any], str], Run]
    _missing: dict[Path, Missing]

    def __call__(self, x: jax.Array) -> dict[str, Any]:
        """Return the choices, without the observed ones; partly observed ones are completed."""
        return self._choices(self._walk(self.split(x), "constrain"))

    def inverse(self, choices: Any) -> jax.Array:
        """Return the vector whose choices these are; observed elements stay as observed."""
        parts = choicemap.flatten(choices)
        for path, missing in self._missing.items():
            parts[path] = over(missing.mask, missing.value, parts[path])
        records = self._walk(parts, "inverse").records
        free = {path: records[path].value for path in self.shapes}
        free.update({path: missing.pick(free[path]) for path, missing in self._missing.items()})
        return jnp.concatenate([jnp.ravel(value) for value in free.values()])

    def split(self, x: jax.Array) -> dict[Path, jax.Array]:
        """Return the unconstrained form of each choice."""
        parts, start = {}, 0
        for path, shape in self.shapes.items():
            size = math.prod(shape)
            parts[path] = jnp.reshape(x[start : start + size], shape)
            start += size
        return parts

    def _choices(self, walk: Run) -> dict[str, Any]:
        return choicemap.nest({path: walk.records[path].value for path in self.shapes})


@boundary
def log_joint(gf: GenerativeFunction, observed: Any, *args: Any) -> tuple[Callable[[jax.Array], jax.Array], Constrain]:
    """Return the log density of the unobserved choices over one unconstrained vector, and the map to choices.

    Supports decide the change of variables (exp for positive choices, stick breaking for a simplex, ...), also where
    they depend on other choices; its log Jacobian is part of the density. Hand it to BlackJAX.

    Args:
        gf: The generative function; its unobserved choices are continuous and unconditional.
        observed: Nested dict of observed choices. Of a `Masked` value the elements under False are unknowns, too.
        *args: Arguments of the program.

    Returns:
        `(log_density, constrain)`: `log_density(x)` takes a 1-D array of length `constrain.size`; `constrain(x)` gives
        the choices, `constrain.inverse(choices)` the array.

    Raises:
        AddressError: An observed choice is unknown or has the wrong shape.
        PPLError: A mask of missing data is traced.
        StrategyError: An unobserved choice, or a missing element, is discrete.
        ControlFlowError: An unobserved choice is made only sometimes.

    Example:
        >>> import jax.numpy as jnp, ppl
        >>> model = ppl.gen(lambda: ppl.exponential(2.0) @ "t")
        >>> log_density, constrain = ppl.log_joint(model, {})
        >>> constrain.size, round(float(log_density(jnp.zeros(1))), 4)
        (1, -1.3069)
    """
    require_gf(gf, "log_joint")
    staged, leaves = gf.stage(args)
    places, _ = list_places(staged.body)
    by_path = addressed(places)
    given = check_given(gf.name, by_path, choicemap.flatten(observed), complete=False)
    require_values(gf.name, by_path, "a density over a vector")
    masked = {path: leaf for path, leaf in given.items() if isinstance(leaf, Masked)}
    given.update({path: partly_missing(path, by_path[path], leaf) for path, leaf in masked.items()})
    missing = {path: given.pop(path) for path in masked if isinstance(given[path], Missing)}
    latent = {path: place for path, place in by_path.items() if path not in given}
    for path, place in latent.items():
        _check_latent(path, place)
    free = {path: _unconstrained_shape(place) for path, place in latent.items()}

    def walk(parts: Mapping[Path, Any], direction: str) -> Run:
        if direction == "constrain":
            parts = {**parts, **{path: part.fill(parts[path], free[path]) for path, part in missing.items()}}
        run = _Unconstrained(places, {**given, **parts}, set(latent), direction)
        run.run(staged.body, leaves)
        return run

    shapes = {path: missing[path].shape(shape) if path in missing else shape for path, shape in free.items()}
    constrain = Constrain(sum(map(math.prod, shapes.values())), shapes, walk, missing)

    def log_density(x: jax.Array) -> jax.Array:
        return total(walk(constrain.split(x), "constrain").log_densities)

    return log_density, constrain


def _check_latent(path: Path, place: Place) -> None:
    params = place.eqn.params
    where = f'"{show(path)}" at {params["source"]}'
    if params["spec"].family.discrete:
        raise StrategyError(
            f'The choice at "{show(path)}" is discrete, so it has no unconstrained form.',
            where=where,
            got=str(params["spec"].family),
            remedy="observe it, or sum it out",
        )
    if isinstance(params["spec"], Whole):
        raise StrategyError(
            f'The support of the choice at "{show(path)}" is not known, so it has no unconstrained form.',
            where=where,
            got=f"a foreign distribution, {params['spec'].family}",
            remedy="use the constructor of this library, or observe the choice",
        )
    if place.branches or params["masked"]:
        raise ControlFlowError(
            f'The choice at "{show(path)}" is made only sometimes, so the vector would have no fixed length.',
            where=where,
            remedy="make it outside of the branch, or observe it",
        )


def _transform(spec, params):
    """Return NumPyro's bijection onto the support of a distribution."""
    from numpyro.distributions import biject_to

    return biject_to(spec.numpyro(params).support)


def _unconstrained_shape(place: Place) -> tuple[int, ...]:
    """Return the shape of a choice in the trace, with the event axes of its unconstrained form."""
    params, spec = place.eqn.params, place.eqn.params["spec"]
    operands = place.eqn.invars[: len(spec.names)]
    shapes = lane_shapes([var.aval.shape for var in operands], params["lanes"])
    event = spec.event_shape(shapes)
    shape = trace_shape(place)
    inner = [jnp.ones(s, var.aval.dtype) for s, var in zip(shapes, operands, strict=True)]
    free = jax.eval_shape(lambda x: _transform(spec, inner)._inverse(x), jax.ShapeDtypeStruct(event, inner[0].dtype))
    return shape[: len(shape) - len(event)] + free.shape


class _Unconstrained(Run):
    """Read unobserved choices in unconstrained form (or return them so), with the log Jacobian in the density."""

    def __init__(self, places, given, latent, direction, location=(), prefix=(), subsamples=None):
        super().__init__(places, given, "observe", {}, False, location, prefix, subsamples)
        self.latent, self.direction = latent, direction

    def child(self, given, weights, location):
        """Return the interpreter for a nested body."""
        subsamples = dict(self.subsamples)
        return _Unconstrained(self.places, given, self.latent, self.direction, location, self.prefix, subsamples)

    def _given(self, path, sorted_out):
        given = self.given.get(path)
        return given if isinstance(given, Partly) else super()._given(path, sorted_out)

    def read(self, path, sorted_out, value):
        """Change variables at an unobserved choice."""
        if path not in self.latent:
            return value, value
        transform = _transform(sorted_out.spec, sorted_out.params)
        if self.direction == "inverse":
            return value, transform._inverse(value)
        free = value.free if isinstance(value, Partly) else value
        constrained = transform(free)
        log_jacobian = transform.log_abs_det_jacobian(free, constrained)
        if isinstance(value, Partly):
            constrained, log_jacobian = value.complete(constrained), value.where_missing(log_jacobian)
        self.log_densities.append(jnp.sum(log_jacobian))
        return constrained, constrained
