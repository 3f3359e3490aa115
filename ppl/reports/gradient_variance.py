"""`gradient_variance`: which choice a gradient's noise comes from, and what other strategies would give.

Everything is a mean over independent pairs of keys (A, B). With g(A) the gradient of one run, and g(A_B^i) that of a
run in which choice i alone draws from B, summed over the elements of the gradient:

- variance  V = E|g(A) - g(B)|^2 / 2;
- total share of choice i  T_i = E|g(A) - g(A_B^i)|^2 / (2 V) = E Var(g | noise of the others) / V: the part of the
  variance that would go if the noise of choice i were averaged out;
- own share of choice i  S_i = 1 - E|g(B) - g(A_B^i)|^2 / (2 V) = Var(E[g | noise of i]) / V: the part that it makes by
  itself.

These are Sobol's indices (Sobol 1993; Homma and Saltelli 1996; estimators of Jansen 1999), for several outputs those of
Gamboa, Janon, Klein and Lagnoux (2014). Sum S_i <= 1 <= sum T_i, with equality where the noises add up.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from ppl import choicemap
from ppl._errors import PPLError, boundary, user_source
from ppl.analysis.plan import make_plan
from ppl.reports.choices import ChoiceRow, list_choices, same, strategy_name
from ppl.reports.explain import choice_groups
from ppl.reports.grouping import span
from ppl.reports.runs import Bar, Estimate, Pairs, Runs, compare, shares
from ppl.reports.tables import as_html, as_text, paragraph
from ppl.strategies import Strategy, as_strategy, enum, pathwise, reinforce
from ppl.transforms.expect import check_results
from ppl.transforms.grad import Selected, select
from ppl.transforms.programs import (
    Program,
    check_key,
    collector_paused,
    label_of,
    name_of,
    require_function,
    stage_program,
)


@dataclasses.dataclass(frozen=True)
class WhatIf:
    """What another strategy for one choice (or one group) would give.

    Attributes:
        strategy: The strategy.
        variance: Variance of the gradient with it, or None where it is refused.
        ratio: That, divided by the variance now; with the same keys.
        refused: Why it cannot be used, or None.
        doubt: Why it should not be used, or None: it says that it is biased, or its mean differs.
    """

    strategy: str
    variance: Estimate | None
    ratio: Estimate | None
    refused: str | None = None
    doubt: str | None = None


@dataclasses.dataclass(frozen=True)
class Share:
    """What one choice (or one group of choices that differ in their numbers alone) adds to the variance.

    Attributes:
        address: Its path, or the family's name; of a group, the first and the last.
        strategy: Its strategy, or None.
        total: Part of the variance that would go if its noise were averaged out, T_i.
        own: Part that it makes by itself, S_i.
        alternatives: What other strategies would give.
    """

    address: str
    strategy: str | None
    total: Estimate
    own: Estimate
    alternatives: tuple[WhatIf, ...]


@dataclasses.dataclass(frozen=True)
class GradientVariance:
    """What `gradient_variance` found; printed as text, shown as tables in a notebook.

    Attributes:
        name: Name of the program.
        variance: Variance of one run of `ppl.grad(f)`, summed over the elements of the gradient.
        elementwise: The same of each element, in the structure of the argument.
        shares: One for each choice (or group), in order.
        samples: Number of pairs of runs.
    """

    name: str
    variance: Estimate
    elementwise: Any
    shares: tuple[Share, ...]
    samples: int

    def __str__(self) -> str:
        parts = [self._title()]
        for title, table in _tables(self):
            parts += [title, as_text(*table)]
        return "\n".join(parts)

    __repr__ = __str__

    def _title(self) -> str:
        dominated = self.variance.error > _MOST_ERROR * self.variance.value
        remark = ": few of them dominate, take more" if dominated else ""
        return f"{self.name}: gradient variance {self.variance} ({self.samples} pairs of runs{remark})"

    def _repr_html_(self) -> str:
        parts = [paragraph(self._title(), "b")]
        for title, table in _tables(self):
            parts += [paragraph(title), as_html(*table)]
        return f"<div>{''.join(parts)}</div>"


_MOST_ERROR = 0.2
"""Relative error of the variance beyond which the report warns."""


def _tables(report: GradientVariance):
    if report.shares:
        rows = [[row.address, row.strategy or "none", _percent(row.total), _percent(row.own)] for row in report.shares]
        yield "Where it comes from", (["address", "strategy", "total share", "own share"], rows)
    rows = [_cells(row, other) for row in report.shares for other in row.alternatives]
    if rows:
        yield "What other strategies would give", (["address", "strategy", "variance", "ratio", "remark"], rows)


def _cells(row: Share, other: WhatIf) -> list[str]:
    if other.refused is not None:
        return [row.address, other.strategy, "", "", f"refused: {other.refused}"]
    ratio = "" if other.ratio is None else str(other.ratio)
    return [row.address, other.strategy, str(other.variance), ratio, other.doubt or ""]


def _percent(estimate: Estimate) -> str:
    value, error = f"{100 * estimate.value + 0.0:.1f}".replace("-0.0", "0.0"), f"{100 * estimate.error:.1f}"
    return f"{value} %" if error == "0.0" else f"{value} ± {error} %"


@boundary
def gradient_variance(
    function: Callable,
    argnums: int | tuple[int, ...] = 0,
    alternatives: Mapping[str, Sequence] | None = None,
    show_progress: bool | None = None,
) -> Callable[..., GradientVariance]:
    """Return a function of `(key, *args, samples=1000)` that says where the noise of a gradient comes from.

    The variance of one run of `ppl.grad(f)` is estimated, each choice's share of it (Sobol's total and own index), and
    what every other strategy that applies to a choice would give in its place, with common random numbers. Choices
    that differ in the numbers of their addresses alone count as one group if they are four or more.

    Args:
        function: A stochastic function that returns a scalar.
        argnums: Which argument (or arguments), counted after the key, to differentiate.
        alternatives: Further strategies to try, by glob; those of the language are tried wherever they apply.
        show_progress: Whether to show a bar; None shows it only where stderr is a terminal.

    Returns:
        A function that returns a [`GradientVariance`][ppl.reports.GradientVariance].

    Raises:
        PPLError: Whatever `ppl.grad` raises; or there are fewer than 2 samples.
        AddressError: A glob matches no choice.

    Example:
        >>> import jax, ppl
        >>> def cost(p):
        ...     heads = ppl.bernoulli(p, grad=ppl.reinforce()).sample()
        ...     return (heads - 0.45) ** 2
        >>> report = ppl.gradient_variance(cost)(jax.random.key(0), 0.3, samples=500)
        >>> [other.strategy for other in report.shares[0].alternatives], report.shares[0].alternatives[0].variance.value
        (['enum'], 0.0)
    """
    require_function(function, "gradient_variance")

    @functools.wraps(function, updated=())
    @boundary
    def measured(key: jax.Array | None = None, *args: Any, samples: int = 1000) -> GradientVariance:
        check_key(key, f"gradient_variance({name_of(function)})")
        if samples < 2:
            raise PPLError("A variance needs samples.", where=user_source(), expected="at least 2", got=str(samples))
        with collector_paused():
            program = stage_program(function, args)
            selected = select(function, args, argnums)
            check_results(program, has_aux=False)
            _check_scalar(program)
            return _measure(program, selected, key, samples, alternatives or {}, show_progress)

    del measured.__wrapped__
    return measured


def _check_scalar(program: Program) -> None:
    shapes = [tuple(var.aval.shape) for var in program.staged.body.outvars]
    if shapes != [()]:
        raise PPLError(
            f"`{program.name}` does not return a scalar, which a gradient needs.",
            got=", ".join(map(str, shapes)),
            remedy="sum or average it",
        )


def _measure(program: Program, selected: Selected, key, samples: int, alternatives, show_progress) -> GradientVariance:
    groups = choice_groups(list_choices(make_plan(program.staged.body, program.places, [False])))
    tried = _with_alternatives(program, groups, alternatives)
    noisy = {row.location: i for i, group in enumerate(groups) for row in group}
    runs = Runs(program, selected)
    pairs = Pairs.of(key, samples, runs.size * (2 + len(groups)))
    with Bar(len(pairs.chunks) * (1 + sum(map(len, tried))), show_progress) as bar:
        now, found = shares(runs, noisy, len(groups), pairs, bar)
        rows = [
            Share(
                span([row.address for row in group]),
                group[0].strategy,
                *found[i],
                tuple(_what_if(runs, group, strategy, now, pairs, bar) for strategy in tried[i]),
            )
            for i, group in enumerate(groups)
        ]
    return GradientVariance(program.name, now.variance, runs.restore(now.elementwise), tuple(rows), pairs.count)


def _what_if(runs: Runs, group: Sequence[ChoiceRow], strategy: Strategy, now, pairs: Pairs, bar: Bar) -> WhatIf:
    reason = strategy.check(runs.program.places[group[0].location].eqn.params["spec"].family)
    try:
        if reason:
            bar.advance(len(pairs.chunks))
            return WhatIf(strategy_name(strategy), None, None, reason)
        moments = runs.with_strategy([row.location for row in group], strategy).moments(pairs, bar)
    except PPLError as error:
        bar.advance(len(pairs.chunks))
        return WhatIf(strategy_name(strategy), None, None, error.what)
    ratio, z = compare(moments, now)
    doubt = None if strategy.unbiased else "biased"
    if z > _MOST_DEVIATION:
        doubt = f"biased here: its mean differs by {z:.0f} standard errors"
    return WhatIf(strategy_name(strategy), moments.variance, ratio, None, doubt)


_MOST_DEVIATION = 6.0


def _with_alternatives(program: Program, groups, alternatives: Mapping[str, Sequence]) -> list[list[Strategy]]:
    """List the strategies to try for each group: those of the language that apply, and the caller's."""
    labels = {tuple(label_of(place).split("/")) for place in program.places.values()}
    given = {glob: set(choicemap.require_match(glob, labels)) for glob in alternatives}
    found = []
    for group in groups:
        place = program.places[group[0].location]
        current, family = place.eqn.params["strategy"], place.eqn.params["spec"].family
        own = [strategy for strategy in (pathwise(), enum(), reinforce()) if not strategy.check(family)]
        own = own if place.eqn.invars else []
        for glob, strategies in alternatives.items():
            if tuple(group[0].address.split("/")) in given[glob]:
                own += [as_strategy(strategy) for strategy in strategies]
        found.append(_distinct(own, current))
    return found


def _distinct(strategies: Sequence[Strategy], current: Strategy | None) -> list[Strategy]:
    found: list[Strategy] = []
    for strategy in strategies:
        if not any(same(strategy, other) for other in [current, *found]):
            found.append(strategy)
    return found
