"""The cost terms of an objective: what is read as it is (raw), and what is summed, term by term, as a surrogate.

Walking back from the results through linear operations, into jit, nested calls and the accumulators and outputs of
scans, ends at the terms: the results of nonlinear operations. A term is charged with the sites that it depends on; the
linear operations above it act on the charged terms. Everything that a term is computed from is needed as it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ppl import jaxprs
from ppl.analysis.dependence import Flow, linear_operands
from ppl.primitives import call_p


@dataclasses.dataclass
class Terms:
    """What is needed of each variable of a body.

    Attributes:
        raw: Variables needed as they are (None: all).
        surrogate: Variables needed as a sum of charged terms.
        charged: Variables that are terms.
        inner: The same for the bodies looked into.
        out_raw: Whether each result is needed as it is.
        out_surrogate: Whether each result is needed as a surrogate.
    """

    raw: set | None = dataclasses.field(default_factory=set)
    surrogate: set = dataclasses.field(default_factory=set)
    charged: set = dataclasses.field(default_factory=set)
    inner: dict[tuple[int, int], Terms] = dataclasses.field(default_factory=dict)
    out_raw: list[bool] = dataclasses.field(default_factory=list)
    out_surrogate: list[bool] = dataclasses.field(default_factory=list)

    def need_raw(self, var) -> None:
        """Need a variable as it is."""
        if self.raw is not None:
            self.raw.add(var)

    def needs_raw(self, var) -> bool:
        """Tell whether a variable is needed as it is."""
        return self.raw is None or var in self.raw

    def needs(self, eqn) -> bool:
        """Tell whether a result of an equation is needed in any way."""
        return any(self.needs_raw(var) or var in self.surrogate for var in eqn.outvars)


def everything(body: jaxprs.Body, flow: Flow) -> Terms:
    """Need every variable as it is, also in the bodies inside."""
    terms = Terms(raw=None, out_raw=[True] * len(body.outvars), out_surrogate=[False] * len(body.outvars))
    for (index, number), inner in flow.inner.items():
        terms.inner[index, number] = everything(jaxprs.read_body(body.eqns[index], number), inner)
    return terms


def find_terms(
    body: jaxprs.Body, flow: Flow, out_raw: Sequence[bool], out_surrogate: Sequence[bool], open_args: bool = False
) -> Terms:
    """Find the cost terms of a body's results; with `open_args`, surrogates of arguments come from the caller."""
    terms = Terms(out_raw=list(out_raw), out_surrogate=list(out_surrogate))
    for var, raw, surrogate in zip(body.outvars, out_raw, out_surrogate, strict=True):
        _want(terms, flow, var, raw, surrogate)
    for index in range(len(body.eqns) - 1, -1, -1):
        eqn = body.eqns[index]
        if any(terms.needs_raw(var) or var in terms.surrogate for var in eqn.outvars):
            _equation(terms, flow, index, eqn)
    for var in () if open_args else body.invars:
        if var in terms.surrogate and flow.whole[var]:
            _charge(terms, var)
    return terms


def _want(terms: Terms, flow: Flow, var, raw: bool, surrogate: bool) -> None:
    if isinstance(var, jaxprs.Literal):
        return
    if raw or (surrogate and not flow.of(var)):
        terms.need_raw(var)
    if surrogate and flow.of(var):
        terms.surrogate.add(var)


def _charge(terms: Terms, var) -> None:
    terms.charged.add(var)
    terms.need_raw(var)


def _equation(terms: Terms, flow: Flow, index: int, eqn) -> None:
    if (index, 0) in flow.inner and eqn.primitive in (jaxprs.jit_p, call_p):
        return _call(terms, flow, index, eqn)
    if (index, 0) in flow.inner and eqn.primitive is jaxprs.scan_p:
        return _scan(terms, flow, index, eqn)
    for var in eqn.outvars:
        if var in terms.surrogate and flow.whole[var]:
            _charge(terms, var)
    linear = linear_operands(eqn, [flow.of(var) for var in eqn.invars]) or ()
    surrogate = any(var in terms.surrogate and var not in terms.charged for var in eqn.outvars)
    raw = any(var in terms.raw for var in eqn.outvars)
    for i, var in enumerate(eqn.invars):
        _want(terms, flow, var, raw or (surrogate and i not in linear), surrogate and i in linear)
    for (at, number), inner in flow.inner.items():
        if at == index:  # Checkpoint and cond: their results are terms, all inside is needed as it is.
            terms.inner[at, number] = everything(jaxprs.read_body(eqn, number), inner)
    return None


def _call(terms: Terms, flow: Flow, index: int, eqn) -> None:
    body = jaxprs.read_call(eqn)
    raw = [terms.needs_raw(var) for var in eqn.outvars]
    surrogate = [var in terms.surrogate for var in eqn.outvars]
    inner = find_terms(body, flow.inner[index, 0], raw, surrogate, open_args=True)
    terms.inner[index, 0] = inner
    for outer, var in zip(eqn.invars, body.invars, strict=True):
        _want(terms, flow, outer, var in inner.raw, var in inner.surrogate)


def _scan(terms: Terms, flow: Flow, index: int, eqn) -> None:
    view, inner_flow = jaxprs.read_scan(eqn), flow.inner[index, 0]
    out_raw = [terms.needs_raw(var) for var in eqn.outvars]
    out_surrogate = [var in terms.surrogate for var in eqn.outvars]
    _, carry_vars, _ = view.split(view.body.invars)
    while True:  # A carry that is needed inside is needed from the step before.
        inner = find_terms(view.body, inner_flow, out_raw, out_surrogate)
        raw = [old or var in inner.raw for old, var in zip(out_raw[: view.num_carry], carry_vars, strict=True)]
        surrogate = [
            old or var in inner.surrogate for old, var in zip(out_surrogate[: view.num_carry], carry_vars, strict=True)
        ]
        grown = raw + out_raw[view.num_carry :], surrogate + out_surrogate[view.num_carry :]
        if grown == (out_raw, out_surrogate):
            break
        out_raw, out_surrogate = grown
    terms.inner[index, 0] = inner
    consts, init, xs = view.split(eqn.invars)
    const_vars, _, x_vars = view.split(view.body.invars)
    for outer, var in zip([*consts, *xs], [*const_vars, *x_vars], strict=True):
        _want(terms, flow, outer, var in inner.raw, False)
    for outer, raw, surrogate in zip(init, out_raw[: view.num_carry], out_surrogate[: view.num_carry], strict=True):
        _want(terms, flow, outer, raw, surrogate)
