"""Real numbers in place of whole ones: a program is rewritten so that some of its discrete choices yield floats.

A value of the old program that was an integer, and is a float in the new one, is *relaxed*: it stands for the same
number, or, with one more axis, for the weights of the values of a categorical choice. Equations that mean the same for
floats are bound again; the others are refused, with the user's line.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ppl import jaxprs
from ppl._errors import StrategyError
from ppl.interpreter import Interpreter
from ppl.primitives import call_p, choice_p, density_p
from ppl.strategies.protocol import Strategy
from ppl.strategies.relaxation import Relaxed, relaxed_family

Location = tuple[int, ...]

_SAME_FOR_FLOATS = frozenset(
    """add sub mul neg abs max min square integer_pow broadcast_in_dim reshape squeeze expand_dims transpose rev copy
    copy_p stop_gradient reduce_sum reduce_max reduce_min reduce_prod cumsum cumprod concatenate slice pad add_any
    dynamic_slice gather select_n dynamic_update_slice clamp assume_continuous optimization_barrier pow""".split()
)
_WHOLE_OPERANDS = {  # Operands that must not be relaxed: predicates, indices.
    "select_n": lambda count: {0},
    "gather": lambda count: {1},
    "dynamic_slice": lambda count: set(range(1, count)),
    "dynamic_update_slice": lambda count: set(range(2, count)),
}
_COMPARISONS = {
    "eq": jnp.equal,
    "ne": jnp.not_equal,
    "lt": jnp.less,
    "le": jnp.less_equal,
    "gt": jnp.greater,
    "ge": jnp.greater_equal,
}


def relax(body: jaxprs.Body) -> jaxprs.Body:
    """Rewrite a program for its choices with a relaxation; one without any is left as it is."""
    if not _relaxations(body):
        return body
    return relax_choices(body, lambda location, strategy: strategy is not None and strategy.mode == "relaxed")


def relax_choices(
    body: jaxprs.Body, chosen: Callable[[Location, Strategy | None], bool], keep: bool = False
) -> jaxprs.Body:
    """Rewrite a program so that chosen choices yield floats; the order of its choices stays.

    With `keep` they keep their strategies, which then give them values; what they draw is whole, as floats.

    Raises:
        StrategyError: A relaxed value reaches what is defined for whole numbers only.
    """
    return jaxprs.restage(lambda *args: _numbers(_Relax(chosen, keep).run(body, args), body), jaxprs.in_shapes(body))


def _numbers(outs: Sequence, body: jaxprs.Body) -> list:
    """Return results in their shapes: weights become the number that they stand for."""
    return [_as_number(out, var.aval) for out, var in zip(outs, body.outvars, strict=True)]


def _relaxations(body: jaxprs.Body) -> bool:
    for eqn in body.eqns:
        if eqn.primitive is choice_p:
            strategy = eqn.params["strategy"]
            if strategy is not None and strategy.mode == "relaxed":
                return True
        elif jaxprs.holds_choice(eqn) and any(_relaxations(inner) for inner in jaxprs.inner_bodies(eqn)):
            return True
    return False


def _is_relaxed(value, var) -> bool:
    return jnp.issubdtype(jnp.result_type(value), jnp.floating) and not _is_float(var.aval)


def _is_float(aval) -> bool:
    return jnp.issubdtype(aval.dtype, jnp.inexact) or jaxprs.is_key(aval)


def _as_number(value, aval):
    """Return what weights stand for as a number: the mean of the indices; anything else as it is."""
    if jaxprs.is_key(aval) or jnp.ndim(value) != len(aval.shape) + 1:
        return value
    return value @ jnp.arange(value.shape[-1], dtype=value.dtype)


class _Relax(Interpreter):
    """Walk a program, and rewrite what depends on relaxed values."""

    def __init__(self, chosen: Callable, keep: bool, location: Location = (), labels: list | None = None, line=""):
        super().__init__(location)
        self.chosen, self.keep = chosen, keep
        self.labels, self.line = [] if labels is None else labels, line

    def enter(self, location, extra):
        """Rewrite inside as outside; what is inside of a library's function has the line that calls it."""
        return _Relax(self.chosen, self.keep, location, self.labels, self.line)

    def equation(self, eqn, values: Sequence) -> list:
        """Rewrite an equation that reads relaxed values; bind others again."""
        relaxed = [_is_relaxed(value, var) for value, var in zip(values, eqn.invars, strict=True)]
        if not any(relaxed):
            return super().equation(eqn, values)
        self.line = jaxprs.user_line_of(eqn) or self.line
        if eqn.primitive in self.handlers:
            return self.handlers[eqn.primitive](eqn, values)
        if eqn.primitive is density_p:
            return self._density(eqn, values, relaxed)
        if eqn.primitive is call_p:
            return self._call(eqn, values)
        if eqn.primitive in jaxprs.CHOICE_PRIMITIVES:
            raise self._refuse(eqn, "a parameter that is an integer")
        return self._ordinary(eqn, values, relaxed)

    # Choices, densities, calls.
    def special(self, eqn, values):
        """Let a chosen choice yield floats."""
        if eqn.primitive is call_p:
            return self._call(eqn, values)
        strategy = eqn.params.get("strategy")
        if eqn.primitive is not choice_p or not self.chosen(self.here, strategy):
            return eqn.primitive.bind(*values, **eqn.params)
        spec = eqn.params["spec"]
        self.labels.append(f"{eqn.params['label']!r} at {eqn.params['source']}")
        spec = dataclasses.replace(spec, family=relaxed_family(spec.family, strategy))
        return choice_p.bind(
            *values, **{**eqn.params, "spec": spec, "strategy": strategy if self.keep else Relaxed(strategy)}
        )

    def _density(self, eqn, values, relaxed):
        spec = eqn.params["spec"]
        if any(relaxed[1:]):
            raise self._refuse(eqn, "a parameter of a density that is an integer")
        if spec.family.name not in ("bernoulli", "categorical"):
            raise self._refuse(eqn, f"a value of {spec.family}")
        is_vector = spec.family.name == "categorical"
        if is_vector != (values[0].ndim == len(eqn.invars[0].aval.shape) + 1):
            raise self._refuse(eqn, f"a value of {spec.family} that is computed from the choice")
        spec = dataclasses.replace(spec, family=relaxed_family(spec.family, None))
        return [density_p.bind(*values, **{**eqn.params, "spec": spec})]

    def _call(self, eqn, values):
        body = jaxprs.read_call(eqn)
        child = self.enter((*self.here, 0), ())
        closed = jaxprs.body_of(jax.make_jaxpr(lambda *args: child.run(body, args))(*values))
        jaxpr, consts = jaxprs.with_const_arguments(closed)
        return call_p.bind(*consts, *values, **{**eqn.params, "jaxpr": jaxpr})

    # Loops and branches.
    def scan(self, eqn, values):
        """Find which parts of the carry are relaxed, and walk the body with these."""
        view, here = jaxprs.read_scan(eqn), self.here
        consts, init, xs = view.split(values)
        init = [jnp.asarray(x) for x in init]  # Literals are scalars of a type of their own.

        def step(carry, slices):
            child = self.enter((*here, 0), ())
            return view.split_out(child.run(view.body, [*consts, *carry, *slices]))

        def body(carry, slices):
            new, ys = step(carry, slices)
            return [_like(x, was) for x, was in zip(new, carry, strict=True)], ys

        first = [jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for x in xs]
        while True:
            shapes, _ = jax.eval_shape(step, init, first)
            widened = [_widened(x, new) for x, new in zip(init, shapes, strict=True)]
            if all(a is b for a, b in zip(widened, init, strict=True)):
                break
            init = widened
        carry, ys = lax.scan(body, init, xs, view.length, reverse=view.reverse, unroll=view.unroll)
        return [*carry, *ys]

    def cond(self, eqn, values):
        """Walk every branch; a result that is relaxed in one of them is so in all."""
        index, *operands = values
        if _is_relaxed(index, eqn.invars[0]):
            raise self._refuse(eqn, "the predicate of a branch")
        here = self.here
        walk = lambda number, body: lambda *ops: self.enter((*here, number), ()).run(body, ops)
        branches = [walk(number, body) for number, body in enumerate(jaxprs.read_branches(eqn))]
        shapes = [jax.eval_shape(branch, *operands) for branch in branches]
        most = lambda out: (out.ndim, jnp.issubdtype(out.dtype, jnp.inexact))
        wanted = [max(outs, key=most) for outs in zip(*shapes, strict=True)]

        def matched(branch):
            return lambda *ops: [_like(out, like) for out, like in zip(branch(*ops), wanted, strict=True)]

        return lax.switch(index, [matched(branch) for branch in branches], *operands)

    # Ordinary equations.
    def _ordinary(self, eqn, values, relaxed) -> list:
        name = eqn.primitive.name
        avals = [var.aval for var in eqn.invars]
        if any(on and jnp.ndim(x) == len(aval.shape) + 1 for x, aval, on in zip(values, avals, relaxed, strict=True)):
            found = _of_weights(eqn, values, avals)
            if found is not None:
                return [found]
            values = [_as_number(x, aval) if on else x for x, aval, on in zip(values, avals, relaxed, strict=True)]
        if name == "convert_element_type":
            return [self._converted(eqn, values[0])]
        if name == "dot_general":
            dtype = next(x.dtype for x, on in zip(values, relaxed, strict=True) if on)
            left, right = (x.astype(dtype) for x in values)
            return [lax.dot_general_p.bind(left, right, **{**eqn.params, "preferred_element_type": dtype})]
        if name not in _SAME_FOR_FLOATS:
            compared = name in _COMPARISONS
            raise self._refuse(eqn, "an index, or compared" if compared else f"an operand of `{name}`")
        whole = _WHOLE_OPERANDS.get(name, lambda count: set())(len(values))
        if any(relaxed[i] for i in whole):
            raise self._refuse(eqn, "an index" if name != "select_n" else "the condition of a `where`")
        dtype = next(x.dtype for x, on in zip(values, relaxed, strict=True) if on)
        return jaxprs.bind(eqn, [x if i in whole else jnp.asarray(x, dtype) for i, x in enumerate(values)])

    def _converted(self, eqn, value):
        dtype = eqn.params["new_dtype"]
        if dtype == jnp.bool_:
            raise self._refuse(eqn, "a bool")
        return value.astype(dtype) if jnp.issubdtype(dtype, jnp.inexact) else value

    def _refuse(self, eqn, used_as: str) -> StrategyError:
        return StrategyError(
            f"A relaxed choice is used as {used_as}, which is defined for whole numbers only.",
            where=" or ".join(dict.fromkeys(self.labels)),
            expected="arithmetic; for a categorical choice also `jax.nn.one_hot`, and comparisons with an integer",
            got=f"`{eqn.primitive.name}` at {self.line or jaxprs.source_of(eqn)}",
            remedy="write `jax.nn.one_hot(k, n) @ table` for `table[k]`, `b * x + (1 - b) * y` for `where(b, x, y)`; "
            "or use an unbiased strategy (`reinforce()`, `mvd()`, `enum()`)",
        )


def _of_weights(eqn, values, avals):
    """Evaluate what has a meaning for the weights of a categorical choice themselves; None where it has none."""
    name, params = eqn.primitive.name, eqn.params
    if name in _COMPARISONS:
        at = next(
            i for i, (x, aval) in enumerate(zip(values, avals, strict=True)) if jnp.ndim(x) == len(aval.shape) + 1
        )
        other = values[1 - at]
        if jnp.issubdtype(jnp.result_type(other), jnp.floating):
            return None
        index = jnp.arange(values[at].shape[-1])
        pair = (index, jnp.asarray(other)[..., None]) if at == 0 else (jnp.asarray(other)[..., None], index)
        return (values[at] * _COMPARISONS[name](*pair)).sum(-1)
    size = values[0].shape[-1:]
    if name == "broadcast_in_dim":
        shape, dims = params["shape"], params["broadcast_dimensions"]
        return lax.broadcast_in_dim(values[0], (*shape, *size), (*dims, len(shape)))
    if name == "reshape" and params["dimensions"] is None:
        return values[0].reshape((*params["new_sizes"], *size))
    if name == "squeeze":
        return lax.squeeze(values[0], params["dimensions"])
    if name == "transpose":
        return lax.transpose(values[0], (*params["permutation"], values[0].ndim - 1))
    is_whole = name == "convert_element_type" and jnp.issubdtype(params["new_dtype"], jnp.integer)
    return values[0] if is_whole or name in ("copy", "copy_p", "stop_gradient") else None


def _widened(value: Any, new) -> Any:
    """Return a loop's first value as what the loop makes of it."""
    new = jax.ShapeDtypeStruct(jnp.shape(new), jnp.result_type(new))
    if value.dtype == new.dtype and value.shape == new.shape:
        return value
    if jnp.issubdtype(value.dtype, jnp.floating) and not jnp.issubdtype(new.dtype, jnp.floating):
        return value  # What was relaxed before may become whole: it is converted back in the loop.
    return _like(value, new)


def _like(value, like):
    """Give a whole number the type (and, for weights, the axis) of a relaxed one."""
    value = jnp.asarray(value)
    if value.ndim + 1 == len(like.shape):
        return jax.nn.one_hot(value, like.shape[-1], dtype=like.dtype)
    return value if value.dtype == like.dtype else value.astype(like.dtype)
