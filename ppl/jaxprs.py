"""Staging, and the only place that reads JAX's control-flow equations.

A program is staged once into a jaxpr. What JAX keeps private, or names differently from version to version, stays
behind the functions of this module.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax._src import source_info_util  # What an equation knows of its source has no public name.
from jax._src.interpreters import ad as _private_ad  # primitive_linearizations has no public name.
from jax.core import Tracer
from jax.extend import core
from jax.extend.core import primitives
from jax.interpreters import ad, batching
from jax.interpreters import partial_eval as pe

from ppl._errors import ControlFlowError, PPLError, boundary, innermost_user_source, is_internal_file

Var, Literal = core.Var, core.Literal
scan_p, cond_p, jit_p, remat_p, while_p = (
    primitives.scan_p,
    primitives.cond_p,
    primitives.jit_p,
    primitives.remat_p,
    primitives.while_p,
)
fancy_batchers = batching.fancy_primitive_batchers

CHOICE_PRIMITIVES: set[core.Primitive] = set()
"""The language's own primitives: a random choice and a nested call; `ppl.primitives` fills it."""


# --- Jaxprs, alike in every version ------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Body:
    """A jaxpr with its constants: `invars` are the arguments, `constvars` are bound to `consts`."""

    jaxpr: Any
    consts: tuple

    @property
    def eqns(self):
        """Equations in order of evaluation."""
        return self.jaxpr.eqns

    @property
    def invars(self):
        """Variables of the arguments."""
        return self.jaxpr.invars

    @property
    def constvars(self):
        """Variables of the constants."""
        return self.jaxpr.constvars

    @property
    def outvars(self):
        """Results: variables or literals."""
        return self.jaxpr.outvars


def body_of(jaxpr: Any) -> Body:
    """Read an open or a closed jaxpr of any supported version of JAX."""
    if isinstance(jaxpr, Body):
        return jaxpr
    consts = tuple(getattr(jaxpr, "consts", ()) or ())
    return Body(getattr(jaxpr, "jaxpr", jaxpr), consts)


def inner_bodies(eqn) -> list[Body]:
    """List the jaxprs that an equation carries in its parameters."""
    found = []
    for value in eqn.params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if hasattr(item, "eqns") and hasattr(item, "outvars") or hasattr(item, "jaxpr"):
                found.append(body_of(item))
    return found


def holds_choice(eqn) -> bool:
    """Tell whether an equation is a random choice or contains one at any depth."""
    if eqn.primitive in CHOICE_PRIMITIVES:
        return True
    return any(body_holds_choice(body) for body in inner_bodies(eqn))


_HOLDS: dict[int, tuple[Any, bool]] = {}


def body_holds_choice(body: Body) -> bool:
    """Tell whether a jaxpr contains a random choice at any depth."""
    known = _HOLDS.get(id(body.jaxpr))
    if known is None or known[0] is not body.jaxpr:
        if len(_HOLDS) > 4096:  # Entries keep their jaxpr alive, so the table must not grow without bound.
            _HOLDS.clear()
        known = _HOLDS[id(body.jaxpr)] = (body.jaxpr, any(holds_choice(eqn) for eqn in body.eqns))
    return known[1]


def first_choice(eqn):
    """Return the first equation at or inside `eqn` that is a random choice."""
    if eqn.primitive in CHOICE_PRIMITIVES:
        return eqn
    for body in inner_bodies(eqn):
        for inner in body.eqns:
            if holds_choice(inner):
                return first_choice(inner)
    raise LookupError("no choice")


def bind(eqn, values: Sequence) -> list:
    """Bind an equation again on other values; it keeps its source line."""
    with source_line(eqn):
        out = eqn.primitive.bind(*values, **eqn.primitive.get_bind_params(eqn.params))
    return list(out) if eqn.primitive.multiple_results else [out]


@dataclasses.dataclass(frozen=True)
class Scan:
    """What a scan equation says, independent of the version of JAX."""

    body: Body
    length: int
    reverse: bool
    unroll: int
    num_consts: int
    num_carry: int

    def split(self, values: Sequence) -> tuple[list, list, list]:
        """Split operands into constants, initial carry and scanned inputs."""
        first, second = self.num_consts, self.num_consts + self.num_carry
        return list(values[:first]), list(values[first:second]), list(values[second:])

    def split_out(self, values: Sequence) -> tuple[list, list]:
        """Split results into final carry and stacked outputs."""
        return list(values[: self.num_carry]), list(values[self.num_carry :])


def read_scan(eqn) -> Scan:
    """Read a scan equation."""
    params = eqn.params
    if "num_consts" in params:
        num_consts, num_carry = params["num_consts"], params["num_carry"]
    else:
        num_consts, num_carry, _ = (len(list(part)) for part in params["ft_in"].unpack())
    return Scan(body_of(params["jaxpr"]), params["length"], params["reverse"], params["unroll"], num_consts, num_carry)


def read_branches(eqn) -> list[Body]:
    """Read the branches of a cond or switch equation, in index order."""
    return [body_of(branch) for branch in eqn.params["branches"]]


def read_call(eqn) -> Body:
    """Read the body of a jit, checkpoint or nested generative call."""
    return body_of(eqn.params["jaxpr"])


def read_function(eqn) -> Body | None:
    """Read the body of a checkpoint, or of a function with a derivative of its own; else return None."""
    if eqn.primitive is remat_p:
        return read_call(eqn)
    if eqn.primitive.name not in ("custom_jvp_call", "custom_vjp_call"):
        return None
    fits = [body for body in inner_bodies(eqn) if len(body.invars) == len(eqn.invars)]
    return next((body for body in fits if len(body.outvars) == len(eqn.outvars)), None)


@dataclasses.dataclass(frozen=True)
class While:
    """What a while equation says: its condition and body take constants of their own, then the carry."""

    condition: Body
    body: Body
    num_condition: int
    num_body: int

    def split(self, values: Sequence) -> tuple[list, list, list]:
        """Split operands into constants of the condition, constants of the body, and the initial carry."""
        second = self.num_condition + self.num_body
        return list(values[: self.num_condition]), list(values[self.num_condition : second]), list(values[second:])


def read_while(eqn) -> While:
    """Read a while equation."""
    return While(body_of(eqn.params["cond_jaxpr"]), body_of(eqn.params["body_jaxpr"]), *_while_consts(eqn))


def read_body(eqn, number: int) -> Body:
    """Read the body with this number of any equation that is looked into."""
    if eqn.primitive is scan_p:
        return read_scan(eqn).body
    return read_branches(eqn)[number] if eqn.primitive is cond_p else read_call(eqn)


def checkpointed(eqn, function: Callable) -> Callable:
    """Wrap a function in the same `jax.checkpoint` as the equation's."""
    return jax.checkpoint(function, policy=eqn.params["policy"], prevent_cse=eqn.params["prevent_cse"])


# --- Staging -----------------------------------------------------------------------------------------------------


def is_traced_leaf(leaf: Any) -> bool:
    """Tell whether an argument leaf is traced: arrays and Python floats are, all else is static."""
    return isinstance(leaf, (jax.Array, np.ndarray, np.generic, float, complex)) and not (
        isinstance(leaf, np.ndarray) and leaf.dtype.kind in "OUS"
    )


@dataclasses.dataclass(frozen=True)
class Split:
    """A pytree taken apart into traced leaves and everything else."""

    treedef: Any
    mask: tuple[bool, ...]
    static: tuple

    def join(self, traced: Sequence) -> Any:
        """Put traced leaves back into the pytree."""
        given, static = iter(traced), iter(self.static)
        leaves = [next(given) if is_traced else next(static) for is_traced in self.mask]
        return jax.tree.unflatten(self.treedef, leaves)


def split(tree: Any) -> tuple[list, Split]:
    """Separate the traced leaves of a pytree from its static ones."""
    leaves, treedef = jax.tree.flatten(tree)
    mask = tuple(is_traced_leaf(leaf) for leaf in leaves)
    traced = [jnp.asarray(leaf) for leaf, keep in zip(leaves, mask, strict=True) if keep]
    return traced, Split(treedef, mask, tuple(leaf for leaf, keep in zip(leaves, mask, strict=True) if not keep))


@dataclasses.dataclass(frozen=True)
class Staged:
    """A stochastic function as a jaxpr over the traced leaves of its arguments."""

    body: Body
    out: Split
    in_avals: tuple

    def results(self, flat: Sequence) -> Any:
        """Rebuild the function's result from the jaxpr's flat results; literals of the jaxpr become arrays."""
        return self.out.join([leaf if isinstance(leaf, jax.Array) else jnp.asarray(leaf) for leaf in flat])


def stage(function: Callable, args: tuple, kwargs: dict | None = None) -> tuple[Staged, list]:
    """Trace a function to a jaxpr; arrays and Python floats among the arguments are its inputs.

    Returns:
        The staged program, and the traced leaves of the arguments, to be given to it.
    """
    leaves, layout = split((args, kwargs or {}))
    out_layout = []

    def flat(*traced):
        inner_args, inner_kwargs = layout.join(traced)
        results, out = split(function(*inner_args, **inner_kwargs))
        out_layout.append(out)
        return results

    try:
        with jax.disable_jit(False):  # A loop that it writes out would make each of its choices many times.
            closed = jax.make_jaxpr(flat)(*leaves)
    except jax.errors.ConcretizationTypeError as error:
        raise _needs_value(getattr(function, "__name__", str(function)), error) from None
    refuse_captured_keys(body_of(closed), getattr(function, "__name__", str(function)))
    return Staged(body_of(closed), out_layout[-1], tuple(jax.typeof(leaf) for leaf in leaves)), leaves


def _needs_value(name: str, error: Exception) -> ControlFlowError:
    return ControlFlowError(
        f"Python needs a value while `{name}` is traced, where there is none yet.",
        where=innermost_user_source(error),
        expected="control flow by `jax.lax.cond`, `jax.lax.scan`, `jnp.where`; static ints for lengths",
        got=str(error).splitlines()[0],
        remedy="write `jax.lax.cond(choice == 1, ...)` in place of `if choice:`, and leave out `float(...)`",
    )


def restage(function: Callable, avals: Sequence) -> Body:
    """Trace a function of flat arrays again, for a rewriting interpreter."""
    with jax.disable_jit(False):
        return body_of(jax.make_jaxpr(function)(*avals))


def in_shapes(body: Body) -> list[jax.ShapeDtypeStruct]:
    """Return the shapes and dtypes of a body's arguments, to trace it again."""
    return [
        jax.ShapeDtypeStruct(var.aval.shape, var.aval.dtype, weak_type=getattr(var.aval, "weak_type", False))
        for var in body.invars
    ]


def with_const_arguments(body: Body) -> tuple[Any, list]:
    """Turn constants into leading arguments; returns a closed jaxpr without constants, and the constants."""
    num_consts = len(body.consts)

    def run(*args):
        env = dict(zip([*body.constvars, *body.invars], args, strict=True))
        read = lambda var: var.val if isinstance(var, Literal) else env[var]
        for eqn in body.eqns:
            env.update(zip(eqn.outvars, bind(eqn, [read(var) for var in eqn.invars]), strict=True))
        return [read(var) for var in body.outvars]

    if not num_consts:
        return _close(body.jaxpr), []
    consts = [jnp.asarray(const) if not isinstance(const, jax.Array) else const for const in body.consts]
    shapes = [jax.typeof(const) for const in consts]
    return jax.make_jaxpr(run)(*shapes, *in_shapes(body)), consts


def without_dead_equations(closed: Any) -> Body:
    """Leave out equations, at any depth, whose results nobody needs."""
    body = body_of(closed)
    live, _ = pe.dce_jaxpr(body.jaxpr, [True] * len(body.outvars), True)
    return Body(live, body.consts)


def expand(eqn) -> Body:
    """Trace what an equation of a primitive that is written in JAX stands for."""
    run = lambda *args: eqn.primitive.impl(*args, **eqn.params)
    return restage(run, [jax.ShapeDtypeStruct(var.aval.shape, var.aval.dtype) for var in eqn.invars])


def _close(jaxpr: Any) -> Any:
    return (
        jaxpr
        if not hasattr(core, "ClosedJaxpr") or isinstance(jaxpr, core.ClosedJaxpr)
        else core.ClosedJaxpr(jaxpr, [])
    )


def is_key(aval) -> bool:
    """Tell whether an abstract value is a PRNG key."""
    return jnp.issubdtype(getattr(aval, "dtype", np.dtype(np.float32)), jax.dtypes.prng_key)


def _is_frozen(value) -> bool:
    return isinstance(value, core.Literal) or not isinstance(value, Tracer)


def refuse_captured_keys(body: Body, name: str, frozen_args: Sequence[bool] = ()) -> None:
    """Refuse a program that uses a concrete key, which would give the same noise at every call."""
    frozen = {var for var, const in zip(body.constvars, body.consts, strict=True) if _is_frozen(const)}
    frozen |= {var for var, fixed in zip(body.invars, frozen_args, strict=bool(frozen_args)) if fixed}
    for eqn in body.eqns:
        fixed = [isinstance(var, core.Literal) or var in frozen for var in eqn.invars]
        if any(fixed_var and is_key(var.aval) for fixed_var, var in zip(fixed, eqn.invars, strict=True)):
            raise _captured(name, eqn)
        if all(fixed) and any(is_key(var.aval) for var in eqn.outvars) and not holds_choice(eqn):
            raise _captured(name, eqn)
        inner = inner_bodies(eqn)
        if all(fixed) and not inner and eqn.primitive not in CHOICE_PRIMITIVES:
            frozen.update(eqn.outvars)
        for nested in inner:
            refuse_captured_keys(nested, name, _frozen_inside(eqn, nested, fixed))


def _frozen_inside(eqn, inner: Body, fixed: list[bool]) -> Sequence[bool]:
    """Say which arguments of a body inside an equation are constants; what a loop carries is not."""
    count = len(inner.invars)
    if eqn.primitive is scan_p:
        view = read_scan(eqn)
        return [*fixed[: view.num_consts], *[False] * view.num_carry, *fixed[view.num_consts + view.num_carry :]]
    if eqn.primitive is cond_p:
        return fixed[1:]
    if eqn.primitive is while_p:
        num_cond, num_body = _while_consts(eqn)
        consts = fixed[:num_cond] if inner.jaxpr is body_of(eqn.params["cond_jaxpr"]).jaxpr else fixed[num_cond:]
        consts = consts[: num_cond if inner.jaxpr is body_of(eqn.params["cond_jaxpr"]).jaxpr else num_body]
        return [*consts, *[False] * (count - len(consts))]
    return fixed if count == len(fixed) else ()


def _while_consts(eqn) -> tuple[int, int]:
    return eqn.params["cond_nconsts"], eqn.params["body_nconsts"]


def _captured(name: str, eqn) -> PPLError:
    return PPLError(
        f"`{name}` uses a constant PRNG key: its noise would be the same at every call.",
        where=source_of(eqn),
        expected="randomness from random choices, or a key passed as an argument",
        got="a concrete key captured or made inside the function",
        remedy="make a random choice instead, or pass the key as an argument",
    )


def source_of(eqn) -> str:
    """Return file and line of the user's code that made an equation."""
    return source_info_util.summarize(eqn.source_info)


class source_line:  # noqa: N801 - a context manager, used as a word.
    """Give the equations bound meanwhile the source of another one.

    JAX has the like, which also rewrites the causes of exceptions that pass.
    """

    def __init__(self, eqn):
        self.traceback = eqn.source_info.traceback

    def __enter__(self) -> None:
        local = source_info_util._source_info_context
        self.before = local.context
        if self.traceback is not None:
            local.context = self.before.replace(traceback=self.traceback)

    def __exit__(self, *_) -> None:
        source_info_util._source_info_context.context = self.before


_PACKAGES = os.path.join(os.path.dirname(os.path.dirname(jax.__file__)), "")


@dataclasses.dataclass(frozen=True)
class SourceFrame:
    """One frame of the Python stack under which an equation was made."""

    file: str
    function: str
    line: int


def frames_of(eqn) -> Iterator[SourceFrame]:
    """List the Python frames under which an equation was made, innermost first.

    A body that JAX has traced before is used again: the frames outside of the jitted function are then those of its
    first caller.
    """
    traceback = eqn.source_info.traceback
    for frame in traceback.frames if traceback is not None else ():
        yield SourceFrame(frame.file_name, frame.function_name, frame.line_num)


def user_line_of(eqn) -> str | None:
    """Return file and line of the innermost frame of an equation that is not JAX's or ours, rather of no package's."""
    frames = [frame for frame in frames_of(eqn) if not is_internal_file(frame.file) and not frame.file.startswith("<")]
    own = [frame for frame in frames if not frame.file.startswith(_PACKAGES)]
    return f"{(own or frames)[0].file}:{(own or frames)[0].line}" if frames else None


def function_of(body: Body) -> tuple[str, str]:
    """Return name and file of the Python function that a body was traced from; empty where JAX does not know."""
    info = getattr(body.jaxpr, "debug_info", None)
    name, _, place = (getattr(info, "func_src_info", None) or "").partition(" at ")
    return name, place.rpartition(":")[0]


def is_stop_gradient(eqn) -> bool:
    """Tell whether an equation detaches its operand: since JAX 0.10 `stop_gradient` is a primitive of that name."""
    return eqn.primitive.name == "stop_gradient"


def with_params(body: Body, changes: dict[tuple[int, ...], dict]) -> Body:
    """Return a body in which the equations at some locations have other parameters; all else stays as it is."""
    return Body(_with_params(body.jaxpr, changes), body.consts)


def _with_params(jaxpr: Any, changes: dict[tuple[int, ...], dict]) -> Any:
    inner = getattr(jaxpr, "jaxpr", jaxpr)
    eqns = list(inner.eqns)
    for index in {location[0] for location in changes}:
        here = {location[1:]: change for location, change in changes.items() if location[0] == index}
        params = here[()] if () in here else _changed_bodies(eqns[index], here)
        eqns[index] = eqns[index].replace(params={**eqns[index].params, **params})
    new = inner.replace(eqns=eqns)
    return new if inner is jaxpr else jaxpr.replace(jaxpr=new)


def _changed_bodies(eqn, changes: dict[tuple[int, ...], dict]) -> dict[str, Any]:
    numbered = lambda number: {location[1:]: change for location, change in changes.items() if location[0] == number}
    if eqn.primitive is cond_p:
        branches = enumerate(eqn.params["branches"])
        return {"branches": tuple(_with_params(branch, numbered(number)) for number, branch in branches)}
    return {"jaxpr": _with_params(eqn.params["jaxpr"], numbered(0))}


# --- JAX's own transformations around choices ---------------------------------------------------------------------


def wrap_batcher(primitive, wrapper: Callable) -> None:
    """Replace a batching rule by `wrapper(original, axis_data, values, dims, **params)`."""
    original = fancy_batchers[primitive]
    fancy_batchers[primitive] = lambda axis_data, values, dims, **params: wrapper(
        original, axis_data, values, dims, **params
    )


def guard_differentiation(primitive, find_choice: Callable) -> None:
    """Refuse JAX's own derivatives through an equation whose body holds a choice.

    `jax.grad` taken inside a stochastic function splits such a body into two programs: a choice in it would be hoisted
    out of a loop, drawn twice, or dropped.
    """
    for table in (ad.primitive_jvps, _private_ad.primitive_linearizations):
        if primitive in table:
            table[primitive] = _guarded_rule(table[primitive], primitive, find_choice)


def _guarded_rule(rule: Callable, primitive, find_choice: Callable) -> Callable:
    @boundary
    def guarded(*args, **params):
        choice = find_choice(params)
        if choice is not None:
            raise ControlFlowError(
                f"A derivative is taken inside a stochastic function, through `{primitive.name}` that makes a choice.",
                where=f"{choice.params['label']!r} at {choice.params['source']}",
                expected="derivatives taken outside, of `ppl.expect(f)` or `ppl.seed(f)`",
                got="`jax.grad`, `jax.jvp` or `jax.linearize` around a random choice",
                remedy="take `ppl.grad` of the whole program, or make the choice outside the differentiated function",
            )
        return rule(*args, **params)

    return guarded


def map_axis(axis_data, function: Callable, in_axes: Sequence, values: Sequence) -> list:
    """Evaluate a function under the vmap that a batching rule stands for; every result gets a leading axis."""
    mapped = jax.vmap(
        function,
        in_axes=tuple(in_axes),
        axis_size=axis_data.size,
        axis_name=axis_data.name,
        spmd_axis_name=axis_data.spmd_name,
    )
    return mapped(*values)


# --- What can be evaluated for all steps of a loop at once --------------------------------------------------------


def rebind(eqn, values: Sequence) -> list:
    """Bind an equation again on other values, under the source line that made it."""
    from jax._src import source_info_util

    with source_info_util.user_context(eqn.source_info.traceback):
        return bind(eqn, values)


def can_map(eqn) -> bool:
    """Tell whether an equation, with all that is inside it, has no effect and a batching rule."""
    custom = eqn.primitive in (primitives.custom_jvp_call_p, primitives.custom_vjp_call_p)
    if not (custom or eqn.primitive in fancy_batchers) or eqn.effects or "callback" in eqn.primitive.name:
        return False
    return all(can_map(inner) for body in inner_bodies(eqn) for inner in body.eqns)


def with_body(view: Scan, body: Body) -> Scan:
    """Return a scan with another body of the same operands and results."""
    return dataclasses.replace(view, body=body)
