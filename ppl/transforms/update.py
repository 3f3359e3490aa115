"""`update`, `regenerate` and `project`: moves from one trace to another, and parts of a trace's density."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ppl import choicemap
from ppl._errors import AddressError, boundary
from ppl.choicemap import Masked, Path, show
from ppl.generative import GenerativeFunction, Trace
from ppl.specs import Subset
from ppl.transforms.derive import factor_owners
from ppl.transforms.given import check_given
from ppl.transforms.layout import addressed
from ppl.transforms.programs import list_places
from ppl.transforms.records import Record, spread, zero_where_idle
from ppl.transforms.run import Outcome, Part, require_gf, run, total

Move = Callable[..., tuple[Trace, jax.Array, dict[str, Any]]]


@boundary
def update(gf: GenerativeFunction) -> Move:
    """Turn a generative function into a move that changes some choices of a trace.

    Args:
        gf: The generative function.

    Returns:
        A stochastic function `(trace, observed, *args) -> (trace, log_weight, discarded)`; without `args` the trace's.
        The other choices are kept; choices that were not made before are drawn from the prior. The weight is
        log p'(t') - log p(t), less the log density of what was drawn (its plain one, without weights of `scale` and
        of `subsample`: it is what drew it); updating back with what was discarded gives
        minus the weight if nothing was drawn. In `discarded`, choices that are no longer made in some lanes or steps
        are `Masked`, with zeros where nothing was discarded.

    Raises:
        AddressError: An observed choice is unknown or has the wrong shape; or the indices of a subsample are given, but
            not all choices inside it, which belong to the elements drawn before.

    Example:
        >>> import jax, ppl
        >>> @ppl.gen
        ... def model():
        ...     z = ppl.normal(0.0, 1.0) @ "z"
        ...     ppl.normal(z, 1.0) @ "x"
        >>> trace, _ = model.generate(jax.random.key(0), {"z": 0.5, "x": 2.0})
        >>> _, log_weight, discarded = model.update(jax.random.key(1), trace, {"z": 1.0})
        >>> float(log_weight), float(discarded["z"])
        (0.25, 0.5)
    """
    require_gf(gf, "update")

    @boundary
    def updated(trace: Trace, observed: Any, *args: Any):
        old, new = choicemap.flatten(trace.choices), choicemap.flatten(observed)
        args = args or trace.args
        whole = {path for path, leaf in new.items() if not isinstance(leaf, Masked)}
        outcome = run(gf, _overlay(old, new, whole), args, "update")
        log_weight = outcome.log_weight - trace.log_density
        return outcome.trace, log_weight, _discarded(old, set(new), outcome)

    return updated


@boundary
def regenerate(gf: GenerativeFunction) -> Move:
    """Turn a generative function into a move that draws some choices of a trace anew, from the prior.

    Args:
        gf: The generative function.

    Returns:
        A stochastic function `(trace, selection, *args) -> (trace, log_weight, discarded)`; the selection is a glob on
        paths, or several. The log weight is that of p'(t') q(old) / (p(t) q(new)), q the density of what is drawn: the
        prior as such, without the weights that `scale` and `subsample` give it in p. Accepting with probability
        min(1, weight) leaves p (normalised, where it is not) invariant.

    Raises:
        AddressError: The selection matches nothing; or the indices of a subsample, but not all choices inside it.

    Example:
        >>> import jax, ppl
        >>> model = ppl.gen(lambda: ppl.normal(0.0, 1.0) @ "z")
        >>> trace = model.simulate(jax.random.key(0))
        >>> float(model.regenerate(jax.random.key(1), trace, "z")[1])
        0.0
    """
    require_gf(gf, "regenerate")

    @boundary
    def regenerated(trace: Trace, selection: Any, *args: Any):
        old = choicemap.flatten(trace.choices)
        selected = choicemap.select(selection, old)
        args = args or trace.args
        kept = {path: leaf for path, leaf in old.items() if path not in selected}
        outcome = run(gf, _overlay(kept, {}, selected), args, "update", track=True)
        before = run(gf, old, trace.args, "assess", track=True)
        gone = [_gone(path in selected, record, outcome.records.get(path)) for path, record in before.records.items()]
        return outcome.trace, outcome.log_weight - before.log_weight + total(gone), _discarded(old, selected, outcome)

    return regenerated


@boundary
def project(gf: GenerativeFunction) -> Callable[..., jax.Array]:
    """Turn a generative function into a function that gives the part of a trace's log density due to some choices.

    Args:
        gf: The generative function.

    Returns:
        A function `(trace, selection) -> log_weight`: log p(t) for all choices, 0 for none. Densities count as they do
        in p, with the weights of `scale` and `subsample`; a factor is selected by its address.

    Raises:
        AddressError: The selection matches nothing.

    Example:
        >>> import jax, ppl
        >>> @ppl.gen
        ... def model():
        ...     z = ppl.normal(0.0, 1.0) @ "z"
        ...     ppl.normal(z, 1.0) @ "x"
        >>> trace, _ = model.generate(jax.random.key(0), {"z": 0.0, "x": 0.0})
        >>> round(float(model.project(trace, "x")), 4)
        -0.9189
    """
    require_gf(gf, "project")

    @boundary
    def projected(trace: Trace, selection: Any) -> jax.Array:
        old = choicemap.flatten(trace.choices)
        staged, leaves = gf.stage(trace.args)
        places, _ = list_places(staged.body)
        by_path = addressed(places)
        owners = factor_owners(staged.body, by_path)
        selected = choicemap.select(selection, [*by_path, *owners.values()])
        selected |= {path for path, owner in owners.items() if owner in selected}
        walk = Part(places, check_given(gf.name, by_path, old, complete=True), frozenset(selected))
        walk.run(staged.body, leaves)
        return total(walk.log_densities)

    return projected


def _overlay(
    old: dict[Path, Any], new: dict[Path, Any], changed: set[Path]
) -> Callable[[Mapping[Path, Any]], dict[Path, Any]]:
    """Put new choices over old ones; old ones that the program no longer makes are left out."""

    def given(places: Mapping[Path, Any]) -> dict[Path, Any]:
        _check_minibatches(places, old, changed)
        merged = {path: leaf for path, leaf in old.items() if path in places}
        for path, leaf in new.items():
            under = merged.get(path)
            merged[path] = leaf if under is None or not isinstance(leaf, Masked) else _over(leaf, under)
        return merged

    return given


def _over(leaf: Masked, under: Any) -> Any:
    value, made = (under.value, under.mask) if isinstance(under, Masked) else (under, None)
    value = jnp.where(spread(leaf.mask, jnp.ndim(value)), leaf.value, value)
    return value if made is None else Masked(value, leaf.mask | made)


def _gone(redrawn: bool, before: Record, after: Record | None) -> Any:
    """Add up the plain old log densities of a choice where it is drawn anew or no longer made."""
    if redrawn or after is None:
        return before.log_prob.sum()
    return jnp.where(after.made(), 0, before.log_prob).sum()


def _discarded(old: dict[Path, Any], replaced: set[Path], outcome: Outcome) -> dict[str, Any]:
    """Return old choices that were replaced, or that are no longer made; zeros stand where nothing is discarded."""
    gone: dict[Path, Any] = {}
    for path, leaf in old.items():
        record = outcome.records.get(path)
        if path in replaced or record is None:
            gone[path] = leaf
        elif isinstance(leaf, Masked) or record.mask is not None:
            value, made = (leaf.value, leaf.mask) if isinstance(leaf, Masked) else (leaf, True)
            mask = made & ~record.made()
            gone[path] = Masked(zero_where_idle(jnp.asarray(value), mask), mask)
    return choicemap.nest(gone)


def _check_minibatches(places: Mapping[Path, Any], old: Mapping[Path, Any], changed: set[Path]) -> None:
    """Refuse new indices of a subsample beside old choices inside it: these belong to the elements drawn before."""
    for path in changed & places.keys():
        spec = places[path].eqn.params["spec"]
        if isinstance(spec, Subset) and spec.size < spec.n:
            inside = [other for other in places if other[: len(path) - 1] == path[:-1] and other != path]
            kept = [other for other in inside if other in old and other not in changed]
            if kept:
                raise _stale(path, kept, places)


def _stale(path: Path, kept: list[Path], places: Mapping[Path, Any]) -> AddressError:
    listed = ", ".join(f'"{show(other)}"' for other in kept)
    return AddressError(
        f'New indices at "{show(path)}" would stand beside choices made for the old ones.',
        where=f'"{show(path)}" at {places[path].eqn.params["source"]}',
        expected="new values for all choices inside the subsample",
        got=f"{listed} kept",
        remedy="give or select them too (all n rows of data may be given), or use `generate` for another minibatch",
    )
