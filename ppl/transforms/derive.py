"""`with_grad`, `scale` and `condition`: generative functions made from others by rewriting their choices."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax.numpy as jnp

from ppl import choicemap, jaxprs
from ppl._errors import AddressError, PPLError, StrategyError, boundary
from ppl.batching import Rebind
from ppl.choicemap import Masked, Path, show
from ppl.generative import GenerativeFunction
from ppl.operands import with_strategy, without_baseline
from ppl.primitives import Lane, bind_density, call_p, continuous_p, factor_p, view_of
from ppl.specs import Subset
from ppl.stochastic.primitive import KeptSpec, inner_labels, rewritten, stochastic_p
from ppl.strategies.protocol import Strategy, as_strategy
from ppl.transforms.given import check_given
from ppl.transforms.layout import addressed, label_path
from ppl.transforms.programs import list_places, name_of, stage_function
from ppl.transforms.records import spread
from ppl.transforms.run import (
    Rewrite,
    Subsample,
    all_or_none,
    drawn_rows,
    require_gf,
    spread_weights,
    subsamples_around,
)


class Derived(GenerativeFunction):
    """A generative function whose staged body is another's, rewritten."""

    def __init__(self, base: GenerativeFunction, rewrite: Callable[[jaxprs.Body], jaxprs.Body]):
        super().__init__(base.function)
        self.base, self.rewrite, self.name = base, rewrite, base.name

    def stage(self, args: tuple):
        """Stage the other function, and rewrite its body."""
        staged, leaves = self.base.stage(args)
        return dataclasses.replace(staged, body=self.rewrite(staged.body)), leaves

    def inline(self, *args: Any) -> Any:
        """Run the rewritten body here."""
        staged, leaves = self.stage(args)
        return staged.results(Rebind(()).run(staged.body, leaves))


def _rewritten(body: jaxprs.Body, places, change: Callable, arrays: Mapping[Path, Any], stochastic) -> jaxprs.Body:
    walk = Rewrite(places, change, arrays, stochastic=stochastic)
    return jaxprs.restage(lambda *leaves: walk.run(body, leaves), jaxprs.in_shapes(body))


@boundary
def with_grad(program: Any, strategies: Mapping[str, Any]) -> Any:
    """Return the same program with other gradient strategies.

    Args:
        program: A generative function, or a stochastic function (an objective).
        strategies: Strategies by glob, which matches a path or a bare address under any prefix; the last match wins.
            They override `grad=` at the choice.

    Returns:
        A program of the same kind.

    Raises:
        AddressError: A glob matches no choice (when the program is traced).
        StrategyError: A strategy does not apply to a choice that it is given.

    Example:
        >>> import jax, ppl
        >>> cost = lambda p: (ppl.bernoulli(p).sample() - 0.45) ** 2
        >>> round(float(ppl.grad(ppl.with_grad(cost, {"bernoulli": ppl.enum()}))(jax.random.key(0), 0.3)), 4)
        0.1
    """
    table = {glob: as_strategy(strategy) for glob, strategy in strategies.items()}

    def rewrite(body: jaxprs.Body) -> jaxprs.Body:
        places, _ = list_places(body)
        listed = [label_path(place) for place in places.values() if _has_strategy(place)]
        chosen = _chosen(table, [*listed, *dict.fromkeys(inner_labels(body))])

        def change(eqn, values, path, full, _):
            if eqn.primitive is factor_p or path not in chosen or full["spec"].silent:
                return None
            return with_strategy(_checked(chosen[path], full), values, full)

        def stochastic(eqn, values, path, _):
            return rewritten(eqn, values, _Restrategise(chosen, path).run, address=path, label=show(path))

        return _rewritten(body, places, change, {}, stochastic)

    if isinstance(program, GenerativeFunction):
        return Derived(program, rewrite)

    @functools.wraps(program, updated=())
    @boundary
    def other(*args: Any) -> Any:
        staged, leaves = stage_function(program, args)
        return staged.results(Rebind(()).run(rewrite(staged.body), leaves))

    other.__name__ = name_of(program)
    return other


def _has_strategy(place) -> bool:
    return not place.eqn.params["spec"].silent and not isinstance(place.eqn.params["spec"], KeptSpec)


class _Restrategise(Rebind):
    """Give other strategies to the choices inside of a stochastic density."""

    def __init__(self, chosen: Mapping[Path, Strategy | None], prefix: Path):
        super().__init__(())
        self.chosen, self.prefix = chosen, prefix

    def special(self, eqn, values):
        params = eqn.params
        path = (*self.prefix, *params["label"].split("/"))
        if path in self.chosen and not params["spec"].silent:
            params = dict(params, strategy=_checked(self.chosen[path], params))
        return eqn.primitive.bind(*values, **params)


def _chosen(table: Mapping[str, Strategy | None], paths: list[Path]) -> dict[Path, Strategy | None]:
    by_parts = {tuple(show(path).split("/")): path for path in paths}
    chosen = {}
    for glob, strategy in table.items():
        for parts in choicemap.require_match(glob, by_parts):
            chosen[by_parts[parts]] = strategy
    return chosen


def _checked(strategy: Strategy | None, params: Mapping[str, Any]) -> Strategy | None:
    reason = strategy.check(params["spec"].family) if strategy is not None else None
    if reason:
        raise StrategyError(
            f"`{strategy}` does not apply to {params['spec'].family} {params['label']!r}: {reason}.",
            where=f"{params['label']!r} at {params['source']}",
        )
    return strategy


@boundary
def scale(gf: GenerativeFunction, weights: Mapping[str, Any]) -> GenerativeFunction:
    """Multiply log densities: meta-priors, minibatch factors, tempering.

    Args:
        gf: The generative function.
        weights: Factors by glob: scalars, or arrays that broadcast over the lanes and steps of the choice.

    Returns:
        An unnormalised generative function of the same arguments.

    Raises:
        AddressError: A glob matches no choice.

    Example:
        >>> import ppl
        >>> model = ppl.gen(lambda: ppl.normal(0.0, 1.0) @ "z")
        >>> round(float(ppl.scale(model, {"z": 0.5}).log_density({"z": 0.0})), 4)
        -0.4595
    """
    require_gf(gf, "scale")

    def rewrite(body: jaxprs.Body) -> jaxprs.Body:
        places, _ = list_places(body)
        by_path = addressed(places)
        owners = factor_owners(body, by_path)
        for glob in weights:
            choicemap.require_match(glob, [*by_path, *owners.values()])
        arrays = spread_weights(
            {glob: w for glob, w in weights.items() if any(choicemap.matches(glob, path) for path in by_path)}, by_path
        )

        def change(eqn, values, path, full, weight):
            if eqn.primitive is factor_p:
                return factor_p.bind(values[0] * _of_factor(owners[path], weights), **full)
            if weight is None:
                return None
            outs = eqn.primitive.bind(*values, **full)
            _weigh(weight, outs[0], values, path, full)
            return outs

        def stochastic(eqn, values, path, slots):
            if all(slot is None for slot in slots):
                return stochastic_p.bind(*values, **dict(eqn.params, address=path, label=show(path)))
            raise PPLError(
                "The density of a stochastic density cannot be scaled: it is known by an estimate only.",
                where=f'"{show(path)}" at {eqn.params["source"]}',
                remedy="scale the choices of the program that it was made from, or use `elbo(..., weights=...)`",
            )

        return _rewritten(body, places, change, arrays, stochastic)

    return Derived(gf, rewrite)


def _weigh(weight: Any, value, operands, path: Path, params: Mapping[str, Any]) -> None:
    """Multiply the log density of a choice by a weight, with a factor beside it."""
    log_prob = _density(value, operands, params)
    extra = (spread(jnp.asarray(weight), log_prob.ndim) - 1) * jnp.where(jnp.isneginf(log_prob), 0, log_prob)
    extra = continuous_p.bind(extra)  # It jumps at the edge of the support only: there the density itself is refused.
    factor_p.bind(extra, address=(*path, "scale"), label=f"{show(path)}/scale", source=params["source"])


def factor_paths(body: jaxprs.Body, prefix: Path = ()) -> Iterator[Path]:
    """List the addresses of the factors of a program."""
    for eqn in body.eqns:
        if eqn.primitive is factor_p:
            yield (*prefix, *eqn.params["address"])
        elif jaxprs.holds_choice(eqn):
            nested = (*prefix, *eqn.params["address"]) if eqn.primitive is call_p else prefix
            for inner in jaxprs.inner_bodies(eqn):
                yield from factor_paths(inner, nested)


def factor_owners(body: jaxprs.Body, choices: Mapping[Path, Any]) -> dict[Path, Path]:
    """Say for each factor whose it is: the weight that `scale` gives to a choice is the choice's, others are their own.

    Args:
        body: The program.
        choices: Its choices, by path.
    """
    factors = set(factor_paths(body))

    def owner(path: Path) -> Path:
        inner = path[:-1]
        return owner(inner) if path[-1] == "scale" and (inner in choices or inner in factors) else path

    return {path: owner(path) for path in factors}


def _of_factor(path: Path, weights: Mapping[str, Any]) -> Any:
    """Return what multiplies a factor: a scalar, as a factor has lanes and steps but no place in a trace."""
    matching = [weight for glob, weight in weights.items() if choicemap.matches(glob, path)]
    if matching and jnp.ndim(matching[-1]):
        raise AddressError(
            f'The factor at "{show(path)}" is scaled by an array.',
            where=f'"{show(path)}"',
            expected="a scalar",
            got=f"shape {jnp.shape(matching[-1])}",
            remedy="multiply the factor where it is made",
        )
    return matching[-1] if matching else 1.0


def _density(value, operands, params):
    operands, own_lanes = without_baseline(params, operands)
    lanes = [Lane(lane.size, (True, *lane.mapped), lane.depth) for lane in own_lanes]
    return bind_density(
        value,
        operands,
        spec=params["spec"],
        lanes=lanes,
        masked=params["masked"],
        inside=False,
        label=params["label"],
    )


@boundary
def condition(gf: GenerativeFunction, observed: Any) -> GenerativeFunction:
    """Fix some choices of a generative function: its density, as a function of the others, is unnormalised.

    Args:
        gf: The generative function.
        observed: Nested dict of observed choices.

    Returns:
        An unnormalised generative function of the same arguments over the other choices.

    Raises:
        AddressError: An observed choice is unknown, has the wrong shape, or is conditional.

    Example:
        >>> import ppl
        >>> @ppl.gen
        ... def model():
        ...     z = ppl.normal(0.0, 1.0) @ "z"
        ...     ppl.normal(z, 1.0) @ "x"
        >>> round(float(ppl.condition(model, {"x": 2.0}).log_density({"z": 0.5})), 4)
        -3.0879
    """
    require_gf(gf, "condition")
    flat = choicemap.flatten(observed)

    def rewrite(body: jaxprs.Body) -> jaxprs.Body:
        places, _ = list_places(body)
        values_by_path = check_given(gf.name, addressed(places), flat, complete=False)
        return _rewritten(body, places, _Fix(), values_by_path, _fix_stochastic)

    return Derived(gf, rewrite)


def _fix_stochastic(eqn, values, path: Path, given: list) -> list:
    """Fix what a stochastic density keeps: the estimate of its density weighs the program."""
    params = dict(eqn.params, address=path, label=show(path))
    if not all_or_none(path, [(*path, *kept.path) for kept in params["kept"]], given, eqn):
        return stochastic_p.bind(*values, **params)
    fixed = [leaf.astype(kept.dtype) for leaf, kept in zip(given, params["kept"], strict=True)]
    outs = stochastic_p.bind(*fixed, *values, **dict(params, simulate=params["estimate"], kept=(), fixed=True))
    return [*fixed, *outs]


class _Fix:
    """Fix the given choices of a program, each of which becomes a factor.

    Values given for all elements of a subsample are gathered. Once its indices are fixed, nothing says any more that it
    is one: n / size is then multiplied into what is inside.
    """

    def __init__(self):
        self.subsamples: dict[Path, Subsample] = {}
        self.settled: dict[Path, Subsample] = {}

    def __call__(self, eqn, values, path, full, given):
        """Change one choice or factor."""
        weight = math.prod(n / size for _, n, size in subsamples_around(self.settled, path))
        if eqn.primitive is factor_p:
            return None if weight == 1 else factor_p.bind(values[0] * weight, **full)
        if given is None:
            outs = eqn.primitive.bind(*values, **full)
            if weight != 1:
                _weigh(weight, outs[0], values, path, full)
        else:
            given = drawn_rows(given, subsamples_around(self.subsamples, path))
            outs = [_fixed(view_of(eqn, values), given, weight, values, path, full)]
        if path[-1] == "indices" and isinstance(full["spec"], Subset):
            entry = (outs[0], full["spec"].n, full["spec"].size)
            self.subsamples[path[:-1]] = entry
            self.settled.update({path[:-1]: entry} if given is not None else {})
        return outs


def _fixed(sorted_out, given, weight, operands, path: Path, params: Mapping[str, Any]):
    """Put a factor in place of a choice; return the value it is fixed at."""
    value = given.value if isinstance(given, Masked) else given
    log_prob = _density(value, operands, params)
    log_prob = log_prob if weight == 1 else log_prob * weight
    if isinstance(given, Masked):
        log_prob = jnp.where(spread(given.mask, log_prob.ndim), log_prob, 0)
    factor_p.bind(log_prob, address=path, label=show(path), source=params["source"])
    return value if sorted_out.mask is None else jnp.where(sorted_out.spread_mask(True), value, jnp.zeros_like(value))
