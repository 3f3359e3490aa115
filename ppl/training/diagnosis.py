"""Where a number that is not finite comes from: a program is run once more, equation by equation, and watched.

Every value that is not finite knows its origins: the equations that made such values from finite ones, or the arguments
that were not finite to begin with. Where all values are finite and a gradient is not, each equation on the way from the
parameters is differentiated by itself at the values that it meets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import keystr, tree_flatten_with_path

from ppl import jaxprs
from ppl.interpreter import Interpreter
from ppl.passes import plan_draws
from ppl.primitives import call_p, choice_p, density_p, draw
from ppl.transforms.expect import check_results, prepare
from ppl.transforms.noise import KeyNoise
from ppl.transforms.programs import label_of, stage_program

_MOST_EQUATIONS = 20_000  # A run is about to fail, and somebody waits for the reason.
_MOST_SHOWN = 3


def find_origins(f: Callable, key: Any, args: tuple, names: Sequence[str], trained: int) -> list[str]:
    """Name what first was not finite in one run of a program, with the line of the user's code.

    Args:
        f: A stochastic function of a scalar value, which may return a pair of that and something auxiliary.
        key: Key of the run, for which it draws what `ppl.expect(f)` draws.
        args: Its arguments.
        names: A name for each argument.
        trained: Number of leading leaves with respect to which derivatives are taken.

    Returns:
        At most three origins, and the first choices and densities that they made so; none where the program is too
        long, or a sum over enumerated values hides the origin.
    """
    program = stage_program(f, args)
    pair = isinstance(program.staged.out.join(range(len(program.staged.body.outvars))), tuple)
    program = prepare(program, check_results(program, pair))
    body = program.staged.body
    watch = _Watch()
    watch.arguments(program.leaves, _leaf_names(args, names), trained)
    noise = KeyNoise(key, program.digests, plan_draws(body))
    try:
        outs = _Watched(noise, program.places, watch).run(body, program.leaves)
    except _Enough:
        return []
    origins = watch.origins_of(outs[:1])
    if not origins:
        return _shown(watch.steep)
    return _shown(origins) + [f"and so {name}" for name in _shown(watch.reached)]


def _shown(names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(names))[:_MOST_SHOWN]


def _leaf_names(args, names):
    """Name the leaves of the arguments that are traced."""
    found = []
    for name, arg in zip(names, args, strict=True):
        leaves, _ = tree_flatten_with_path(arg)
        found += [f"{name}{keystr(path)}" for path, leaf in leaves if jaxprs.is_traced_leaf(leaf)]
    return found


class _Enough(Exception):
    """The program is too long to be watched."""


class _Watch:
    """What is known of the values of a run.

    Attributes:
        steep: Equations that have a derivative that is not finite.
        reached: Choices and densities that others made so.
    """

    def __init__(self):
        self._origins: dict[int, list[str]] = {}
        self._active: set[int] = set()
        self._alive: list[Any] = []  # An id names a value only as long as the value lives.
        self._left = _MOST_EQUATIONS
        self.steep: list[str] = []
        self.reached: list[str] = []

    def arguments(self, leaves: Sequence, names: Sequence[str], trained: int) -> None:
        """Take in the arguments of the program."""
        for number, (leaf, name) in enumerate(zip(leaves, names, strict=True)):
            self._note(leaf, [] if _is_finite(leaf) else [f"{name}, which is given so"], number < trained)

    def origins_of(self, values: Sequence) -> list[str]:
        """Return the origins of all values that are not finite."""
        return [origin for value in values for origin in self._origins.get(id(value), [])]

    def derived(self, values: Sequence, sources: Sequence) -> None:
        """Let values made of others have their origins."""
        origins, active = self.origins_of(sources), any(id(source) in self._active for source in sources)
        for value in values:
            self._note(value, [] if _is_finite(value) else origins, active)

    def equation(self, name: Callable[[], str], is_term: bool, function: Callable, values: Sequence, outs: Sequence):
        """Take in the results of an equation, a choice or density (`is_term`) or any other."""
        self._left -= 1
        if self._left < 0:
            raise _Enough
        self.derived(outs, values)
        if self.origins_of(values):
            if is_term and not all(map(_is_finite, outs)):
                self.reached.append(name())
            return
        if not all(map(_is_finite, outs)):
            for out in outs:
                self._origins[id(out)] = [name()]
        elif any(id(value) in self._active for value in values) and _is_steep(function, values, outs):
            self.steep.append(f"the derivative of {name()}")

    def _note(self, value, origins, active):
        self._alive.append(value)
        if origins:
            self._origins[id(value)] = list(dict.fromkeys(origins))
        if active and jnp.issubdtype(jnp.result_type(value), jnp.inexact):
            self._active.add(id(value))


def _is_finite(value) -> bool:
    return not jnp.issubdtype(jnp.result_type(value), jnp.inexact) or bool(jnp.all(jnp.isfinite(value)))


def _is_steep(function, values, outs) -> bool:
    """Tell whether some derivative of an equation is not finite."""
    varied = [i for i, value in enumerate(values) if jnp.issubdtype(jnp.result_type(value), jnp.inexact)]

    def of_varied(*inner):
        args = list(values)
        for i, value in zip(varied, inner, strict=True):
            args[i] = value
        return [out for out in function(args) if jnp.issubdtype(jnp.result_type(out), jnp.inexact)]

    smooth, pull = jax.vjp(of_varied, *[values[i] for i in varied])
    return bool(smooth) and not all(map(_is_finite, pull([jnp.ones_like(out) for out in smooth])))


class _Watched(Interpreter):
    """Run a program on given numbers; loops step by step, of a conditional the branch that is taken."""

    def __init__(self, noise: KeyNoise, places, watch: _Watch, location=(), prefix: tuple[str, ...] = ()):
        super().__init__(location)
        self.noise, self.places, self.watch, self.prefix = noise, places, watch, prefix

    def _inside(self, number: int, noise: KeyNoise, prefix: tuple[str, ...] = ()) -> _Watched:
        return _Watched(noise, self.places, self.watch, (*self.here, number), (*self.prefix, *prefix))

    def equation(self, eqn, values: Sequence) -> list:
        """Evaluate one equation, and note what it makes."""
        if eqn.primitive in (jaxprs.jit_p, jaxprs.remat_p):
            noise = self.noise if eqn.primitive is jaxprs.jit_p else self.noise.branch()
            return self._inside(0, noise).run(jaxprs.read_call(eqn), values)
        if eqn.primitive is call_p:
            return self._inside(0, self.noise, eqn.params["address"]).run(jaxprs.read_call(eqn), values)
        if eqn.primitive is jaxprs.cond_p:
            number = int(jnp.clip(values[0], 0, len(branches := jaxprs.read_branches(eqn)) - 1))
            return self._inside(number, self.noise.branch()).run(branches[number], values[1:])
        if eqn.primitive is jaxprs.scan_p:
            return self._scan(eqn, values)
        function = self._draw(eqn) if eqn.primitive is choice_p else lambda given: jaxprs.bind(eqn, given)
        outs = function(values)
        is_term = eqn.primitive in (choice_p, density_p)
        self.watch.equation(lambda: self._name(eqn), is_term, function, values, outs)
        return outs

    def _draw(self, eqn):
        params, source = eqn.params, self.noise.source_at(self.here)
        return lambda given: [draw(params["spec"], params["lanes"], params["masked"], source, given)]

    def _scan(self, eqn, values):
        view = jaxprs.read_scan(eqn)
        consts, carry, xs = view.split(values)
        extras, rows = self.noise.scan_inputs(self.here, view.length), {}
        for step in reversed(range(view.length)) if view.reverse else range(view.length):
            slices = [x[step] for x in xs]
            for x, row in zip(xs, slices, strict=True):
                self.watch.derived([row], [x])
            child = self._inside(0, self.noise.enter(extras[step]))
            carry, rows[step] = view.split_out(child.run(view.body, [*consts, *carry, *slices]))
        ys = [jnp.stack(column) for column in zip(*(rows[step] for step in sorted(rows)), strict=True)]
        for y, column in zip(ys, zip(*rows.values(), strict=True), strict=True):
            self.watch.derived([y], column)
        return [*carry, *ys]

    def _name(self, eqn) -> str:
        """Name an equation as the reports do, with the line of the user's code."""
        params = eqn.params
        if eqn.primitive is choice_p:
            return f'the value of choice "{label_of(self.places[self.here])}" at {params["source"]}'
        name = f"`{eqn.primitive.name}`"
        if eqn.primitive is density_p:
            name = f'log p("{"/".join([*self.prefix, params["label"]])}")'
        steps = [str(int(step)) for step in self.noise.steps]
        source = jaxprs.user_line_of(eqn)
        return (
            name + (f" at {source}" if source else "") + (f" in step {', '.join(steps)} of its loop" if steps else "")
        )
