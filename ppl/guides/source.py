"""Guides are programs: each is written as text first, and what it prints is what it runs."""

from __future__ import annotations

import inspect
import linecache
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ppl._errors import boundary
from ppl.generative import GenerativeFunction
from ppl.guides.latents import Latent, Latents
from ppl.transforms.run import require_gf

_TEXT = "__guide_text__"


@boundary
def source(guide: GenerativeFunction) -> str:
    """Return a guide as the text of a program, to be read, kept, or changed by hand.

    Args:
        guide: A guide made by a function of `ppl.guides`, or any generative function.

    Returns:
        A Python module that defines the same guide, with the same noise for the same key; of a generative function of
        your own, its source as Python finds it.

    Example:
        >>> import ppl
        >>> model = ppl.gen(lambda params: ppl.normal(0.0, ppl.half_normal(1.0) @ "s") @ "y")
        >>> guide, init = ppl.guides.mean_field(model, {"y": 1.0})
        >>> print(ppl.guides.source(guide).splitlines()[-1])
            onto("nonnegative", normal(loc[0], scale[0])) @ "s"
    """
    require_gf(guide, "guides.source")
    return getattr(guide.function, _TEXT, None) or inspect.getsource(guide.function)


def program(kind: str, latents: Latents, imports: Sequence[str], summary: str, lines: Sequence[str]):
    """Write a guide and run its text.

    Args:
        kind: Name of the guide.
        latents: What it chooses.
        imports: Lines of import.
        summary: Sentence for its docstring.
        lines: Lines of its body.

    Returns:
        The generative function.
    """
    body = "\n".join(f"    {line}" for line in [f'"""{summary}"""', *lines])
    text = "\n".join([*imports, "", "", "@gen", f"def {kind}(params, observed, *inputs):", body, ""])
    # Registered, so that error messages and tracebacks show these lines; they skip names that start with "<".
    file = f"guides.{kind}({latents.model})"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    namespace: dict[str, Any] = {}
    exec(compile(text, file, "exec"), namespace)  # noqa: S102 - addresses enter the text by `repr` only.
    guide = namespace[kind]
    setattr(guide.function, _TEXT, text)
    return guide


def address(latent: Latent) -> str:
    """Write an address."""
    return _quoted(latent.path[0]) if len(latent.path) == 1 else f"({', '.join(map(_quoted, latent.path))})"


def _quoted(text: str) -> str:
    """Write a string, in double quotes where nothing in it must be escaped."""
    return f'"{text}"' if repr(text) == f"'{text}'" and '"' not in text else repr(text)


def edges(latent: Latent) -> str:
    """Write the edges of a support as keyword arguments."""
    number = lambda bound: repr(bound) if isinstance(bound, float) else f"jnp.array({np.asarray(bound).tolist()!r})"
    return "".join(f", {name}={number(bound)}" for name, bound in latent.bounds.items())


def elements(vector: str, latent: Latent) -> str:
    """Write the part of a vector that is a choice's, in its shape."""
    if latent.free == ():
        return f"{vector}[{latent.start}]"
    part = f"{vector}[{latent.start}:{latent.stop}]"
    return part if len(latent.free) == 1 else f"{part}.reshape({', '.join(map(str, latent.free))})"


def part(vector: str, latent: Latent) -> str:
    """Write the part of a vector that is a choice's, as a vector."""
    return f"{vector}[{latent.start}:{latent.stop}]"


def variable(index: int) -> str:
    """Name the value of a choice."""
    return f"x{index}"


def chain(
    latents: Latents,
    given: Callable[[Latent], Sequence[str]],
    choose: Callable[[Latent], str],
    learn: Callable[[Latent, str], str],
) -> Iterator[str]:
    """Write the lines of each choice, and what later ones need of it after each but the last.

    Args:
        latents: All choices.
        given: Writes what a choice needs of earlier ones.
        choose: Writes the choice of a vector.
        learn: Writes what follows from it, from its unconstrained value.
    """
    for index, latent in enumerate(latents.choices):
        last = index == len(latents.choices) - 1
        yield from given(latent)
        made = f'onto("{latent.support}", {choose(latent)}, {latent.free}{edges(latent)}) @ {address(latent)}'
        yield made if last else f"{variable(index)} = {made}"
        if not last:
            free = f'unconstrain("{latent.support}", {variable(index)}{edges(latent)})'
            yield learn(latent, free)
