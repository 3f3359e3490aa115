"""Whose selections and roundings are taken on trust.

JAX's own functions select inside without a jump: `elu`, `logsumexp`, `interp`, `quantile`. They are trusted by the file
that they are defined in, all but those that exist to compare, select or round (`JUMPING`): these do what their caller
says. What matters is the outermost function of JAX that the user's line calls: `jnp.where` inside of `elu` is JAX's
business, `jnp.where` in a model is the user's. Operators (`x > 0`) and functions of `jax.lax` are the user's.

Solvers and activations of a few installed packages are trusted by the file of the innermost frame outside of JAX: a
function of the user's that they call back is the user's again.
"""

from __future__ import annotations

import functools
import os
import sys

import jax

from ppl import jaxprs

_JAX = os.path.join(os.path.dirname(jax.__file__), "")
_LIBRARIES = tuple(os.path.join(_JAX, "_src", part, "") for part in ("nn", "numpy", "scipy", "ops", "image", "lax"))
_LIBRARY_FILES = (os.path.join(_JAX, "_src", "random.py"), os.path.join(_JAX, "experimental", ""))
_MACHINERY = (
    os.path.join(_JAX, "_src", "lax", "control_flow", ""),
    *(os.path.join(_JAX, "_src", "numpy", file) for file in ("vectorize.py", "array_methods.py", "ufunc_api.py")),
)
_LAX = os.path.join(_JAX, "_src", "lax", "")

JUMPING = frozenset(
    """
    where select piecewise choose compress extract place put putmask take_along_axis fill_diagonal
    floor ceil round round_ around rint trunc fix sign signbit copysign nextafter heaviside frexp modf
    mod remainder fmod divmod floor_divide unwrap angle arctan2 atan2 astype asarray array
    argmax argmin nanargmax nanargmin argsort lexsort argpartition searchsorted digitize bincount
    histogram histogram2d histogramdd histogram_bin_edges nonzero flatnonzero argwhere count_nonzero
    unique unique_all unique_counts unique_inverse unique_values union1d intersect1d setdiff1d setxor1d isin
    greater greater_equal less less_equal equal not_equal isclose allclose array_equal array_equiv
    any all logical_and logical_or logical_xor logical_not bitwise_and bitwise_or bitwise_xor sort_complex
    one_hot categorical choice bernoulli binomial poisson geometric multinomial randint rademacher permutation
    top_k matrix_rank qr sort_key_val ScalarMeta
    """.split()
)
"""Functions of JAX that jump by purpose: their caller answers for them."""

HARMLESS = frozenset("isnan isfinite isinf isposinf isneginf isreal iscomplex".split())
"""Tests whose result is the same wherever a program makes sense."""

_SOLVERS = ("diffrax", "lineax", "optimistix", "numpyro", "optax")
"""Packages whose functions are continuous in their arguments, whatever they compare inside; so are the loops that they
share, of `equinox.internal`."""

_SELECTING = ("equinox",)
"""Packages whose comparisons are trusted (`PReLU`, adaptive pooling), but not the roundings that they are handed."""

_OWN_SUMS = tuple(
    os.path.join(os.path.dirname(sys.modules["ppl"].__file__), "summation", f"{name}.py")
    for name in ("logs", "scaled", "tree", "matrices")
)
"""Our own sums of exponentials, which select for the sake of what is -inf, and take out the largest."""

_COMPARISONS = frozenset("lt le gt ge eq ne select_n is_finite while cond".split())


@functools.lru_cache(maxsize=4096)
def _is_jax(file: str) -> bool:
    return file.startswith(_JAX)


@functools.lru_cache(maxsize=4096)
def _is_library(file: str) -> bool:
    return file.startswith((*_LIBRARIES, *_LIBRARY_FILES)) and not file.startswith(_MACHINERY)


@functools.lru_cache(maxsize=4096)
def _package(file: str) -> str | None:
    if file in _OWN_SUMS:
        return "ppl.summation"
    for name in (*_SOLVERS, *_SELECTING):
        root = getattr(sys.modules.get(name), "__file__", None)
        if root and file.startswith(os.path.join(os.path.dirname(root), "")):
            return "equinox.internal" if file.startswith(os.path.join(os.path.dirname(root), "internal", "")) else name
    return None


def called_function(eqn) -> tuple[str, str] | None:
    """Return name and file of the outermost function of JAX that the caller's line has called, if there is one."""
    found, bodies = None, jaxprs.inner_bodies(eqn)
    name, file = jaxprs.function_of(bodies[0]) if bodies else ("", "")
    if file and not _is_jax(file):
        return None  # A jitted function of the user's, perhaps called back.
    for frame in jaxprs.frames_of(eqn):
        if not _is_jax(frame.file):
            break
        if _is_library(frame.file):
            found = (frame.function.split(".")[0], frame.file)
    if found is None and _is_library(file):
        return eqn.params.get("name", name), file
    return found


def _caller(eqn) -> str | None:
    """Return the package of the innermost frame outside of JAX, if it is one of those known here."""
    for frame in jaxprs.frames_of(eqn):
        if not _is_jax(frame.file):
            return _package(frame.file)
    return None


def is_trusted(eqn, packages: bool = True) -> bool:
    """Tell whether an equation that jumps is known to do no harm where it stands.

    Integers that a function of JAX returns are its caller's business, and no body shows where that function ends: they
    are trusted inside of a jitted function only.
    """
    called = called_function(eqn)
    if called is not None and called[0].lstrip("_") not in JUMPING and not called[1].startswith(_LAX):
        return bool(jaxprs.inner_bodies(eqn)) or not any(_is_integer(var) for var in eqn.outvars)
    package = _caller(eqn) if packages else None
    if package in _SELECTING:
        return eqn.primitive.name in _COMPARISONS and (called is None or called[0].lstrip("_") == "where")
    return package is not None


def _is_integer(var) -> bool:
    return getattr(var.aval.dtype, "kind", "") in ("i", "u")


def is_trusted_detachment(eqn) -> bool:
    """Tell whether JAX itself detaches a value, as `logsumexp` does with the largest one."""
    called = called_function(eqn)
    return (called is not None and not called[1].startswith(_LAX)) or _caller(eqn) == "ppl.summation"


def is_harmless(eqn) -> bool:
    """Tell whether an equation is one of JAX's tests for numbers that are none."""
    called = called_function(eqn)
    return called is not None and called[0] in HARMLESS


def display_name(eqn) -> str:
    """Return the name by which the user knows an operation."""
    called = called_function(eqn)
    return called[0].lstrip("_") if called is not None else eqn.params.get("name") or eqn.primitive.name
