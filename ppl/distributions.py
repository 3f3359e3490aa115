"""Lower-case constructors with NumPyro's parameter names and order."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import jax.numpy as jnp

from ppl import support
from ppl._errors import PPLError, boundary, user_source
from ppl.choice import Choice
from ppl.family import Family, Parameter, Spec
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
        inspect.Parameter(
            parameter.name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=parameter.default
            if parameter.default is not None or parameter.name in family.alternatives
            else inspect.Parameter.empty,
        )
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
        _check_alternatives(family, given)
        default = None if family.discrete else pathwise()
        return Choice(
            Spec(family, tuple(given)),
            [_operand(family, name, value) for name, value in given.items()],
            strategy,
            default,
        )

    build.__name__ = build.__qualname__ = family.name
    build.__signature__ = signature  # type: ignore[attr-defined]
    build.__doc__ = _docstring(family, formula)
    build.family = family  # type: ignore[attr-defined]
    return build


def _operand(family: Family, name: str, value):
    try:
        value = jnp.asarray(value)
    except TypeError:
        raise PPLError(
            f"The parameter `{name}` of `{family.name}` is not a number or an array.",
            where=user_source(),
            got=f"{value!r} of type {type(value).__name__}",
            remedy='address a choice before it is used: `x = normal(...) @ "x"`'
            if hasattr(value, "used")
            else "pass numbers or arrays",
        ) from None
    return value if jnp.issubdtype(value.dtype, jnp.inexact) else value.astype(jnp.result_type(float))


def _check_alternatives(family: Family, given: dict) -> None:
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
    default = "none: give `grad=`" if family.discrete else "pathwise"
    return (
        f"Make a {kind} random choice from the {family.name} distribution: {formula}.\n\n"
        f"Support: {family.support.name}. Default strategy: {default}. "
        f"Enumerable: {'yes' if family.enumerable else 'no'}.\n"
    )


def _parameters(*names: str, **defaults: float) -> tuple[Parameter, ...]:
    return tuple(Parameter(name) for name in names) + tuple(Parameter(n, 0, d) for n, d in defaults.items())


normal = constructor(
    Family("normal", "Normal", _parameters(loc=0.0, scale=1.0), support.real),
    "p(x) = exp(-(x - loc)**2 / (2 scale**2)) / (scale sqrt(2 pi))",
)
laplace = constructor(
    Family("laplace", "Laplace", _parameters(loc=0.0, scale=1.0), support.real),
    "p(x) = exp(-|x - loc| / scale) / (2 scale)",
)
student_t = constructor(
    Family("student_t", "StudentT", (Parameter("df"), *_parameters(loc=0.0, scale=1.0)), support.real),
    "p(x) proportional to (1 + ((x - loc) / scale)**2 / df)**(-(df + 1) / 2)",
)
exponential = constructor(
    Family("exponential", "Exponential", _parameters(rate=1.0), support.nonnegative),
    "p(x) = rate exp(-rate x)",
)
gamma = constructor(
    Family("gamma", "Gamma", (Parameter("concentration"), *_parameters(rate=1.0)), support.positive),
    "p(x) = rate**concentration x**(concentration - 1) exp(-rate x) / Gamma(concentration)",
)
beta = constructor(
    Family("beta", "Beta", _parameters("concentration1", "concentration0"), support.unit_interval),
    "p(x) proportional to x**(concentration1 - 1) (1 - x)**(concentration0 - 1)",
)
uniform = constructor(
    Family("uniform", "Uniform", _parameters(low=0.0, high=1.0), support.interval),
    "p(x) = 1 / (high - low)",
)
dirichlet = constructor(
    Family("dirichlet", "Dirichlet", (Parameter("concentration", 1),), support.simplex, event_ndim=1),
    "p(x) proportional to prod_k x_k**(concentration_k - 1)",
)
multivariate_normal = constructor(
    Family(
        "multivariate_normal",
        "MultivariateNormal",
        (
            Parameter("loc", 1),
            Parameter("covariance_matrix", 2),
            Parameter("precision_matrix", 2),
            Parameter("scale_tril", 2),
        ),
        support.real_vector,
        event_ndim=1,
        alternatives=("covariance_matrix", "precision_matrix", "scale_tril"),
    ),
    "p(x) = exp(-(x - loc)' C**-1 (x - loc) / 2) / sqrt(det(2 pi C))",
)
bernoulli = constructor(
    Family(
        "bernoulli",
        "Bernoulli",
        _parameters("probs", "logits"),
        support.boolean,
        discrete=True,
        enumerable=True,
        alternatives=("probs", "logits"),
    ),
    "P(1) = probs = 1 / (1 + exp(-logits))",
)
categorical = constructor(
    Family(
        "categorical",
        "Categorical",
        (Parameter("probs", 1), Parameter("logits", 1)),
        support.index,
        discrete=True,
        enumerable=True,
        alternatives=("probs", "logits"),
    ),
    "P(k) = probs[k] = softmax(logits)[k]",
)
poisson = constructor(
    Family("poisson", "Poisson", _parameters("rate"), support.count, discrete=True),
    "P(k) = rate**k exp(-rate) / k!",
)
