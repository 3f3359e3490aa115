"""Counts of what a program takes: operations, bytes, equations, with loops counted as often as they run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from ppl import jaxprs
from ppl._errors import PPLError, boundary
from ppl.primitives import density_p
from ppl.reports.flops import (
    GENERATORS,
    PRODUCTS,
    TRANSCENDENTAL,
    bytes_of,
    flops_of,
    has_rule,
    random_words,
)


@dataclasses.dataclass(frozen=True)
class Costs:
    """What one run of a program takes.

    Attributes:
        flops: Operations on numbers, all kinds together.
        matmul_flops: Those of matrix products and convolutions.
        transcendentals: Those that are transcendental functions (each counts as one).
        random_words: 32-bit words made by the generator (each counts as 60 operations in `flops`).
        bytes: Operands and results of every equation, as if nothing were fused: an upper bound.
        executed: Equations that are run: those of a loop as often as it runs.
        equations: Equations of the program's text: its size, whatever the lengths of its loops.
        approximate: What was counted by a guess: unbounded loops (once), operations without a rule (one for each
            element of the result).
    """

    flops: int = 0
    matmul_flops: int = 0
    transcendentals: int = 0
    random_words: int = 0
    bytes: int = 0
    executed: int = 0
    equations: int = 0
    approximate: tuple[str, ...] = ()

    def __add__(self, other: Costs) -> Costs:
        """Add what two parts take."""
        sums = {name: getattr(self, name) + getattr(other, name) for name in _NUMBERS}
        return Costs(**sums, approximate=tuple(dict.fromkeys(self.approximate + other.approximate)))

    def times(self, length: int) -> Costs:
        """Return the costs of running a loop's body so many times: its text is still there once."""
        run = {name: length * getattr(self, name) for name in _NUMBERS}
        return dataclasses.replace(self, **{**run, "equations": self.equations})


_NUMBERS = [field.name for field in dataclasses.fields(Costs) if field.name != "approximate"]


@boundary
def costs(function: Callable) -> Callable[..., Costs]:
    """Count what an ordinary JAX function takes: operations, bytes, equations.

    The function's jaxpr is walked, without running it. A scan counts as often as its length says, a cond with the
    dearest of its branches, the body of an unbounded `while_loop` once (named in `approximate`); `jit`, `checkpoint`
    and functions with rules of their own are looked into. Equations whose results nobody needs are left out, as XLA
    leaves them out; XLA's other savings (fusion, common subexpressions) are not foreseen, see `compiled_costs`.

    Args:
        function: An ordinary function, such as `ppl.expect(f)` or `ppl.value_and_grad(f)`, not a stochastic one.

    Returns:
        A function of the same arguments that returns `Costs`. Arrays may be given as `jax.ShapeDtypeStruct`.

    Raises:
        PPLError: The function makes a random choice: transform it first.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from ppl.reports import costs
        >>> def power(matrix):
        ...     return jax.lax.fori_loop(0, 10, lambda _, total: total @ matrix, jnp.eye(8))
        >>> found = costs(power)(jnp.ones((8, 8)))
        >>> found.matmul_flops == 10 * 2 * 8**3, found.approximate
        (True, ())
    """

    @boundary
    def count(*args: Any, **kwargs: Any) -> Costs:
        leaves, call = _flat(function, args, kwargs)
        return _body(jaxprs.without_dead_equations(jax.make_jaxpr(call)(*leaves)))

    return count


def _flat(function: Callable, args: tuple, kwargs: dict) -> tuple[list, Callable]:
    """Separate what is traced among the arguments from what is static; shapes may stand for arrays."""
    leaves, treedef = jax.tree.flatten((args, kwargs))
    traced = [jaxprs.is_traced_leaf(leaf) or isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves]

    def call(*given: Any) -> Any:
        rest = iter(given)
        joined = [next(rest) if on else leaf for leaf, on in zip(leaves, traced, strict=True)]
        inner_args, inner_kwargs = jax.tree.unflatten(treedef, joined)
        return function(*inner_args, **inner_kwargs)

    return [leaf for leaf, on in zip(leaves, traced, strict=True) if on], call


def _body(body: jaxprs.Body) -> Costs:
    return sum(map(_equation, body.eqns), Costs())


def _equation(eqn) -> Costs:
    if eqn.primitive in jaxprs.CHOICE_PRIMITIVES:
        raise PPLError(
            "Costs are counted of ordinary functions, and this one makes a random choice.",
            where=f"{eqn.params['label']!r} at {eqn.params['source']}",
            expected="a function without random choices",
            got="a stochastic function",
            remedy="count `ppl.expect(f)`, `ppl.value_and_grad(f)` or `ppl.seed(f)`",
        )
    if eqn.primitive is density_p:
        return _body(jaxprs.expand(eqn))
    bodies = [] if has_rule(eqn) else jaxprs.inner_bodies(eqn)  # A reduction's or scatter's body is its rule.
    return _with_bodies(eqn, bodies) if bodies else _single(eqn)


def _with_bodies(eqn, bodies: Sequence[jaxprs.Body]) -> Costs:
    """Count an equation by its bodies: a control-flow equation adds one to the text, a call adds none."""
    itself = Costs(executed=1, equations=1)
    if eqn.primitive is jaxprs.scan_p:
        scan = jaxprs.read_scan(eqn)
        return itself + _body(scan.body).times(scan.length)
    if eqn.primitive is jaxprs.cond_p:
        return itself + _dearest([_body(branch) for branch in jaxprs.read_branches(eqn)])
    if eqn.primitive is jaxprs.while_p:
        flag = Costs(approximate=(f"while loop at {jaxprs.source_of(eqn)}: counted once",))
        return itself + flag + sum(map(_body, bodies), Costs())
    if len(bodies) == 1:
        return _body(bodies[0])
    flag = Costs(approximate=(f"{eqn.primitive.name}: the dearest of its {len(bodies)} parts",))
    return itself + flag + _dearest([_body(body) for body in bodies])


def _dearest(branches: Sequence[Costs]) -> Costs:
    """Return what the dearest branch takes, and the text of all."""
    dearest = max(branches, key=lambda branch: (branch.flops, branch.bytes))
    flags = tuple(dict.fromkeys(flag for branch in branches for flag in branch.approximate))
    return dataclasses.replace(dearest, equations=sum(branch.equations for branch in branches), approximate=flags)


def _single(eqn) -> Costs:
    name, known = eqn.primitive.name, has_rule(eqn)
    flops = flops_of(eqn) if known else sum(var.aval.size for var in eqn.outvars)
    return Costs(
        flops=flops,
        matmul_flops=flops if name in PRODUCTS else 0,
        transcendentals=flops if name in TRANSCENDENTAL else 0,
        random_words=random_words(eqn) if name in GENERATORS else 0,
        bytes=bytes_of(eqn),
        executed=1,
        equations=1,
        approximate=(f"{name}: no rule",) if not known else (),
    )


@dataclasses.dataclass(frozen=True)
class CompiledCosts:
    """XLA's own analysis of a compiled module.

    Attributes:
        flops: Operations, without transcendental functions. A loop's body counts once, however often it runs.
        transcendentals: Transcendental functions.
        bytes: Bytes read and written, after fusion; a loop's body counts once.
    """

    flops: float
    transcendentals: float
    bytes: float


@boundary
def compiled_costs(function: Callable) -> Callable[..., CompiledCosts]:
    """Compile a function and return XLA's analysis of the result.

    This sees what is left after fusion and common subexpressions, but counts the body of every loop once: compare
    programs without loops by it, and programs with loops by `costs`.

    Args:
        function: An ordinary function.

    Returns:
        A function of the same arguments that returns `CompiledCosts`.

    Example:
        >>> import jax.numpy as jnp
        >>> from ppl.reports import compiled_costs
        >>> compiled_costs(lambda matrix: matrix @ matrix)(jnp.ones((16, 16))).flops
        8192.0
    """

    def count(*args: Any, **kwargs: Any) -> CompiledCosts:
        leaves, call = _flat(function, args, kwargs)
        return analysis(jax.jit(call).lower(*leaves).compile())

    return count


def analysis(compiled: Any) -> CompiledCosts:
    """Read XLA's analysis of what `jax.jit(f).lower(...).compile()` returned."""
    found = compiled.cost_analysis()
    found = found[0] if isinstance(found, (list, tuple)) else found
    return CompiledCosts(*(float(found.get(name, 0.0)) for name in ("flops", "transcendentals", "bytes accessed")))


def growth(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Return the exponent b of the power law a * size**b that fits best, by least squares of the logarithms.

    Args:
        sizes: At least two different sizes, positive.
        values: What was counted at each size, positive.

    Example:
        >>> from ppl.reports import growth
        >>> round(growth([10, 20, 40], [300, 1200, 4800]), 6)
        2.0
    """
    return float(np.polyfit(np.log(np.asarray(sizes, float)), np.log(np.asarray(values, float)), 1)[0])
