"""Generative functions made from how they are simulated and how their density is estimated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ppl import jaxprs
from ppl._errors import PPLError, user_source
from ppl.choicemap import Masked, Path, flatten, nest, show
from ppl.generative import GenerativeFunction
from ppl.stochastic.primitive import Kept, rebound, stochastic_p

Halves = tuple[Callable, Callable]
"""How a stochastic density is simulated, and how it is estimated; see [`StochasticFunction`][]."""


class StochasticFunction(GenerativeFunction):
    """A generative function given by how it is simulated and how its density is estimated.

    Args:
        name: Name for messages.
        simulate: Maps `args` to `(choices, retval, log_weight)`; the choices are a nested dict.
        estimate: Maps `(choices, *args)` to `(retval, log_weight)`.
    """

    def __init__(self, name: str, simulate: Callable, estimate: Callable):
        self.halves, source = (simulate, estimate), user_source()

        def body(*args):
            return _bind(name, source, simulate, estimate, args)

        body.__name__ = name
        super().__init__(body)


def _bind(name: str, source: str, simulate: Callable, estimate: Callable, args: tuple) -> Any:
    paths, layout = [], []

    def drawing(*inner):
        choices, retval, weight = simulate(*inner)
        flat = flatten(choices)
        _refuse_masked(name, source, flat)
        results, out = jaxprs.split(retval)
        paths.append(list(flat))
        layout.append(out)
        return [jnp.asarray(value) for value in flat.values()], results, jnp.asarray(weight, jnp.result_type(float))

    def estimating(values, *inner):
        retval, weight = estimate(nest(dict(zip(paths[-1], values, strict=True))), *inner)
        return jaxprs.split(retval)[0], jnp.asarray(weight, jnp.result_type(float))

    drawing.__name__ = estimating.__name__ = name
    drawn, leaves = jaxprs.stage(drawing, args)
    values = [jnp.zeros(var.aval.shape, var.aval.dtype) for var in drawn.body.outvars[: len(paths[-1])]]
    scored, _ = jaxprs.stage(estimating, (values, *args))
    kept = tuple(Kept(path, v.shape, np.dtype(v.dtype)) for path, v in zip(paths[-1], values, strict=True))
    outs = bind_stochastic(drawn.body, scored.body, leaves, kept, address=(), label=name, source=source)
    return layout[-1].join(outs[len(kept) :])


def bind_stochastic(simulate: jaxprs.Body, estimate: jaxprs.Body, leaves: Sequence, kept, **params) -> list:
    """Bind the equation of two staged programs: their constants become operands of both."""
    first, first_consts = jaxprs.with_const_arguments(simulate)
    second, second_consts = jaxprs.with_const_arguments(estimate)
    operands = [*first_consts, *second_consts, *leaves]
    cut = len(first_consts), len(first_consts) + len(second_consts)
    avals = [jax.typeof(operand) for operand in operands]
    values = [jax.ShapeDtypeStruct(one.shape, one.dtype) for one in kept]

    def simulating(*ops):
        return rebound(jaxprs.body_of(first), [*ops[: cut[0]], *ops[cut[1] :]])

    def estimating(*both):
        given, ops = both[: len(kept)], both[len(kept) :]
        return rebound(jaxprs.body_of(second), [*ops[cut[0] : cut[1]], *given, *ops[cut[1] :]])

    jaxpr = jax.make_jaxpr(simulating)(*avals), jax.make_jaxpr(estimating)(*values, *avals)
    full = {"lanes": (), "depth": 0, "masked": False, "guards": (), "fixed": False, **params}
    return stochastic_p.bind(*operands, simulate=jaxpr[0], estimate=jaxpr[1], kept=tuple(kept), **full)


def _refuse_masked(name: str, source: str, choices: dict[Path, Any]) -> None:
    for path, leaf in choices.items():
        if isinstance(leaf, Masked):
            raise PPLError(
                f'`{name}` keeps the choice at "{show(path)}", which is made only sometimes.',
                where=source,
                expected="kept choices that are always made",
                got="a `Masked` choice",
                remedy="keep the choices that are always made, and treat this one as auxiliary",
            )
