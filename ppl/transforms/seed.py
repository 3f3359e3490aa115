"""`seed`: a stochastic function becomes an ordinary function of a key."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from ppl import jaxprs
from ppl._errors import StrategyError, boundary
from ppl.analysis.smoothness import smoothness
from ppl.analysis.smoothness.jumps import guard_jumps
from ppl.choice import sound_strategies
from ppl.interpreter import Interpreter, Place
from ppl.passes import plan_draws, vectorise
from ppl.primitives import call_p, draw
from ppl.transforms.guards import forbid_tangents
from ppl.transforms.noise import KeyNoise
from ppl.transforms.programs import check_key, keyed, label_of, name_of, require_function, stage_program, with_body


@boundary
def seed(function: Callable) -> Callable[..., Any]:
    """Turn a stochastic function into an ordinary function of a key.

    The noise of a choice comes from the key, the choice's path and, in a scan, the step: adding or renaming another
    choice does not change it. Derivatives pass through pathwise choices only; elsewhere they raise.

    Args:
        function: A function that makes random choices, or a generative function.

    Returns:
        A function of `(key, *args)`.

    Raises:
        PPLError: The key is missing or is not one typed key; a key is captured as a constant.
        ControlFlowError: A choice stands where it has no meaning (an unbounded `while_loop`, a `custom_vjp` body).
        StrategyError: A derivative is taken with respect to parameters of a choice that is not pathwise.
        UnsoundGradientError: A derivative is taken with respect to parameters of a pathwise choice that reaches a
            result through a discontinuity.

    Example:
        >>> import jax, ppl
        >>> ppl.seed(lambda: ppl.normal(0.0, 1.0).sample())(jax.random.key(0)).shape
        ()
    """
    require_function(function, "seed")

    @keyed(function)
    def seeded(*args: Any) -> Any:
        check_key(args[0] if args else None, f"seed({name_of(function)})")
        key, args = args[0], args[1:]
        program = stage_program(function, args)
        program = with_body(program, guard_jumps(program.staged.body, program.places, _without_derivative(program)))
        program = with_body(program, vectorise(program.staged.body, digests=program.digests))
        sound = functools.cache(lambda: _unsound(program))
        noise = KeyNoise(key, program.digests, plan_draws(program.staged.body))
        outs = _Seed(noise, program.places, sound).run(program.staged.body, program.leaves)
        return program.staged.results(outs)

    return seeded


def _unsound(program) -> Mapping:
    """Return the pathwise choices whose derivative would be biased; integer results have none."""
    return smoothness(program.staged.body, program.places, _without_derivative(program)).unsound


def _without_derivative(program) -> list[bool]:
    return [not jnp.issubdtype(var.aval.dtype, jnp.inexact) for var in program.staged.body.outvars]


class _Seed(Interpreter):
    """Draw every choice with a key folded from the program's key, the steps of the scans around it, and its name."""

    def __init__(self, noise: KeyNoise, places, unsound: Callable[[], Mapping], location=()):
        super().__init__(location)
        self.noise, self.places, self.unsound = noise, places, unsound

    def enter(self, location, extra):
        noise = self.noise.branch() if isinstance(extra, tuple) else self.noise.enter(extra)
        return _Seed(noise, self.places, self.unsound, location)

    def jit(self, eqn, values: Sequence) -> list:
        """Walk the body in place, so that choices inside and outside share their draws."""
        inner = _Seed(self.noise, self.places, self.unsound, (*self.here, 0))
        return inner.run(jaxprs.read_call(eqn), values)

    def scan_inputs(self, scan: jaxprs.Scan):
        return self.noise.scan_inputs(self.here, scan.length)

    def special(self, eqn, values: Sequence) -> list:
        if eqn.primitive is call_p:
            return self.jit(eqn, values)
        strategy = eqn.params["strategy"]
        if strategy is None or strategy.mode not in ("path", "detached"):
            values = forbid_tangents(values, lambda place=self.places[self.here]: dropped_gradient(place))
        elif self.here in self.unsound():
            values = forbid_tangents(values, self.unsound()[self.here].error)
        params = eqn.params
        return [draw(params["spec"], params["lanes"], params["masked"], self.noise.source_at(self.here), values)]


def dropped_gradient(place: Place) -> StrategyError:
    """Build the error for a derivative that plain sampling would silently drop."""
    params, label = place.eqn.params, label_of(place)
    sound = ", ".join(sound_strategies(params["spec"].family))
    return StrategyError(
        f"A derivative reaches the parameters of {params['spec'].family} {label!r}, and plain sampling would drop it.",
        where=f"{label!r} at {params['source']}",
        expected="a gradient estimated by a strategy",
        got=f"`ppl.seed` and strategy {params['strategy'] or 'none'}",
        remedy=f"use `ppl.expect` (or `ppl.grad`) with grad= one of {sound}",
    )
