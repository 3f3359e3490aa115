"""How a family becomes a lower-case constructor with NumPyro's parameter names and order."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from ppl._errors import PPLError, boundary, user_source
from ppl.choice import Choice
from ppl.family import Family, Parameter, Spec, given_as_int
from ppl.strategies import pathwise


def constructor(family: Family, formula: str) -> Callable[..., Choice]:
    """Make the constructor of a family.

    Args:
        family: The family of distributions.
        formula: Its density, for the docstring.

    Returns:
        A function of the family's parameters and `grad=`, the gradient strategy, which returns a random choice.
    """
    fields = [
        inspect.Parameter(parameter.name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=_default(family, parameter))
        for parameter in family.parameters
    ]
    grad = inspect.Parameter("grad", inspect.Parameter.KEYWORD_ONLY, default=None)
    signature = inspect.Signature([*fields, grad])

    @boundary
    def build(*args, **kwargs) -> Choice:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise PPLError(
                f"`{family.name}` is called with the wrong parameters: {error}.",
                where=user_source(),
                expected=f"{family.name}{signature}",
                remedy="give the parameters by position or name",
            ) from None
        bound.apply_defaults()
        strategy = bound.arguments.pop("grad")
        given = {name: value for name, value in bound.arguments.items() if value is not None}
        _check_given(family, given)
        return _choose(family, given, strategy)

    build.__name__ = build.__qualname__ = family.name
    build.__signature__ = signature  # type: ignore[attr-defined]
    build.__doc__ = _docstring(family, formula)
    build.family = family  # type: ignore[attr-defined]
    return build


def _default(family: Family, parameter: Parameter):
    open_ended = parameter.optional or parameter.name in family.alternatives
    return parameter.default if parameter.default is not None or open_ended else inspect.Parameter.empty


def default_strategy(family: Family) -> pathwise | None:
    """Return the strategy of choices that are given none."""
    return None if family.discrete or not family.reparameterised else pathwise()


def _choose(family: Family, given: dict, strategy) -> Choice:
    operands, known = {}, []
    for parameter in family.parameters:
        if parameter.name not in given:
            continue
        name, value = parameter.name, given[parameter.name]
        if parameter.static:
            known.append((name, _static(family, parameter, value)))
            continue
        if parameter.integer:
            given[name] = value = _integer(family, name, value)
            known += [(name, int(value))] if given_as_int(value) else []
        operands[name] = _operand(family, parameter, value)
    variant = family if family.variant is None else family.variant(family, given)
    spec = Spec(variant, tuple(operands), tuple(known))
    return Choice(spec, list(operands.values()), strategy, default_strategy(variant))


def _operand(family: Family, parameter: Parameter, value):
    try:
        value = jnp.asarray(value)
    except TypeError:
        raise PPLError(
            f"The parameter `{parameter.name}` of `{family.name}` is not a number or an array.",
            where=user_source(),
            got=f"{value!r} of type {type(value).__name__}",
            remedy='address a choice before it is used: `x = normal(...) @ "x"`'
            if hasattr(value, "used")
            else "pass numbers or arrays",
        ) from None
    if parameter.integer:
        return value.astype(np.int32)
    return value if jnp.issubdtype(value.dtype, jnp.inexact) else value.astype(jnp.result_type(float))


def _integer(family: Family, name: str, value):
    """Check that a parameter holds integers; concrete floats may."""
    if isinstance(value, Tracer):
        whole = jnp.issubdtype(value.dtype, jnp.integer)
    else:
        whole = _is_whole(value)
    if whole:
        return int(value) if isinstance(value, (int, float, np.generic)) else value
    raise PPLError(
        f"The parameter `{name}` of `{family.name}` is not an integer.",
        where=user_source(),
        got=f"{value!r}",
        remedy=f"pass an int, or an array of integers: `{name}.astype(int)`",
    )


def _is_whole(value) -> bool:
    try:
        value = np.asarray(value)
        return value.dtype.kind in "iuf" and bool((value == np.round(value)).all())
    except TypeError:
        return False


def _static(family: Family, parameter: Parameter, value):
    """Check a parameter that decides about shapes: a Python value, with the type of its default."""
    if isinstance(parameter.default, str):
        fine = isinstance(value, str)
    else:
        fine = given_as_int(value) or (_is_scalar(value) and _is_whole(value))
        value = int(value) if fine else value
    if fine:
        return value
    raise PPLError(
        f"The parameter `{parameter.name}` of `{family.name}` must be known when the program is traced.",
        where=user_source(),
        expected="a Python string" if isinstance(parameter.default, str) else "a Python integer",
        got=f"{value!r}",
        remedy="pass it as a Python value: the shape or the sampler depends on it",
    )


def _is_scalar(value) -> bool:
    return not isinstance(value, Tracer) and np.ndim(value) == 0


def _check_given(family: Family, given: dict) -> None:
    for parameter in family.parameters:
        if parameter.name not in (*given, *family.alternatives) and not parameter.optional:
            raise PPLError(
                f"The parameter `{parameter.name}` of `{family.name}` is None.",
                where=user_source(),
                remedy="give it a value",
            )
    names = [name for name in family.alternatives if name in given]
    if family.alternatives and len(names) != 1:
        raise PPLError(
            f"`{family.name}` takes exactly one of {', '.join(family.alternatives)}.",
            where=user_source(),
            got=", ".join(names) or "none of them",
            remedy=f"write e.g. `{family.name}({family.alternatives[-1]}=...)`",
        )


def _docstring(family: Family, formula: str) -> str:
    kind = "discrete (int32)" if family.discrete else "continuous"
    default = "none: give `grad=`" if default_strategy(family) is None else "pathwise"
    if family.implicit:
        default += ", with implicit derivatives"
    return (
        f"Make a {kind} random choice from the {family.name} distribution: {formula}.\n\n"
        f"Support: {family.support.name}. Default strategy: {default}. "
        f"Enumerable: {'yes' if family.enumerable else 'no'}.\n"
    )


def parameters(*names: str, **defaults: float) -> tuple[Parameter, ...]:
    """List scalar parameters: required ones, then those with defaults."""
    return tuple(Parameter(name) for name in names) + tuple(Parameter(n, 0, d) for n, d in defaults.items())
