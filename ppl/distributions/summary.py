"""What is known of every distribution, as a table."""

from __future__ import annotations

from collections.abc import Callable

from ppl.distributions import continuous, discrete, multivariate
from ppl.distributions.constructor import default_strategy
from ppl.family import Family

GROUPS = {"Continuous": continuous, "Discrete": discrete, "Vectors and matrices": multivariate}


def constructors(module) -> list[Callable]:
    """List the constructors that a module defines, in its order."""
    return [value for value in vars(module).values() if isinstance(getattr(value, "family", None), Family)]


def table() -> str:
    """Describe every distribution in Markdown: parameters, support, default strategy, enumerability, derivatives.

    Returns:
        One table for each group. `DISTRIBUTIONS.md` is made of it.

    Example:
        >>> import ppl
        >>> print([line for line in ppl.distributions.table().splitlines() if "`bernoulli(" in line][0])
        | `bernoulli(probs, logits)` | boolean | - | yes | - |
    """
    header = "| distribution | support | default strategy | enumerable | sample derivative |\n|---|---|---|---|---|"
    return "\n\n".join(
        "\n".join([f"## {title}\n", header, *(_row(build.family) for build in constructors(module))])
        for title, module in GROUPS.items()
    )


def _row(family: Family) -> str:
    names = ", ".join(parameter.name for parameter in family.parameters)
    finite = "-" if not family.enumerable else "yes" if family.variant is None else "if its integers are known"
    moving = family.support.moving
    cells = [
        f"`{family.name}({names})`",
        family.support.name + (f" (moves with {', '.join(moving)})" if moving else ""),
        str(default_strategy(family) or "-"),
        finite,
        "-" if default_strategy(family) is None else "implicit" if family.implicit else "explicit",
    ]
    return "| " + " | ".join(cells) + " |"
