"""Checks of values inside compiled code: off by default, as each is a call back to the host."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp

from ppl._errors import SupportError
from ppl.family import Spec
from ppl.specs import Whole

_checking = jax.make_user_context(False)  # JAX traces again where it changes.


def checks() -> AbstractContextManager:
    """Check the parameters of every choice while programs run, also inside compiled code.

    A parameter outside its domain (a negative scale, a probability of 2, NaN) is an error that names the choice, the
    parameter and the source line. Without this context such parameters give NaN or -inf, at no cost; with it each
    choice calls back to the host, so it is for finding faults, not for training.

    Returns:
        A context manager. What is traced and run inside is checked; what was compiled outside stays as it is.

    Raises:
        SupportError: A parameter that is known when the program is traced is outside its domain.
        RuntimeError: One is, in compiled code (`equinox.EquinoxRuntimeError`).

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
    if not isinstance(wrong, jax.core.Tracer):
        if wrong.any():
            raise error
        return param
    import equinox  # Imported late: only checks need it.

    return equinox.error_if(param, wrong, str(error))
