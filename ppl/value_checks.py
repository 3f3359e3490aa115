"""Checks of values inside compiled code: off by default, as each is a call back to the host."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from ppl._errors import SupportError
from ppl.family import Spec
from ppl.specs import Whole

_checking = jax.make_user_context(False)  # JAX traces again where it changes.


def checks() -> AbstractContextManager:
    """Check the parameters of every choice while programs run, also inside compiled code.

    A parameter outside its domain (a negative scale, a probability of 2, NaN) is an error that names the choice, the
    parameter and the source line, in lanes and branches that make the choice; so is a value that is not integral,
    given for a discrete choice. Without this context such parameters give NaN or -inf, at no cost; with it each
    choice calls back to the host, so it is for finding faults, not for training.

    Returns:
        A context manager. What is traced and run inside is checked; what was compiled outside stays as it is.

    Raises:
        SupportError: A parameter or value that is known when the program is traced is wrong.
        RuntimeError: One is, in compiled code (`equinox.EquinoxRuntimeError`).
        ValueError: The same, where JAX runs a program that an earlier call has compiled.

    Example:
        >>> import jax, ppl
        >>> model = ppl.gen(lambda scale: ppl.normal(0.0, scale) @ "z")
        >>> with ppl.checks():
        ...     try:
        ...         jax.jit(model.simulate)(jax.random.key(0), -1.0)
        ...     except RuntimeError as error:
        ...         print("`scale` of normal" in str(error))
        True
    """
    return _checking(True)


def checking() -> bool:
    """Tell whether checks are on."""
    return bool(_checking.value)


def checked(spec: Spec, params: Sequence[jax.Array], source: str) -> list:
    """Return the parameters, each tied to a check of its domain where checks are on."""
    if not _checking.value or isinstance(spec, Whole):
        return list(params)
    constraints = spec.numpyro(params).arg_constraints
    return [
        _check(param, constraints.get(name), f"`{name}` of {spec.family}", source)
        for name, param in zip(spec.names, params, strict=True)
    ]


def _check(param, constraint: Any, name: str, source: str):
    from numpyro.distributions.constraints import is_dependent  # Imported late, like all of NumPyro.

    wrong = jnp.isnan(param) if jnp.issubdtype(param.dtype, jnp.inexact) else jnp.zeros((), bool)
    domain = "a number"
    if constraint is not None and not is_dependent(constraint):
        valid, domain = constraint(param), str(constraint)
        wrong = wrong.any() | ~jnp.asarray(valid).all()
    error = SupportError(
        f"A parameter is outside its domain: {name}.",
        where=f"{name} at {source}",
        expected=domain,
        got="another value" if isinstance(param, jax.core.Tracer) else str(param),
        remedy="pass it through `jax.nn.softplus`, `jnp.exp` or `jax.nn.sigmoid`, or mend what it is computed from",
    )
    return require(param, wrong, error)


def require(value: jax.Array, wrong: Any, error: Exception) -> jax.Array:
    """Return a value tied to a check: raise at once where it is known to be wrong, else when the program runs."""
    wrong = jnp.asarray(wrong).any()
    if not isinstance(wrong, jax.core.Tracer):
        if wrong:
            raise error
        return value
    return check_p.bind(value, wrong, message=str(error))


# --- A check is one equation, so that in a branch under a mapped predicate it can be given the mask -----------------

check_p = Primitive("check")


def _raise_if(value, wrong, *, message):
    import equinox  # Imported late: only checks need it.

    return equinox.error_if(jnp.asarray(value), wrong, message)  # Literals of a jaxpr are no arrays to it.


@check_p.def_abstract_eval
def _check_abstract(value, wrong, *, message):
    return value


check_p.def_impl(_raise_if)
mlir.register_lowering(check_p, mlir.lower_fun(_raise_if, multiple_results=False))


def _check_jvp(primals, tangents, *, message):
    return check_p.bind(*primals, message=message), tangents[0]


ad.primitive_jvps[check_p] = _check_jvp


def _check_batch(args, dims, *, message):
    (value, wrong), (dim, wrong_dim) = args, dims
    wrong = wrong if wrong_dim is None else wrong.any(wrong_dim)
    return check_p.bind(value, wrong, message=message), dim


batching.primitive_batchers[check_p] = _check_batch
