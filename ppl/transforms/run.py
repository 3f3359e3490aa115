"""`simulate`, `assess` and `generate`: one interpreter that reads given choices and samples the others."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import register_dataclass

from ppl import choicemap
from ppl._errors import AddressError, PPLError, SupportError, boundary, closest, did_you_mean
from ppl.choice import user_source
from ppl.choicemap import Masked, Path, show
from ppl.generative import GenerativeFunction, Trace
from ppl.interpreter import Interpreter, Place
from ppl.primitives import Lane, bind_choice, bind_density, call_p, view_of
from ppl.transforms.programs import Program, name_of, stage_program

Guards = frozenset[tuple[int, int, int]]


def simulate(gf: GenerativeFunction) -> Callable[..., Trace]:
    """Turn a generative function into a stochastic function that returns a [`Trace`][].

    Args:
        gf: The generative function.

    Returns:
        A stochastic function of the same arguments: its random choices are the program's.

    Example:
        >>> import jax, ppl
        >>> model = ppl.gen(lambda: ppl.normal(0.0, 1.0) @ "z")
        >>> trace = ppl.seed(ppl.simulate(model))(jax.random.key(0))
        >>> bool(abs(trace.log_density - model.log_density(trace.choices)) < 1e-6)
        True
    """
    _check_gf(gf, "simulate")

    @boundary
    def simulated(*args: Any) -> Trace:
        return _run(gf, {}, args, strict=False)[0]

    return simulated


def assess(gf: GenerativeFunction) -> Callable[..., tuple[jax.Array, Any]]:
    """Turn a generative function into a function of given choices: `(choices, *args) -> (log_density, retval)`.

    Args:
        gf: The generative function.

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
    _check_gf(gf, "assess")

    @boundary
    def assessed(choices: Any, *args: Any) -> tuple[jax.Array, Any]:
        trace, _ = _run(gf, choicemap.flatten(choices), args, strict=True)
        return trace.log_density, trace.retval

    return assessed


def generate(gf: GenerativeFunction) -> Callable[..., tuple[Trace, jax.Array]]:
    """Turn a generative function into one that observes some choices and samples the rest.

    Args:
        gf: The generative function.

    Returns:
        A stochastic function `(observed, *args) -> (trace, log_weight)`; the weight is the density of the observed
        choices given the sampled ones, whose mean is the marginal density of the observed choices.

    Example:
        >>> import jax, ppl
        >>> model = ppl.gen(lambda: ppl.normal(0.0, 1.0) @ "z")
        >>> trace, log_weight = model.generate(jax.random.key(0), {})
        >>> float(log_weight)
        0.0
    """
    _check_gf(gf, "generate")

    @boundary
    def generated(observed: Any, *args: Any) -> tuple[Trace, jax.Array]:
        return _run(gf, choicemap.flatten(observed), args, strict=False)

    return generated


def _check_gf(gf: Any, usage: str) -> None:
    if not isinstance(gf, GenerativeFunction):
        raise PPLError(
            f"`{usage}` takes a generative function.",
            where=user_source(),
            got=f"{name_of(gf)} ({type(gf).__name__})",
            remedy="decorate the function with `@gen`",
        )


def _run(gf: GenerativeFunction, given: dict[Path, Any], args: tuple, strict: bool) -> tuple[Trace, jax.Array]:
    program = stage_program(gf, args)
    given = _check_given(program, given, strict)
    run = _Run(program.places, given)
    retval = program.staged.results(run.run(program.staged.body, program.leaves))
    log_density = _total([*run.log_densities, *_mask_mismatch(run.records, given)])
    choices = choicemap.nest({path: record.leaf() for path, record in run.records.items()})
    return Trace(choices, retval, log_density, args), _total(run.log_weights)


# --- Checks before the run ---------------------------------------------------------------------------------------


def path_of(place: Place) -> Path:
    """Return the full address of a choice of a generative function."""
    address = place.eqn.params["address"]
    if address is None:
        raise AddressError(
            "A choice of a generative function has no address.",
            where=f"{place.eqn.params['label']!r} at {place.eqn.params['source']}",
            expected='`... @ "address"`',
            got="`.sample()`, which is for objectives",
            remedy='write `... @ "name"`',
        )
    return (*place.prefix, *address)


def trace_shape(place: Place) -> tuple[int, ...]:
    """Return the shape of a choice in the trace: axes of scans and lanes from the outermost in, then the value's."""
    shape = list(place.eqn.outvars[0].aval.shape)
    for level in range(len(place.scans) - 1, -1, -1):
        shape.insert(outer_lanes(place, level), place.scans[level][1])
    return tuple(shape)


def outer_lanes(place: Place, level: int) -> int:
    """Count the lanes of a choice that stand outside its `level`-th enclosing scan (0 is the outermost)."""
    return sum(lane.depth >= len(place.scans) - level for lane in place.eqn.params["lanes"])


def _check_given(program: Program, given: dict[Path, Any], strict: bool) -> dict[Path, Any]:
    places: dict[Path, Place] = {}
    for place in program.places.values():
        places.setdefault(path_of(place), place)
    unknown = [path for path in given if path not in places]
    missing = [path for path in places if path not in given] if strict else []
    if unknown or missing:
        raise _address_mismatch(program.name, places, given, unknown, missing)
    return {path: _check_value(program.name, path, places[path], leaf) for path, leaf in given.items()}


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


def _check_value(name: str, path: Path, place: Place, leaf: Any) -> Any:
    value = jnp.asarray(leaf.value if isinstance(leaf, Masked) else leaf)
    expected, source = trace_shape(place), place.eqn.params["source"]
    if value.shape != expected:
        raise AddressError(
            f'The value given at "{show(path)}" of `{name}` has the wrong shape.',
            where=f'"{show(path)}" at {source}',
            expected=f"shape {expected}",
            got=f"shape {value.shape}",
            remedy="axes of scan and vmap lead, outer ones first; then the choice's own shape",
        )
    value = _cast(path, place, value)
    return Masked(value, jnp.asarray(leaf.mask)) if isinstance(leaf, Masked) else value


def _cast(path: Path, place: Place, value: jax.Array) -> jax.Array:
    family = place.eqn.params["spec"].family
    floating = jnp.issubdtype(value.dtype, jnp.floating)
    if not family.discrete:
        return value if floating else value.astype(place.eqn.outvars[0].aval.dtype)
    if not floating:
        return value.astype(np.int32)
    if isinstance(value, jax.core.Tracer):
        return value  # The density is -inf where it is not integral.
    if not bool((value == jnp.round(value)).all()):
        raise SupportError(
            f'A value that is not integral is given at "{show(path)}".',
            where=f'"{show(path)}" at {place.eqn.params["source"]}',
            expected=f"integers, for {family}",
            got=f"{value.dtype} values such as {float(value.ravel()[jnp.argmax((value != jnp.round(value)).ravel())])}",
            remedy="round or threshold the data, or use a continuous distribution",
        )
    return value.astype(np.int32)


# --- The interpreter ---------------------------------------------------------------------------------------------


@register_dataclass
@dataclasses.dataclass(frozen=True)
class Record:
    """A choice as it leaves a body: its value, where it is made, and how complete that is.

    `lead` counts the axes of lanes and scans. `cover` holds the guards under which it is made (each a set of branches
    of mapped conds): the empty guard means always.
    """

    value: Any
    mask: Any
    lead: int = dataclasses.field(metadata={"static": True})
    cover: frozenset[Guards] = dataclasses.field(metadata={"static": True})

    def leaf(self) -> Any:
        """Return what the trace shows."""
        return self.value if self.mask is None else Masked(self.value, self.mask)


_ALWAYS: frozenset[Guards] = frozenset({frozenset()})


class _Run(Interpreter):
    """Read given choices, sample the others, and add up log densities."""

    def __init__(self, places, given, location=(), prefix=()):
        super().__init__(location)
        self.places, self.given, self.prefix = places, given, prefix
        self.records: dict[Path, Record] = {}
        self.log_densities: list[Any] = []
        self.log_weights: list[Any] = []

    # Bodies.
    def enter(self, location, extra):
        given = extra if isinstance(extra, dict) else self.given
        return _Run(self.places, given, location, self.prefix)

    def leave(self):
        return self.records, _total(self.log_densities), _total(self.log_weights)

    def absorb(self, extras, how):
        records, log_density, log_weight = extras
        if how == "scan":
            records = {path: self._out_of_scan(path, record) for path, record in records.items()}
            log_density, log_weight = log_density.sum(0), log_weight.sum(0)
        for path, record in records.items():
            self._record(path, record)
        self.log_densities.append(log_density)
        self.log_weights.append(log_weight)

    def _inside(self) -> dict[Path, Place]:
        """Return the places inside the current equation, by path."""
        depth = len(self.here)
        return {path_of(place): place for where, place in self.places.items() if where[:depth] == self.here}

    def _outer(self, place: Place) -> int:
        level = next(i for i, (where, _) in enumerate(place.scans) if where == self.here)
        return outer_lanes(place, level)

    def scan_inputs(self, scan):
        inside = {path: place for path, place in self._inside().items() if path in self.given}
        return {
            path: jax.tree.map(
                functools.partial(jnp.moveaxis, source=self._outer(place), destination=0), self.given[path]
            )
            for path, place in inside.items()
        }

    def _out_of_scan(self, path, record):
        k = self._outer(self._inside()[path])
        value, mask = jax.tree.map(lambda x: jnp.moveaxis(x, 0, k), (record.value, record.mask))
        return Record(value, mask, record.lead + 1, record.cover)

    def pad_branches(self, shapes, branch, extras):
        records, *sums = extras
        all_records = [entry[0] for entry in shapes]
        paths = list(dict.fromkeys(path for entry in all_records for path in entry))
        dtypes = [jnp.result_type(*(entry[i + 1].dtype for entry in shapes)) for i in range(len(sums))]
        sums = [total.astype(dtype) for total, dtype in zip(sums, dtypes, strict=True)]
        return {path: _pad(path, all_records, records.get(path)) for path in paths}, *sums

    # Choices.
    def special(self, eqn, values: Sequence) -> list:
        if eqn.primitive is call_p:
            outer = self.prefix
            self.prefix = (*outer, *eqn.params["address"])
            outs = self.jit(eqn, values)
            self.prefix = outer
            return outs
        return [self._choose(eqn, values)]

    def _choose(self, eqn, operands):
        params, path = eqn.params, (*self.prefix, *eqn.params["address"])
        sorted_out = view_of(eqn, operands)
        given = self.given.get(path)
        if given is None:
            value = self._sample(eqn, operands, path)
        else:
            value = given.value if isinstance(given, Masked) else given
        lanes = [Lane(lane.size, (True, *lane.mapped), lane.depth) for lane in params["lanes"]]
        log_prob = bind_density(
            value,
            operands,
            spec=params["spec"],
            lanes=lanes,
            masked=params["masked"],
            inside=given is None and not params["masked"],
            label=show(path),
        ).sum()
        self.log_densities.append(log_prob)
        if given is not None:
            self.log_weights.append(log_prob)
        mask = None
        if params["masked"]:
            mask = jnp.broadcast_to(sorted_out.mask, sorted_out.lane_sizes)
            value = _zero_where_idle(value, mask)
        self._record(path, Record(value, mask, len(params["lanes"]), frozenset({frozenset(params["guards"])})))
        return value

    def _sample(self, eqn, operands, path):
        kept = {name: eqn.params[name] for name in ("spec", "strategy", "source", "lanes", "masked", "depth", "guards")}
        (value,) = bind_choice(operands, address=None, label=show(path), **kept)
        return value

    def _record(self, path, record):
        other = self.records.get(path)
        self.records[path] = record if other is None else self._join(path, other, record)

    def _join(self, path, first: Record, second: Record) -> Record:
        exclusive = all(_exclusive(a, b) for a in first.cover for b in second.cover)
        if not (first.cover and second.cover and exclusive) or first.value.shape != second.value.shape:
            raise self._duplicate(path)
        chosen = jnp.where(_over(second.mask, second.value), second.value, first.value)
        cover = _simplify(first.cover | second.cover)
        mask = None if cover == _ALWAYS else first.mask | second.mask
        return Record(chosen, mask, first.lead, cover)

    def _duplicate(self, path):
        sources = [place.eqn.params["source"] for place in self.places.values() if path_of(place) == path]
        return AddressError(
            f'Two choices are made at "{show(path)}".',
            where=f'"{show(path)}" at {" and ".join(dict.fromkeys(sources))}',
            expected="each address once (or once in each branch of a cond, with one shape and dtype)",
            remedy="rename one of them, or nest a call under an address of its own",
        )


def _over(mask, value):
    return mask.reshape(mask.shape + (1,) * (value.ndim - mask.ndim))


def _zero_where_idle(value, mask):
    return jnp.where(_over(mask, value), value, jnp.zeros_like(value))


def _exclusive(first: Guards, second: Guards) -> bool:
    """Tell whether two guards can never hold together: another branch of the same cond."""
    return any(a[0] == b[0] and a[1] != b[1] for a in first for b in second)


def _simplify(cover: frozenset[Guards]) -> frozenset[Guards]:
    """Drop a cond from the guards once all of its branches are covered."""
    for guard in cover:
        for branch in guard:
            identity, _, count = branch
            siblings = {guard - {branch} | {(identity, number, count)} for number in range(count)}
            if siblings <= cover:
                return _simplify(cover - siblings | {guard - {branch}})
    return cover


def _pad(path, all_records: list[dict[Path, Record]], record: Record | None) -> Record:
    """Give one branch's choice at `path` the structure that all branches share."""
    present = [entry[path] for entry in all_records if path in entry]
    like = present[0]
    if any(r.value.shape != like.value.shape or r.value.dtype != like.value.dtype for r in present):
        raise AddressError(
            f'The branches of a cond make choices of different shape or dtype at "{show(path)}".',
            got=" and ".join(f"{r.value.dtype}{list(r.value.shape)}" for r in present),
            remedy="give them different addresses",
        )
    if len(present) == len(all_records) and all(r.mask is None for r in present):
        assert record is not None
        return Record(record.value, None, like.lead, _ALWAYS)
    lanes = like.value.shape[: like.lead]
    if record is None:
        return Record(jnp.zeros(like.value.shape, like.value.dtype), jnp.zeros(lanes, bool), like.lead, frozenset())
    mask = jnp.ones(lanes, bool) if record.mask is None else record.mask
    return Record(record.value, mask, like.lead, frozenset())


def _total(log_densities: Sequence[Any]) -> Any:
    """Add up log densities, without a term for nothing: the cost analysis sees these sums."""
    return functools.reduce(jnp.add, log_densities) if log_densities else jnp.zeros(())


def _mask_mismatch(records: dict[Path, Record], given: dict[Path, Any]) -> list[Any]:
    """Return -inf where the choices marked as made are not those that the program makes, else 0."""
    penalties = []
    for path, leaf in given.items():
        if isinstance(leaf, Masked):
            made = records[path].mask
            made = jnp.ones(leaf.mask.shape, bool) if made is None else made
            penalties.append(jnp.where((made != leaf.mask).any(), -jnp.inf, 0.0))
    return penalties
