"""`explain`: what an estimator does with every random choice and every cost, and what would be wrong with it."""

from __future__ import annotations

import collections
import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

from ppl._errors import PPLError, boundary
from ppl.analysis.dependence import NONE, Dependence
from ppl.analysis.plan import Plan, make_plan
from ppl.passes import fuse
from ppl.reports.choices import ChoiceRow, list_choices, number
from ppl.reports.grouping import grouped, pattern, span
from ppl.reports.problems import FINDINGS, NOTES, refused
from ppl.reports.tables import as_html, as_text, paragraph
from ppl.reports.terms import Term, list_terms
from ppl.transforms.expect import check_results
from ppl.transforms.grad import select
from ppl.transforms.programs import Program, name_of, require_function, stage_program, with_body


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What `explain` found; printed as text, shown as tables in a notebook.

    Attributes:
        name: Name of the program.
        choices: Its random choices, in order.
        terms: The terms of which its result is the sum, in order.
        problems: Texts of the errors that a derivative would raise.
        notes: What is worth knowing and no error.
        differentiated: The argument with respect to which derivatives are taken.
    """

    name: str
    choices: tuple[ChoiceRow, ...]
    terms: tuple[Term, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()
    differentiated: str = "argument 0"

    @property
    def ok(self) -> bool:
        """Whether there are no problems."""
        return not self.problems

    @property
    def biased(self) -> tuple[str, ...]:
        """Addresses of the choices whose strategies are biased."""
        return tuple(row.address for row in self.choices if not row.unbiased)

    @property
    def evaluations(self) -> int:
        """Numbers computed for terms that enumerated choices are summed over: elements x steps x joint values."""
        return sum(term.evaluations for term in self.terms if term.states > 1)

    @property
    def summary(self) -> str:
        """What it costs, in one line."""
        return _summary(self)

    def __str__(self) -> str:
        parts = [f"{self.name}: the value and its derivatives with respect to {self.differentiated}"]
        for title, table in _tables(self):
            parts += [title, as_text(*table)]
        parts += _problem_lines(self.problems)
        parts += [f"Note: {note}" for note in self.notes]
        return "\n".join([*parts, f"Summary: {self.summary}"])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        parts = [paragraph(f"{self.name}: the value and its derivatives with respect to {self.differentiated}", "b")]
        for title, table in _tables(self):
            parts += [paragraph(title), as_html(*table)]
        parts += [paragraph("\n".join(_problem_lines(self.problems)), "pre")] if self.problems else []
        parts += [paragraph(f"Note: {note}") for note in self.notes]
        return f"<div>{''.join(parts)}{paragraph(f'Summary: {self.summary}')}</div>"


@boundary
def explain(
    function: Callable, argnums: int | tuple[int, ...] = 0, has_aux: bool = False
) -> Callable[..., Explanation]:
    """Return a function of `*args` that says what `ppl.grad` does with a program, and what would be wrong with it.

    The program is traced, and so is its derivative; neither is run. What `ppl.grad` would refuse is a problem in the
    report: it is not raised.

    Args:
        function: A stochastic function, or a generative one.
        argnums: Which argument (or arguments) would be differentiated.
        has_aux: Whether the function returns `(value, aux)`.

    Returns:
        A function that returns an [`Explanation`][ppl.reports.Explanation].

    Example:
        >>> import ppl
        >>> def cost(p):
        ...     heads = ppl.bernoulli(p, grad=ppl.enum()).sample()
        ...     return (heads - 0.45) ** 2
        >>> report = ppl.explain(cost)(0.3)
        >>> report.ok, report.choices[0].handling, report.evaluations
        (True, 'summed over 2 values', 2)
    """
    require_function(function, "explain")

    @functools.wraps(function, updated=())
    @boundary
    def explained(*args: Any) -> Explanation:
        shown = f"argument {argnums}" if isinstance(argnums, int) else f"arguments {', '.join(map(str, argnums))}"
        try:
            program = stage_program(function, args)
        except PPLError as error:
            return Explanation(name_of(function), (), (), (str(error),), (), shown)
        return _explain_program(program, function, args, argnums, has_aux, shown)

    del explained.__wrapped__
    return explained


def _explain_program(program: Program, function, args, argnums, has_aux: bool, shown: str) -> Explanation:
    problems, notes = [], []
    aux = [False] * len(program.staged.body.outvars)
    try:
        aux = check_results(program, has_aux)
    except PPLError as error:
        problems.append(str(error))
    try:
        selected = select(function, args, argnums)
    except PPLError as error:
        selected = None
        notes.append(f"no derivative is looked at: {error.what}")
    program = with_body(program, fuse(program.staged.body))
    plan = make_plan(program.staged.body, program.places, aux)
    if not problems:
        problems += refused(program, aux, selected)
    problems += [text for finding in FINDINGS for text in finding(program, plan)]
    notes += [text for finding in NOTES for text in finding(program, plan)]
    return Explanation(
        program.name,
        tuple(list_choices(plan)),
        tuple(list_terms(plan, _full_flow(plan), aux)),
        tuple(dict.fromkeys(problems)),
        tuple(notes),
        shown,
    )


def _full_flow(plan: Plan):
    """Follow every choice through a program, also those that are never charged."""
    modes = {location: plan.modes.get(location, "path") for location in plan.places}
    return Dependence(modes).flow(plan.body, [NONE] * len(plan.body.invars))


# --- Text --------------------------------------------------------------------------------------------------------


def _tables(report: Explanation):
    if report.choices:
        yield "Random choices", (["address", "distribution", "axes", "strategy", "handling"], _choice_cells(report))
    if report.terms:
        yield "Cost terms", (["term", "shape", "where", "charged to"], _term_cells(report))


def _choice_cells(report: Explanation) -> list[list[str]]:
    found = []
    for rows in choice_groups(report.choices):
        first = rows[0]
        strategy = (first.strategy or "none") + ("" if first.unbiased else " (biased)")
        count = f" ({len(rows)} choices)" if len(rows) > 1 else ""
        found.append(
            [
                span([row.address for row in rows]) + count,
                f"{first.distribution}{_shape(first.shape)}",
                ", ".join(axis for axis in first.axes if not axis.startswith("batch")),
                strategy,
                first.handling,
            ]
        )
    return found


def choice_groups(rows: Sequence[ChoiceRow]) -> list[list[ChoiceRow]]:
    """Put choices together that differ in the numbers of their addresses alone."""

    def signature(row: ChoiceRow):
        rest = (row.distribution, row.shape, row.axes, row.strategy, row.unbiased, row.handling, row.evaluations)
        return pattern(row.address), *rest

    return grouped(rows, signature)


def _term_cells(report: Explanation) -> list[list[str]]:
    found = []
    for rows in grouped(report.terms, _term_signature):
        first = rows[0]
        count = f" ({len(rows)} terms)" if len(rows) > 1 else ""
        steps = "".join(f"{length} steps of " for length in first.steps)
        shape = f"{steps}{first.shape}" if first.steps or first.shape else ""
        charged = _charged(rows) + (", one each" if _differ(rows) else "")
        found.append([span([row.what for row in rows]) + count, shape, _where(rows), charged])
    return found


def _differ(rows: Sequence[Term]) -> bool:
    """Tell whether terms that are shown as one are charged to different choices."""
    return len({tuple(charge.location for charge in row.charges) for row in rows}) > 1


def _term_signature(row: Term):
    charges = tuple((pattern(charge.address), charge.how, charge.by) for charge in row.charges)
    others = tuple(map(pattern, row.through)), tuple(map(pattern, row.left_out))
    return pattern(row.what), row.shape, row.steps, charges, others, row.states


def _charged(rows: Sequence[Term]) -> str:
    first = rows[0]
    if not first.charges:
        through = [f"through {_listed(first.through)}"] if first.through else []
        through += [f"no strategy: {_listed(first.left_out)}"] if first.left_out else []
        return "not charged: " + ("; ".join(through) or "no randomness in it")
    columns = zip(*(row.charges for row in rows), strict=True)
    texts = []
    for column in columns:
        charge = column[0]
        how = [charge.how] if charge.how else []
        if charge.by == "enumerate":
            how = ["summed", *how]
        texts.append(span([c.address for c in column]) + (f" ({', '.join(how)})" if how else ""))
    if len(texts) > _MOST:
        texts = [f"{texts[0]} ... {texts[-1]} ({len(texts)} choices)"]
    return "; ".join(texts)


_MOST = 6


def _listed(names: Sequence[str]) -> str:
    names = list(names)
    if len(names) > _MOST:
        names = [*names[: _MOST - 2], "...", names[-1]]
    return ", ".join(names)


def _where(rows: Sequence[Term]) -> str:
    sources = [row.source for row in rows if row.source]
    if not sources:
        return ""
    files = [_short(source) for source in dict.fromkeys(sources)]
    return files[0] if len(files) == 1 else f"{files[0]} ... {files[-1].rpartition(':')[2]}"


def _short(source: str) -> str:
    return os.path.basename(source)


def _shape(shape: tuple[int, ...]) -> str:
    return f" of shape {shape}" if shape else ""


def _problem_lines(problems: Sequence[str]) -> list[str]:
    if not problems:
        return []
    return [f"Problems: {len(problems)}", *("  - " + problem.replace("\n", "\n  ") for problem in problems)]


def _summary(report: Explanation) -> str:
    kinds = collections.Counter(row.strategy or "without a strategy" for row in report.choices)
    parts = [_plural(len(report.choices), "choice") + _bracket(kinds), _plural(len(report.terms), "cost term")]
    if report.evaluations:
        parts.append(f"{number(report.evaluations)} evaluations of terms in sums over values")
    runs = [row for row in report.choices if row.evaluations is None]
    further = sum(row.evaluations or 0 for row in report.choices if "other values" in row.handling)
    if further or runs:
        parts.append(f"{'at least ' if runs else ''}{_plural(further, 'further run')} of the program")
    if report.biased:
        parts.append(f"biased by {', '.join(report.biased)}")
    parts.append(_plural(len(report.problems), "problem") if report.problems else "no problems")
    return "; ".join(parts)


def _bracket(kinds) -> str:
    return f" ({', '.join(f'{count} {kind}' for kind, count in kinds.items())})" if kinds else ""


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
