"""What would go wrong when a program is differentiated, found by tracing that derivative once, without running it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import jax
import jax.numpy as jnp

from ppl import jaxprs
from ppl._errors import PPLError
from ppl.analysis.plan import Plan
from ppl.passes import plan_draws
from ppl.transforms.expect import estimator, prepare
from ppl.transforms.grad import Selected
from ppl.transforms.guards import refusals
from ppl.transforms.noise import KeyNoise
from ppl.transforms.programs import Program, label_of


def refused(program: Program, aux: Sequence[bool], selected: Selected | None) -> list[str]:
    """List the texts of the errors that `ppl.grad` would raise: every refused derivative, else the first error."""
    with refusals() as found:
        try:
            _trace(prepare(program, aux), aux, selected)
        except PPLError as error:
            found.append(error)
    return list(dict.fromkeys(map(str, found)))


def _trace(program: Program, aux: Sequence[bool], selected: Selected | None) -> None:
    """Trace the estimator and its derivative with respect to the selected leaves."""
    estimate = estimator(program, aux)

    def run(key, values):
        leaves = program.leaves if selected is None else jaxprs.split((tuple(selected.fill(values)), {}))[0]
        outs = estimate(KeyNoise(key, program.digests, plan_draws(program.staged.body)), leaves)
        return [out for out, is_aux in zip(outs, aux, strict=True) if not is_aux]

    def differentiated(key, values):
        return jax.jvp(lambda values: run(key, values), (values,), ([jnp.ones_like(value) for value in values],))

    key = jax.eval_shape(lambda: jax.random.key(0))
    if selected is None:
        jax.eval_shape(lambda key: run(key, []), key)
    else:
        jax.eval_shape(differentiated, key, selected.values)


Finding = Callable[[Program, Plan], Iterable[str]]

FINDINGS: tuple[Finding, ...] = ()
"""Analyses whose texts `explain` shows among its problems, such as values that reach the result through a jump."""


def _detached(program: Program, plan: Plan) -> Iterable[str]:
    """Say which pathwise values are detached on their way: a deliberate loss of derivatives."""
    for site, lines in plan.smoothness.detached.items():
        label = label_of(program.places[site]) if site in program.places else "a choice"
        yield f"{label!r} is detached by `stop_gradient` at {', '.join(lines)}"


NOTES: tuple[Finding, ...] = (_detached,)
"""Analyses whose texts `explain` shows as notes: what is deliberate, such as a detached value."""
