"""Which operations are continuous in their operands: primitives of JAX by name.

An operation that is in no table counts as discontinuous: a new primitive of JAX costs a refusal, never a bias. A result
that is not of inexact type (a comparison, an index, a rounding to integers) jumps wherever it changes.
"""

from __future__ import annotations

import math

from ppl.analysis.smoothness.frames import Frame, is_inexact
from ppl.analysis.smoothness.ranges import interval_of

CONTINUOUS = frozenset(
    """
    abs acos acosh add add_any asin asinh atan atanh all_gather all_to_all assume_continuous bessel_i0e bessel_i1e
    jump_guard broadcast_in_dim cbrt cholesky clamp complex concatenate conj conv_general_dilated convert_element_type
    copy copy_p cos cosh cummax cummin cumlogsumexp cumprod cumsum custom_linear_solve dot_general dynamic_slice
    dynamic_update_slice erf erf_inv erfc exp exp2 expand_dims expm1 fft gather householder_product igamma
    igammac imag log1p log logistic lgamma max min mul neg optimization_barrier pad pmax pmean pmin ppermute psum
    psum_invariant pvary random_gamma random_gamma_grad ragged_dot ragged_dot_general real reduce_max reduce_min
    reduce_precision reduce_prod reduce_sum reduce_window_max reduce_window_min reduce_window_sum
    regularized_incomplete_beta reshape rev scatter scatter-add scatter_add scatter_mul scatter-mul scatter-sub
    scatter_sub select_n sharding_constraint sin sinh slice split sqrt square squeeze stop_gradient sub tanh transpose
    tie triangular_solve tridiagonal_solve device_put unstack stack pbroadcast reshard mesh_cast layout_constraint
    name
    """.split()
)
"""Continuous wherever they are finite; `select_n` and indices in their inexact operands."""

_JUMPS = {
    **dict.fromkeys(("sign", "floor", "ceil", "round"), "it jumps"),
    "nextafter": "it jumps from one float to the next",
    "rem": "the remainder jumps at multiples of the divisor",
    "atan2": "the angle jumps behind the origin",
    "tan": "it jumps at its poles",
}
_CUTS = frozenset("log sqrt pow acos asin atanh acosh cbrt rsqrt log1p asinh atan".split())


def why_discontinuous(frame: Frame, eqn) -> tuple[str, list[int]] | None:
    """Say why an equation is not continuous in its inexact operands, and in which; None if it is."""
    name = eqn.primitive.name
    everywhere = list(range(len(eqn.invars)))
    if name == "sort":
        return _sort(eqn)
    if _is_constant(frame, eqn, name):
        return None
    if name in ("top_k", "approx_top_k"):
        return None  # Only its values are inexact; indices are treated by the caller.
    if not any(is_inexact(var) for var in eqn.outvars):
        return _to_discrete(eqn, everywhere)
    if name in _JUMPS and not (name == "atan2" and _half_plane(frame, eqn)):
        return _JUMPS[name], everywhere
    pole = _pole(frame, eqn, name)
    if pole is not None:
        return pole
    if name in _CUTS and _is_complex(eqn.invars[0]):
        return "it jumps across its branch cut", everywhere
    if name in CONTINUOUS or name in _WITH_POLES:
        return None
    return "it is not known to be continuous", everywhere


def _is_constant(frame: Frame, eqn, name: str) -> bool:
    """Tell whether an operand keeps clear of all jumps, as that of `exp(x) > 0` does."""
    if name in ("lt", "le", "gt", "ge", "eq", "ne"):
        if eqn.invars[0] is eqn.invars[1]:
            return True  # A test for NaN.
        first, second = (interval_of(frame, var) for var in eqn.invars)
        return first.before(second) or second.before(first)
    if name == "sign":
        return interval_of(frame, eqn.invars[0]).nonzero
    if name in _ROUNDINGS or (name == "convert_element_type" and _is_integer(eqn.outvars[0])):
        interval = interval_of(frame, eqn.invars[0])
        roundings = _ROUNDINGS.get(name, [math.trunc])
        return interval.bounded and all(rounding(interval.first) == rounding(interval.last) for rounding in roundings)
    return False


_ROUNDINGS = {
    "floor": [math.floor],
    "ceil": [math.ceil],
    "round": [lambda x: math.floor(x + 0.5), lambda x: math.ceil(x - 0.5)],  # However halves are rounded.
}


def _is_integer(var) -> bool:
    return getattr(var.aval.dtype, "kind", "") in ("i", "u")


def _to_discrete(eqn, everywhere: list[int]) -> tuple[str, list[int]] | None:
    name = eqn.primitive.name
    if name in ("is_finite", "shape"):
        return None
    comparisons = ("lt", "le", "gt", "ge", "eq", "ne", "lt_to", "le_to", "eq_to")
    return "the result of a comparison jumps" if name in comparisons else "its result is discrete", everywhere


def _sort(eqn) -> tuple[str, list[int]] | None:
    """Sorted keys are continuous; what is permuted along with them is not."""
    if len(eqn.invars) == 1:
        return None
    return "the order of what is sorted along with it jumps", list(range(eqn.params["num_keys"]))


def results_that_jump(eqn) -> set[int]:
    """List results that jump although others do not."""
    if eqn.primitive.name == "sort":
        return set(range(1 if len(eqn.invars) > 1 else len(eqn.invars), len(eqn.outvars)))
    return set(range(len(eqn.outvars)))


def _is_complex(var) -> bool:
    return var.aval.dtype.kind == "c"


def _half_plane(frame: Frame, eqn) -> bool:
    """Tell whether the second operand of atan2 keeps right of the cut."""
    return interval_of(frame, eqn.invars[1]).positive


_WITH_POLES = frozenset("atan2 div integer_pow pow rsqrt log digamma polygamma zeta lgamma".split())


def _pole(frame: Frame, eqn, name: str) -> tuple[str, list[int]] | None:
    """Refuse what passes through a pole: bounded functions of 1 / x jump at 0.

    Operations that are NaN beyond the pole (log, rsqrt, real powers) are refused only where the operand is known to
    come down to it, as |x| does: were it unknown and beyond, NaN would show.
    """
    if name == "div":
        bad = eqn.invars[0] is not eqn.invars[1] and not interval_of(frame, eqn.invars[1]).nonzero  # x / x is 1.
        return ("its divisor may pass through 0", [1]) if bad else None
    if name == "integer_pow" and eqn.params["y"] < 0:
        bad = not interval_of(frame, eqn.invars[0]).nonzero
        return ("what it divides by may pass through 0", [0]) if bad else None
    if name in ("digamma", "polygamma", "zeta", "lgamma"):
        at = 1 if name == "polygamma" else 0
        return None if interval_of(frame, eqn.invars[at]).low >= 0 else ("it may pass through a pole", [at])
    if name in ("log", "rsqrt") or name == "pow" and not interval_of(frame, eqn.invars[1]).low >= 0:
        base = interval_of(frame, eqn.invars[0])
        return ("its operand may come down to 0", [0]) if base.low == 0 and not base.low_open else None
    return None
