"""The interpreter of generative functions: it reads given choices, samples the others, and adds up densities."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from ppl import choicemap
from ppl._errors import AddressError, PPLError, StrategyError, user_source
from ppl.choicemap import Masked, Path, show
from ppl.generative import GenerativeFunction, Trace
from ppl.interpreter import Interpreter, Place
from ppl.operands import without_baseline
from ppl.primitives import Lane, bind_choice, bind_density, call_p, choice_p, factor_p, lane_shapes, view_of
from ppl.specs import Subset
from ppl.stochastic.inlining import Relabel
from ppl.stochastic.primitive import stochastic_p, view_of_stochastic
from ppl.transforms.given import check_given
from ppl.transforms.layout import addressed, label_path, outer_lanes, trace_shape
from ppl.transforms.programs import list_places, name_of, source_of, unnormalised
from ppl.transforms.records import ALWAYS, Record, join, pad, spread, zero_where_idle

Mode = Literal["assess", "observe", "update"]
Track = Literal["elements"] | bool
Subsample = tuple[Any, int, int]  # drawn indices, n, size


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a run of a generative function gives.

    Attributes:
        trace: The trace.
        log_weight: Log density of the given choices, at the values they depend on; in an update, that of the trace less
            the plain one of what was drawn, whatever a subsample multiplies it by.
        records: The choices by path.
    """

    trace: Trace
    log_weight: Any
    records: dict[Path, Record]


def require_gf(gf: Any, usage: str) -> None:
    """Refuse anything but a generative function."""
    if not isinstance(gf, GenerativeFunction):
        raise PPLError(
            f"`{usage}` takes a generative function.",
            where=user_source(),
            expected="a program made by `@gen`",
            got=f"{name_of(gf)} ({type(gf).__name__})",
            remedy="decorate the function with `@gen`",
        )


def run(
    gf: GenerativeFunction,
    given: Mapping[Path, Any] | Callable[[Mapping[Path, Place]], Mapping[Path, Any]],
    args: tuple,
    mode: Mode,
    weights: Mapping[str, Any] | None = None,
    track: Track = False,
    normalised: bool = False,
    valued: bool = False,
    weighed: Callable[[Mapping[Path, Place]], frozenset[Path]] | None = None,
) -> Outcome:
    """Run a generative function on given choices.

    Args:
        gf: The generative function.
        given: Values by path, or a function that gives them for the program's choices; a `Masked` value is given where
            its mask is True.
        args: Arguments.
        mode: "assess": everything is given, and `Masked` says exactly where choices are made. "observe": the rest is
            sampled, and given choices that are not visited make the weight -inf. "update": they are let go.
        weights: Factors of the log densities of choices, by glob; scalars or arrays over lanes and steps.
        track: Whether to keep each choice's plain log density, without weights: that of each lane and step, or with
            "elements" of each element of the choice's own batch, too.
        normalised: Whether to refuse programs with factors or with priors known by their score.
        valued: Whether to refuse the latter only: their log density has no value.
        weighed: Choices that count in the log weight, as a function of the program's choices; None: those given.
    """
    staged, leaves = gf.stage(args)
    if normalised:
        _refuse_unnormalised(gf.name, staged.body)
    places, _ = list_places(staged.body)
    by_path = addressed(places)
    if valued:
        require_values(gf.name, by_path, "a log weight")
    given = given(by_path) if callable(given) else given
    given = check_given(gf.name, by_path, given, complete=mode == "assess")
    walk = Run(places, given, mode, spread_weights(weights or {}, by_path), track)
    walk.weighed = None if weighed is None else weighed(by_path)
    retval = staged.results(walk.run(staged.body, leaves))
    penalties = [] if mode == "update" else _mask_mismatch(walk.records, given, mode)
    choices = choicemap.nest({path: record.leaf() for path, record in walk.records.items()})
    trace = Trace(choices, retval, total([*walk.log_densities, *penalties]), args)
    return Outcome(trace, total([*walk.log_weights, *penalties]), walk.records)


def _refuse_unnormalised(name: str, body) -> None:
    stray = unnormalised(body)
    if stray is not None:
        raise PPLError(
            f"`{name}` is unnormalised, so it cannot be simulated.",
            where=source_of(stray),
            expected="a program whose choices all have densities that can be sampled",
            got="a factor, a condition, a scaled density or a prior known by its score",
            remedy="use it in an objective, or approximate it with `ppl.normalize`",
        )


def require_values(name: str, places: Mapping[Path, Place], usage: str) -> None:
    """Refuse choices whose prior is known by its score only where the value of its log density is needed."""
    for path, place in places.items():
        if not place.eqn.params["spec"].can_sample:
            raise StrategyError(
                f"`{name}` has no value for {usage}: of one prior only the score is known, not the density.",
                where=f'"{show(path)}" at {place.eqn.params["source"]}',
                expected="densities with values",
                got="a score prior",
                remedy="use it in an ELBO with pathwise choices",
            )


def spread_weights(weights: Mapping[str, Any], places: Mapping[Path, Place]) -> dict[Path, Any]:
    """Broadcast weights over the axes of lanes and scans of the choices they match."""
    spread_out: dict[Path, Any] = {}
    for glob, weight in weights.items():
        for path in choicemap.require_match(glob, places):
            spread_out[path] = _spread_weight(path, places[path], jnp.asarray(weight, jnp.result_type(float)))
    return spread_out


def _broadcasts(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    return len(shape) <= len(target) and all(a in (1, b) for a, b in zip(shape[::-1], target[::-1], strict=False))


def _spread_weight(path: Path, place: Place, weight: jax.Array) -> jax.Array:
    """Broadcast a weight over lanes and steps, or over these and the choice's own batch."""
    shape, spec = trace_shape(place), place.eqn.params["spec"]
    operands = lane_shapes([var.aval.shape for var in place.eqn.invars], place.eqn.params["lanes"])
    batch = shape[: len(shape) - len(spec.event_shape(operands[: len(spec.names)]))]
    lead = shape[: len(place.scans) + len(place.eqn.params["lanes"])]
    for target in (lead, batch):
        if _broadcasts(weight.shape, target):
            return jnp.broadcast_to(weight, target)
    raise AddressError(
        f'A weight does not fit the choice at "{show(path)}".',
        where=f'"{show(path)}" at {place.eqn.params["source"]}',
        expected=f"a scalar, or an array that broadcasts to {lead} (lanes and steps) or {batch} (and batch)",
        got=f"shape {weight.shape}",
        remedy="give one weight for each lane and step",
    )


def total(log_densities: Sequence[Any]) -> Any:
    """Add up log densities, without a term for nothing: the cost analysis sees these sums."""
    return functools.reduce(jnp.add, log_densities) if log_densities else jnp.zeros(())


def _mask_mismatch(records: Mapping[Path, Record], given: Mapping[Path, Any], mode: Mode) -> list[Any]:
    """Return -inf where choices are given that the program does not make (when assessed: or the reverse)."""
    penalties = []
    for path, leaf in given.items():
        if isinstance(leaf, Masked):
            made = jnp.broadcast_to(spread(records[path].made(), leaf.mask.ndim), leaf.mask.shape)
            wrong = made != leaf.mask if mode == "assess" else leaf.mask & ~made
            penalties.append(jnp.where(wrong.any(), -jnp.inf, 0.0))
    return penalties


class Sliced(Interpreter):
    """An interpreter that hands arrays laid out like the trace (by path) into the scans around their choices."""

    def __init__(self, places: Mapping[tuple[int, ...], Place], location=(), prefix: Path = ()):
        super().__init__(location)
        self.places, self.prefix = places, prefix

    def slices(self, arrays: Mapping[Path, Any]) -> dict[Path, Any]:
        """Move the axis of the current scan to the front."""
        inside = self.inside()
        return {
            path: jax.tree.map(functools.partial(jnp.moveaxis, source=self.outer(inside[path]), destination=0), leaf)
            for path, leaf in arrays.items()
            if path in inside
        }

    def inside(self) -> dict[Path, Place]:
        """Return the places inside the current equation, by path."""
        depth = len(self.here)
        return {label_path(place): place for where, place in self.places.items() if where[:depth] == self.here}

    def outer(self, place: Place) -> int:
        """Count the lanes of a choice that stand outside the current scan."""
        level = next(i for i, (where, _) in enumerate(place.scans) if where == self.here)
        return outer_lanes(place, level)

    def path(self, eqn) -> Path:
        """Return the full address of a choice."""
        return (*self.prefix, *eqn.params["address"])

    def nested(self, eqn, values: Sequence) -> list:
        """Walk a nested call under its address."""
        outer = self.prefix
        self.prefix = (*outer, *eqn.params["address"])
        outs = self.jit(eqn, values)
        self.prefix = outer
        return outs


_KEPT = ("spec", "strategy", "source", "lanes", "masked", "depth", "guards", "baseline")
"""Parameters that a choice keeps when it is bound again without its address."""


class Run(Sliced):
    """Read given choices, sample the others, and add up log densities."""

    weighed: frozenset[Path] | None = None
    """Choices that count in the weight; None: those that are given."""

    def __init__(self, places, given, mode: str, weights, track: Track, location=(), prefix=(), subsamples=None):
        super().__init__(places, location, prefix)
        self.given, self.mode, self.weights, self.track = given, mode, weights, track
        self.subsamples: dict[Path, Subsample] = {} if subsamples is None else subsamples
        self.records: dict[Path, Record] = {}
        self.log_densities: list[Any] = []
        self.log_weights: list[Any] = []

    # Bodies.
    def enter(self, location, extra):
        """Hand in the slices for one step, or everything."""
        given, weights = extra or (self.given, self.weights)
        return self.child(given, weights, location)

    def child(self, given, weights, location):
        """Return the interpreter for a nested body."""
        subsamples = dict(self.subsamples)
        run = Run(self.places, given, self.mode, weights, self.track, location, self.prefix, subsamples)
        run.weighed = self.weighed
        return run

    def leave(self):
        """Hand out choices and sums of log densities."""
        return self.records, total(self.log_densities), total(self.log_weights)

    def absorb(self, extras, how):
        """Take in choices and sums of log densities."""
        records, log_density, log_weight = extras
        if how == "scan":
            records = {path: self._out_of_scan(path, record) for path, record in records.items()}
            log_density, log_weight = log_density.sum(0), log_weight.sum(0)
        for path, record in records.items():
            self._record(path, record)
        self.log_densities.append(log_density)
        self.log_weights.append(log_weight)

    def scan_inputs(self, scan):
        """Hand each step its slices of the given choices and weights."""
        return self.slices(self.given), self.slices(self.weights)

    def _out_of_scan(self, path, record):
        move = functools.partial(jnp.moveaxis, source=0, destination=self.outer(self.inside()[path]))
        value, mask, log_prob = jax.tree.map(move, (record.value, record.mask, record.log_prob))
        return Record(value, mask, log_prob, record.lead + 1, record.cover)

    def pad_branches(self, shapes, branch, extras):
        """Let every branch hand out the choices of all, and sums of one dtype."""
        records, *sums = extras
        branches = [entry[0] for entry in shapes]
        paths = list(dict.fromkeys(path for entry in branches for path in entry))
        dtypes = [jnp.result_type(*(entry[i + 1].dtype for entry in shapes)) for i in range(len(sums))]
        sums = [value.astype(dtype) for value, dtype in zip(sums, dtypes, strict=True)]
        return {path: pad(path, branches, records.get(path)) for path in paths}, *sums

    # Choices.
    def special(self, eqn, values: Sequence) -> list:
        """Give meaning to a choice, a nested call or a factor."""
        if eqn.primitive is call_p:
            return self.nested(eqn, values)
        if eqn.primitive is factor_p:
            return self._factor(eqn, values)
        if eqn.primitive is stochastic_p:
            return self._stochastic(eqn, values)
        if eqn.params["spec"].silent:
            return eqn.primitive.bind(*values, **eqn.params)
        return [self._choose(eqn, values)]

    def read(self, path: Path, sorted_out, value: Any) -> tuple[Any, Any]:
        """Return what a choice is for the program, and what is recorded of it; subclasses may change variables."""
        return value, value

    def _factor(self, eqn, values) -> list:
        scale = math.prod(n / size for _, n, size in self._around(self.path(eqn)))
        weight = jnp.sum(values[0])  # A number in the program's text is no array.
        weight = weight if scale == 1 else scale * weight
        self.log_densities.append(weight)
        self.log_weights.append(weight)
        return []

    def _stochastic(self, eqn, values) -> list:
        """Draw what a stochastic density keeps, or estimate the density of what is given for all of it."""
        view, base = view_of_stochastic(eqn, values), self.path(eqn)
        paths = [(*base, *kept.path) for kept in eqn.params["kept"]]
        given = [self._given(path, None) for path in paths]
        known = all_or_none(base, paths, given, eqn, self.mode == "assess")
        run = Relabel(base).run
        if known:
            dtypes = [kept.dtype for kept in eqn.params["kept"]]
            drawn = [_plain(leaf).astype(dtype) for leaf, dtype in zip(given, dtypes, strict=True)]
            results, weight = view.estimate(run, drawn)
        else:
            drawn, results, weight = view.simulate(run)
        if eqn.params["fixed"]:
            self.log_densities.append(weight.sum())
            self.log_weights.append(weight.sum())
        else:
            self._add(paths[0], weight, known, None, self._weight_of(paths, eqn))
        for i, (path, value) in enumerate(zip(paths, drawn, strict=True)):
            value = value if view.mask is None else zero_where_idle(value, view.mask)
            log_prob = (weight if i == 0 else jnp.zeros_like(weight)) if self.track else None
            cover = frozenset({frozenset(eqn.params["guards"])})
            self._record(path, Record(value, view.mask, log_prob, len(eqn.params["lanes"]), cover))
        return [*drawn, *results]

    def _weight_of(self, paths: Sequence[Path], eqn):
        """Return what multiplies the density of several choices, which must be one number for all of them."""
        weights = [self._weight(path) for path in paths]
        alike = all(weight is weights[0] or _same(weight, weights[0]) for weight in weights)
        if weights and not alike:
            raise AddressError(
                "The choices of a stochastic density have different weights.",
                where=source_of(eqn),
                expected="one weight for all of " + ", ".join(f'"{show(path)}"' for path in paths),
                remedy="match them all by one glob",
            )
        return weights[0] if weights else None

    def _choose(self, eqn, operands):
        params, path = eqn.params, self.path(eqn)
        sorted_out = view_of(eqn, operands)
        given = self._given(path, sorted_out)
        partly = isinstance(given, Masked) and self.mode != "assess"
        sampled = self._sample(eqn, operands, path) if given is None or partly else None
        value = _value(given, sampled, partly)
        value, recorded = self.read(path, sorted_out, value)
        own, own_lanes = without_baseline(params, operands)
        lanes = [Lane(lane.size, (True, *lane.mapped), lane.depth) for lane in own_lanes]
        log_prob = bind_density(
            value,
            own,
            spec=params["spec"],
            lanes=lanes,
            masked=params["masked"],
            inside=given is None and not params["masked"],
            label=show(path),
        )
        known = spread(given.mask, log_prob.ndim) if partly and isinstance(given, Masked) else None
        self._add(path, log_prob, given is not None, known, self._weight(path))
        mask = None
        if params["masked"]:
            mask = jnp.broadcast_to(sorted_out.mask, sorted_out.lane_sizes)
            value, recorded = zero_where_idle(value, mask), zero_where_idle(recorded, mask)
        kept = log_prob if self.track else None
        if self.track is True:
            kept = log_prob.sum(range(len(lanes), log_prob.ndim))
        cover = frozenset({frozenset(params["guards"])})
        self._record(path, Record(recorded, mask, kept, len(lanes), cover))
        if path[-1] == "indices" and isinstance(params["spec"], Subset):
            self.subsamples[path[:-1]] = (value, params["spec"].n, params["spec"].size)
        return value

    def _add(self, path, log_prob, is_given: bool, known, weight) -> None:
        extra = None
        if weight is not None:
            weighted = log_prob * spread(jnp.asarray(weight), log_prob.ndim)
            extra = weighted - log_prob if self.mode == "update" else None
            log_prob = weighted
        self.log_densities.append(log_prob.sum())
        if self.weighed is not None:
            self.log_weights += [log_prob.sum()] * (path in self.weighed)
        elif is_given:
            self.log_weights.append(_where_known(known, log_prob, 0 if extra is None else extra).sum())
        elif extra is not None:
            self.log_weights.append(extra.sum())

    def _weight(self, path: Path):
        """Return what multiplies a choice's log density: its weight, and n/size within a subsample."""
        scale = math.prod(n / size for _, n, size in self._around(path))
        weight = self.weights.get(path)
        return weight * scale if weight is not None else scale if scale != 1 else None

    def _around(self, path: Path) -> list[Subsample]:
        return subsamples_around(self.subsamples, path)

    def _given(self, path: Path, sorted_out):
        """Return the value given for a choice; within a subsample, the rows of all n that were drawn."""
        given: Any = self.given.get(path)
        return None if given is None else drawn_rows(given, self._around(path))

    def _sample(self, eqn, operands, path):
        kept = {name: eqn.params[name] for name in _KEPT}
        if not kept["spec"].can_sample:
            raise PPLError(
                f'The choice at "{show(path)}" cannot be sampled: only the score of its density is known.',
                where=f'"{show(path)}" at {kept["source"]}',
                expected="a given value",
                remedy="propose it from a guide",
            )
        (value,) = bind_choice(operands, address=None, label=show(path), **kept)
        return value

    def _record(self, path, record):
        other = self.records.get(path)
        self.records[path] = record if other is None else join(other, record)


def subsamples_around(subsamples: Mapping[Path, Subsample], path: Path) -> list[Subsample]:
    """List the subsamples that an address stands in; their own indices do not."""
    own = lambda prefix: path[: len(prefix)] == prefix and path != (*prefix, "indices")
    return [entry for prefix, entry in subsamples.items() if own(prefix)]


def drawn_rows(given: Any, around: Sequence[Subsample]) -> Any:
    """Take the drawn rows of a value that is given for all n elements of the subsamples around it."""
    for indices, n, size in around:
        leaf = given.value if isinstance(given, Masked) else given
        if jnp.shape(leaf)[indices.ndim - 1] == n != size:
            given = jax.tree.map(functools.partial(_take_rows, indices), given)
    return given


def _take_rows(indices, values):
    """Take rows along the axis after those of the lanes around a subsample."""
    take = lambda rows, x: x[rows]
    for _ in range(indices.ndim - 1):
        take = jax.vmap(take)
    return take(indices, values)


def _value(given, sampled, partly: bool):
    if given is None:
        return sampled
    if partly:
        return jnp.where(spread(given.mask, sampled.ndim), given.value.astype(sampled.dtype), sampled)
    return given.value if isinstance(given, Masked) else given


def all_or_none(base: Path, paths: Sequence[Path], given: Sequence, eqn, complete: bool = False) -> bool:
    """Tell whether the choices of a stochastic density are given; refuse some of them, and parts of them.

    If `complete`, a mask says where choices are made; else where they are known.
    """
    known = [leaf is not None for leaf in given]
    partly = not complete and any(isinstance(leaf, Masked) for leaf in given)
    if 0 < sum(known) < len(known) or partly:
        listed = ", ".join(f'"{show(path)}"' for path in paths)
        raise AddressError(
            f"Some choices of the stochastic density {eqn.params['label']!r} are given, others are not.",
            where=f'"{show(base)}" at {eqn.params["source"]}',
            expected=f"all of {listed}, or none",
            got=", ".join(f'"{show(path)}"' for path, is_known in zip(paths, known, strict=True) if is_known),
            remedy="give all of them; or marginalise further, so that what is given is all that is kept",
        )
    return any(known)


def _plain(leaf: Any) -> Any:
    return leaf.value if isinstance(leaf, Masked) else leaf


def _same(first: Any, second: Any) -> bool:
    return jnp.ndim(first) == jnp.ndim(second) == 0 and first is not None and bool(first == second)


def _where_known(known, log_prob, otherwise):
    return log_prob if known is None else jnp.where(known, log_prob, otherwise)


class Part(Run):
    """Add up the weighted densities of selected choices and factors only."""

    def __init__(self, places, given, selected: frozenset[Path], location=(), prefix=(), subsamples=None):
        super().__init__(places, given, "assess", {}, False, location, prefix, subsamples)
        self.selected = selected

    def child(self, given, weights, location):
        """Return the interpreter for a nested body."""
        return Part(self.places, given, self.selected, location, self.prefix, dict(self.subsamples))

    def _add(self, path, log_prob, is_given, known, weight) -> None:
        if path in self.selected:
            super()._add(path, log_prob, is_given, known, weight)

    def _factor(self, eqn, values) -> list:
        return super()._factor(eqn, values) if self.path(eqn) in self.selected else []


class Rewrite(Sliced):
    """Rewrite a program choice by choice: `change(eqn, values, path, arrays)` gives its results, or None to keep it.

    Nested calls are written out, their choices under full addresses. `arrays`, laid out like the trace, reach each
    choice by path.
    """

    def __init__(self, places, change: Callable, arrays: Mapping[Path, Any], location=(), prefix=(), stochastic=None):
        super().__init__(places, location, prefix)
        self.change, self.arrays, self.stochastic = change, arrays, stochastic or _keep_stochastic

    def slots(self, eqn, path: Path) -> list:
        """Return the arrays for the choices of a stochastic density."""
        return [self.arrays.get((*path, *kept.path)) for kept in eqn.params["kept"]]

    def enter(self, location, extra):
        """Hand in the slices for one step, or everything."""
        arrays = extra if isinstance(extra, dict) else self.arrays
        return Rewrite(self.places, self.change, arrays, location, self.prefix, self.stochastic)

    def scan_inputs(self, scan):
        """Hand each step its slices."""
        return self.slices(self.arrays)

    def special(self, eqn, values):
        """Change a choice or factor, or keep it under its full address."""
        if eqn.primitive is call_p:
            return self.nested(eqn, values)
        if eqn.primitive is stochastic_p:
            path = self.path(eqn)
            return self.stochastic(eqn, values, path, self.slots(eqn, path))
        if eqn.primitive is choice_p and eqn.params["address"] is None:
            path = (*self.prefix, eqn.params["label"])
            full = dict(eqn.params)
        else:
            path = self.path(eqn)
            full = dict(eqn.params, address=path, label=show(path))
        outs = self.change(eqn, values, path, full, self.arrays.get(path))
        return eqn.primitive.bind(*values, **full) if outs is None else outs


def _keep_stochastic(eqn, values, path: Path, arrays: Sequence) -> list:
    """Keep a stochastic density under its full address."""
    return stochastic_p.bind(*values, **dict(eqn.params, address=path, label=show(path)))


__all__ = ["ALWAYS", "Outcome", "Part", "Rewrite", "Run", "run"]
