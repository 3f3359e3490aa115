"""Floating-point operations of one equation, by rules: what `ppl.reports.costs` adds up.

Rules count what the operation asks for, not what a machine does: one for each element of an elementwise result,
2 M N K for a matrix product, the size of the operand for a reduction, and nothing for what only moves data. Integer and
boolean arithmetic counts like floating point, as it does in XLA's own analysis.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ppl.hashed import is_read_off

RANDOM_WEIGHT = 60
"""Operations for 32 random bits: Threefry-2x32 in 20 rounds of 5 and 5 key injections of 3 makes two words
(Salmon et al. 2011, section 3.3), which is 115 in all."""

TRANSCENDENTAL = frozenset(
    "acos acosh asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt cos cosh digamma erf erf_inv erfc exp exp2 "
    "expm1 igamma igamma_grad_a igammac lgamma log log1p logistic polygamma pow regularized_incomplete_beta rsqrt sin "
    "sinh sqrt tan tanh zeta".split()
)
"""Functions that count as one operation for each element of the result, and are also counted apart."""

_ARITHMETIC = frozenset(
    "abs add add_any and ceil clamp clz complex conj div eq eq_to floor ge gt imag integer_pow is_finite le le_to lt "
    "lt_to max min mul ne neg nextafter not or population_count real reduce_precision rem round select_n shift_left "
    "shift_right_arithmetic shift_right_logical sign square sub xor".split()
)
_FREE = frozenset(
    "bitcast_convert_type copy copy_p device_put name optimization_barrier random_unwrap random_wrap reshape "
    "sharding_constraint split squeeze stop_gradient".split()
)
_MOVES = frozenset(
    "broadcast_in_dim concatenate convert_element_type dynamic_slice dynamic_update_slice empty2 gather iota pad "
    "rev scatter slice transpose".split()
)
_OF_OPERAND = frozenset(
    "argmax argmin cumlogsumexp cummax cummin cumprod cumsum reduce reduce_and reduce_max reduce_min reduce_or "
    "reduce_prod reduce_sum reduce_xor".split()
)
_OF_UPDATES = frozenset("scatter-add scatter-max scatter-min scatter-mul".split())


def _out(eqn) -> int:
    return sum(var.aval.size for var in eqn.outvars)


def _dot_general(eqn) -> int:
    """Count 2 M N K: each element of the result is a sum of K products."""
    (contracted, _), _ = eqn.params["dimension_numbers"]
    return 2 * _out(eqn) * math.prod(eqn.invars[0].aval.shape[axis] for axis in contracted)


def _convolution(eqn) -> int:
    kernel, spec = eqn.invars[1].aval, eqn.params["dimension_numbers"].rhs_spec
    return 2 * _out(eqn) * (kernel.size // max(kernel.shape[spec[0]], 1))


def _sort(eqn) -> int:
    aval = eqn.invars[0].aval
    length = aval.shape[eqn.params["dimension"]] if eqn.primitive.name == "sort" else aval.shape[-1]
    return aval.size * math.ceil(math.log2(max(length, 1)))


def _window(eqn) -> int:
    return _out(eqn) * math.prod(eqn.params["window_dimensions"])


def _fft(eqn) -> int:
    length = math.prod(eqn.params["fft_lengths"])
    return 5 * max(eqn.invars[0].aval.size, _out(eqn)) * math.ceil(math.log2(max(length, 1)))


def _cubic(numerator: int, denominator: int = 1) -> Callable[[Any], int]:
    """Count c m n min(m, n) for the factorisation of each m x n matrix of the operand."""

    def rule(eqn) -> int:
        aval = eqn.invars[0].aval
        return numerator * aval.size * min(aval.shape[-2:]) // denominator

    return rule


def _triangular_solve(eqn) -> int:
    return eqn.invars[1].aval.size * eqn.invars[0].aval.shape[-1]


def random_words(eqn) -> int:
    """Return the number of 32-bit words that the generator makes."""
    if eqn.primitive.name == "random_bits":
        if is_read_off(eqn):
            return 0
        return _out(eqn) * max(eqn.params["bit_width"] // 32, 1)
    return 2 * _out(eqn) if eqn.primitive.name in ("random_split", "random_fold_in") else _out(eqn)


GENERATORS = frozenset(("random_bits", "random_split", "random_fold_in", "threefry2x32"))
PRODUCTS: dict[str, Callable[[Any], int]] = {"dot_general": _dot_general, "conv_general_dilated": _convolution}
_RULES: dict[str, Callable[[Any], int]] = {
    **PRODUCTS,
    **dict.fromkeys(_FREE | _MOVES, lambda eqn: 0),
    **dict.fromkeys(TRANSCENDENTAL | _ARITHMETIC, _out),
    **dict.fromkeys(_OF_OPERAND, lambda eqn: eqn.invars[0].aval.size),
    **dict.fromkeys(_OF_UPDATES, lambda eqn: eqn.invars[2].aval.size),
    **dict.fromkeys(GENERATORS, lambda eqn: RANDOM_WEIGHT * random_words(eqn)),
    **dict.fromkeys(("sort", "top_k"), _sort),
    **dict.fromkeys(("reduce_window_sum", "reduce_window_max", "reduce_window_min"), _window),
    **dict.fromkeys(("one_minus_square", "possible_product"), lambda eqn: 2 * _out(eqn)),
    "random_seed": lambda eqn: 0,
    "fft": _fft,
    "cholesky": _cubic(1, 3),
    "lu": _cubic(2, 3),
    "qr": _cubic(2),
    "geqrf": _cubic(2),
    "householder_product": _cubic(2),
    "eigh": _cubic(9),
    "svd": _cubic(22),
    "triangular_solve": _triangular_solve,
}


def has_rule(eqn) -> bool:
    """Tell whether there is a rule for this operation."""
    return eqn.primitive.name in _RULES


def flops_of(eqn) -> int:
    """Return the operations of an equation that has a rule."""
    return _RULES[eqn.primitive.name](eqn)


def _same_dtype(eqn) -> bool:
    return eqn.invars[0].aval.dtype == eqn.outvars[0].aval.dtype  # Only whether the type is weak changes.


def bytes_of(eqn) -> int:
    """Return the bytes of all operands and results; none where only the shape or the type changes."""
    if eqn.primitive.name in _FREE or (eqn.primitive.name == "convert_element_type" and _same_dtype(eqn)):
        return 0
    return sum(
        var.aval.size * var.aval.dtype.itemsize for var in (*eqn.invars, *eqn.outvars) if hasattr(var.aval, "size")
    )
