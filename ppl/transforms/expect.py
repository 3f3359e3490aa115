"""`expect`: a stochastic objective becomes a function whose value and derivatives are unbiased.

The program is analysed once (`ppl.analysis`), then evaluated equation by equation (`ppl.transforms.evaluate`). What JAX
sees in the end is ordinary JAX, so its own derivatives, of any order, are those of the estimator.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ppl import jaxprs
from ppl._errors import PPLError, boundary
from ppl.analysis.plan import MAX_STATES, Unroll, escapes, histories, largest_sum, make_plan, refuse_enumeration
from ppl.analysis.score_priors import check_score_priors
from ppl.analysis.smoothness.jumps import guard_jumps
from ppl.passes import fuse, merge_sums, plan_draws, relax, vectorise
from ppl.passes.policy import KEPT_MODES
from ppl.transforms.axes import Val
from ppl.transforms.direct import estimate_with_costs
from ppl.transforms.evaluate import Evaluator
from ppl.transforms.noise import KeyNoise
from ppl.transforms.packed import pack_program
from ppl.transforms.programs import (
    Program,
    check_key,
    drawn_places,
    keyed,
    name_of,
    require_function,
    stage_program,
    with_body,
)


@boundary
def expect(function: Callable, has_aux: bool = False) -> Callable[..., Any]:
    """Turn a stochastic objective into an ordinary function of a key whose derivatives are unbiased, too.

    Args:
        function: Makes random choices and returns a pytree of inexact arrays (with `has_aux`, a pair of that and
            anything); a generative function counts as a function that returns its return value.
        has_aux: Whether the second result is auxiliary: it has no derivative.

    Returns:
        A function of `(key, *args)`: use `jax.grad(..., argnums=1)`, `jax.jit`, `jax.vmap` on it as on any other.

    Raises:
        PPLError: No key is given, or a result is not of inexact type.
        ControlFlowError: A choice stands where it has no meaning.
        StrategyError: A derivative meets a choice without a strategy, or an enumeration is too large.
        UnsoundGradientError: A derivative meets a pathwise choice that reaches the result through a discontinuity.

    Example:
        >>> import jax, ppl
        >>> cost = lambda p: (ppl.bernoulli(p, grad=ppl.enum()).sample() - 0.45) ** 2
        >>> round(float(jax.grad(ppl.expect(cost), argnums=1)(jax.random.key(0), 0.3)), 4)
        0.1
    """
    require_function(function, "expect")

    @keyed(function)
    def expected(*args: Any) -> Any:
        check_key(args[0] if args else None, f"expect({name_of(function)})")
        key, args = args[0], args[1:]
        program = stage_program(function, args)
        aux = check_results(program, has_aux)
        program, judge = pack_program(prepare(program, aux), aux, key)
        noise = KeyNoise(key, program.digests, plan_draws(program.staged.body)).rooted(drawn_places(program))
        outs = estimator(program, aux, judge)(noise, program.leaves)
        results = program.staged.results(outs)
        return (results[0], jax.tree.map(_detach, results[1])) if has_aux else results

    return expected


def check_results(program: Program, has_aux: bool) -> list[bool]:
    """Refuse results without a derivative; say of each flat result whether it is auxiliary."""
    outvars = program.staged.body.outvars
    results = program.staged.out.join(range(len(outvars)))
    if has_aux and not (isinstance(results, tuple) and len(results) == 2):
        raise PPLError(
            f"`{program.name}` does not return a pair, which `has_aux` asks for.",
            got=type(results).__name__,
            remedy="return `(value, aux)`",
        )
    value = results[0] if has_aux else results
    leaves = [leaf for leaf in jax.tree.leaves(value)]
    if not leaves:
        raise PPLError(
            f"`{program.name}` returns nothing to take the expectation of.",
            where=f"`{program.name}`",
            got=repr(value),
            remedy="return a float array",
        )
    traced = program.staged.out.mask[: len(leaves)]
    for leaf, is_traced in zip(leaves, traced, strict=True):
        dtype = outvars[leaf].aval.dtype if is_traced else type(leaf).__name__
        if not is_traced or not jnp.issubdtype(dtype, jnp.inexact):
            raise PPLError(
                f"`{program.name}` returns a value that has no expectation with a derivative.",
                where=f"`{program.name}`",
                expected="a pytree of inexact (float or complex) arrays",
                got=f"{dtype}",
                remedy="convert it to float, or return it as auxiliary with `has_aux=True`",
            )
    return [number >= len(leaves) for number in range(len(outvars))]


def _detach(leaf):
    return lax.stop_gradient(leaf) if isinstance(leaf, jax.Array) else leaf


def prepare(program: Program, aux: Sequence[bool], max_states: int = MAX_STATES) -> Program:
    """Join and take apart scans; write out those whose enumerated choices go on, where that can be afforded."""
    program = with_body(program, relax(program.staged.body))
    program = with_body(program, guard_jumps(program.staged.body, program.places, aux))
    program = with_body(program, fuse(program.staged.body))
    whole = program
    program = with_body(whole, vectorise(whole.staged.body, KEPT_MODES, whole.digests))
    plan = make_plan(program.staged.body, program.places, aux)
    if escapes(plan):  # Where its choices do not need the loop, its steps are lanes.
        freed = with_body(whole, vectorise(whole.staged.body, frozenset(), whole.digests))
        freed_plan = make_plan(freed.staged.body, freed.places, aux)
        if not escapes(freed_plan) and largest_sum(freed_plan) <= max_states:
            program, plan = freed, freed_plan
    check_score_priors(plan.body, plan.flow)
    while found := escapes(plan):
        for scan, site in found:
            if histories(plan, scan) > max_states:
                raise refuse_enumeration(plan, scan, site, max_states)
        body = program.staged.body
        rewrite = Unroll({scan for scan, _ in found})
        body = jaxprs.restage(lambda *args, rewrite=rewrite, body=body: rewrite.run(body, args), jaxprs.in_shapes(body))
        program = with_body(program, body)
        plan = make_plan(body, program.places, aux)
    if "enumerate" in plan.modes.values():
        merged = with_body(program, merge_sums(program.staged.body, plan.flow, plan.modes))
        if merged is not program:
            program, plan = merged, make_plan(merged.staged.body, merged.places, aux)
    return dataclasses.replace(program, plan=plan)


def estimator(program: Program, aux: Sequence[bool], judge: Callable | None = None) -> Callable[[Any, Sequence], list]:
    """Return the estimator of a program as a function of a source of noise and the traced arguments.

    `judge` says which pathwise choices are unsound, where that is known of the program before it was packed.
    """
    plan = program.plan
    if plan is None or plan.body is not program.staged.body or plan.aux != tuple(aux):
        plan = make_plan(program.staged.body, program.places, aux)
    plan = plan if judge is None else dataclasses.replace(plan, judge=judge)

    def estimate(noise, leaves):
        if plan.kept:
            return estimate_with_costs(plan, aux, noise, leaves)
        evaluator = Evaluator(plan, noise, {}, {}, {}, ())
        outs = evaluator.run(plan.body, plan.flow, plan.terms, [Val(leaf) for leaf in leaves])
        return [
            evaluator.auxiliary(val, number) if is_aux else val.surrogate
            for number, (val, is_aux) in enumerate(zip(outs, aux, strict=True))
        ]

    return estimate
