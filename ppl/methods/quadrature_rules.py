"""Quadrature over the auxiliary choices of a marginal, where they are few and continuous."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ppl import choicemap, jaxprs
from ppl._errors import ControlFlowError, PPLError, StrategyError, user_source
from ppl.analysis.smoothness.jumps import find_jumps
from ppl.choicemap import Path, show
from ppl.generative import GenerativeFunction
from ppl.interpreter import Place
from ppl.stochastic.function import Halves
from ppl.stochastic.nodes import AtNodes
from ppl.stochastic.primitive import stochastic_p
from ppl.stochastic.rules import Nodes, rule_of
from ppl.transforms.assess import assess
from ppl.transforms.given import check_given
from ppl.transforms.guards import forbid_tangents
from ppl.transforms.layout import addressed, trace_shape
from ppl.transforms.marginal import Marginalisation
from ppl.transforms.programs import list_places, source_of
from ppl.transforms.run import total

MOST_NUMBERS = 3
"""Auxiliary numbers that a product of rules may integrate over."""
MOST_POINTS = 2**20
"""Points of such a product."""


@dataclasses.dataclass(frozen=True)
class quadrature:  # noqa: N801 - written like a call in programs: `ppl.methods.quadrature(20)`.
    r"""Integrate a marginal density over up to three continuous auxiliary numbers by a product of quadrature rules.

        p(x) = sum_i w_i p(x | u_i),    u_i the nodes of the prior of u given what came before it,

    by the rules of Gauss-Hermite (normal, log-normal), Gauss-Legendre (uniform, log-uniform, truncated normal) and
    Gauss-Laguerre (exponential); elsewhere by the trapezoidal rule after a change of variables (`ppl/stochastic/
    rules.py`). With a proposal r(u; x) the nodes are those of r, and p(x) = sum_i w_i p(x, u_i) / r(u_i; x) (Naylor and
    Smith 1982): a few points in the right place where the prior's nodes would have to be many. Unlike particles, these
    have to cover all of p(x, u): put the mass of r where u is likely given x.

    The density has no noise: it is the same number where x is drawn and where it is given, exact up to the error of
    the rule, which for smooth functions of u falls geometrically with the number of points. Look at it with twice as
    many points. Derivatives are those of the sum; the outer nodes lie far out in the tails, and what the program
    computes there has to be finite, too (logits in place of probabilities). `marginal`'s number of particles is not
    used.

    Cost: points**d densities of the program, under one `jax.vmap`, d the number of auxiliary numbers.

    Args:
        points: Number of points for each auxiliary number, at least 1.

    Raises:
        PPLError: `points` is not a positive int.
        StrategyError: An auxiliary choice is discrete, there is no rule for it, or there are too many of them.
        ControlFlowError: An auxiliary choice is made only sometimes.

    Example:
        >>> import ppl
        >>> @ppl.gen
        ... def noisy():
        ...     u = ppl.normal(0.0, 1.0) @ "u"
        ...     ppl.normal(u, 1.0) @ "x"
        >>> x = ppl.marginal(noisy, keep="x", method=ppl.methods.quadrature(20))
        >>> round(float(x.log_density({"x": 2.0})), 4)  # The density of N(0, 2) at 2.
        -2.2655
    """

    points: int

    def __post_init__(self):
        if not isinstance(self.points, int) or isinstance(self.points, bool) or self.points < 1:
            raise PPLError(
                "`quadrature` takes a positive number of points.",
                where=user_source(),
                got=repr(self.points),
                remedy="give an int of at least 1",
            )

    def marginal(self, problem: Marginalisation) -> Halves:
        """Return the two halves."""

        def draw(*args: Any):
            kept, _, _, _ = problem.run_forward(args)
            return kept, kept, self._log_density(problem, kept, args)

        def estimate(kept: Any, *args: Any):
            return kept, self._log_density(problem, kept, args)

        return draw, estimate

    def _log_density(self, problem: Marginalisation, kept: Any, args: tuple) -> jax.Array:
        program = _Staged(problem.gf, args)
        given = choicemap.flatten(kept)
        _refuse_noise(program)
        auxiliary = {path: place for path, place in program.by_path.items() if path not in given}
        if not auxiliary:
            return assess(problem.gf)(kept, *args)[0]
        args = _guarded(problem, kept, args)
        program = _Staged(problem.gf, args)
        if problem.proposal is None:
            nodes, log_weights = self._grid(auxiliary)
            at = lambda nodes: program.at(nodes, given)[1]
        else:
            proposal = _Staged(problem.proposal, (kept, *args))
            _refuse_noise(proposal)
            nodes, log_weights = self._grid(proposal.by_path)

            def at(nodes: Mapping[Path, jax.Array]) -> jax.Array:
                proposed, log_weight = proposal.at(nodes, {})
                return assess(problem.gf)(choicemap.merge(proposed, kept), *args)[0] + log_weight

        return jax.nn.logsumexp(jax.vmap(at)(nodes) + log_weights)

    def _grid(self, auxiliary: Mapping[Path, Place]) -> tuple[dict[Path, jax.Array], jax.Array]:
        """Return the nodes of each choice, along a leading axis of all points, and the log weights of the points."""
        for path, place in auxiliary.items():
            _check(path, place)
        sizes = {path: math.prod(trace_shape(place)) for path, place in auxiliary.items()}
        _check_sizes(self.points, sizes)
        axes = [self._axis(auxiliary[path]) for path, size in sizes.items() for _ in range(size)]
        nodes = [axis.ravel() for axis in np.meshgrid(*(nodes for nodes, _ in axes), indexing="ij")]
        log_weights = sum(axis.ravel() for axis in np.meshgrid(*(weights for _, weights in axes), indexing="ij"))
        grid, start = {}, 0
        for path, place in auxiliary.items():
            columns = np.stack(nodes[start : start + sizes[path]], axis=-1) if sizes[path] else np.zeros((1, 0))
            grid[path] = jnp.asarray(columns.reshape(-1, *trace_shape(place)), place.eqn.outvars[0].aval.dtype)
            start += sizes[path]
        return grid, jnp.asarray(log_weights, jnp.result_type(float))

    def _axis(self, place: Place) -> Nodes:
        return rule_of(place.eqn.params["spec"]).nodes(self.points, place.eqn.outvars[0].aval.dtype)


def _guarded(problem: Marginalisation, kept: Any, args: tuple) -> tuple:
    """Refuse derivatives with respect to arguments if an auxiliary choice decides where the density jumps.

    A sum over fixed nodes has jumps at places that move, whose share the derivative of the sum does not have.
    """
    body = jaxprs.stage(lambda kept, *inner: problem.fresh_weight(kept, inner), (kept, *args))[0].body
    jumps = find_jumps(body, list_places(body)[0], [False] * len(body.outvars))
    if not jumps:
        return args
    leaves, layout = jaxprs.split(args)
    return layout.join(forbid_tangents(leaves, next(iter(jumps.values())).error))


class _Staged:
    """A program with its choices, to be evaluated at nodes."""

    def __init__(self, gf: GenerativeFunction, args: tuple):
        self.name = gf.name
        self.staged, self.leaves = gf.stage(args)
        self.places, _ = list_places(self.staged.body)
        self.by_path = addressed(self.places)

    def at(self, nodes: Mapping[Path, jax.Array], given: Mapping[Path, Any]) -> tuple[dict, jax.Array]:
        """Put some choices at nodes, given all others; return the former, and the log density of the latter.

        With nothing given, the log density is less that of the choices themselves.
        """
        values = check_given(self.name, self.by_path, {**given, **nodes}, complete=True)
        walk = AtNodes(self.places, values, frozenset(nodes), relative=not given)
        walk.run(self.staged.body, self.leaves)
        return choicemap.nest({path: walk.records[path].value for path in nodes}), total(walk.log_densities)


def _refuse_noise(program: _Staged) -> None:
    """Refuse programs whose density is not a number but an estimate."""
    for place in program.places.values():
        if place.eqn.params["spec"].silent:
            raise StrategyError(
                f"`quadrature` has no rule for the fresh key of `{program.name}`.",
                where=source_of(place.eqn),
                expected="a program whose density is a function of its choices",
                remedy="pass the key as an argument, or use `ppl.methods.importance()`",
            )
    for eqn in _stochastic(program.staged.body):
        if jaxprs.body_holds_choice(jaxprs.body_of(eqn.params["estimate"])):
            raise StrategyError(
                f"The density of a choice of `{program.name}` is an estimate, and quadrature would not be exact.",
                where=source_of(eqn),
                expected="densities without noise",
                got="a marginal or a posterior estimated with particles",
                remedy="use `method=ppl.methods.quadrature(...)` inside, too, or `ppl.methods.importance()` here",
            )


def _stochastic(body: jaxprs.Body):
    for eqn in body.eqns:
        if eqn.primitive is stochastic_p:
            yield eqn
        elif jaxprs.holds_choice(eqn):
            for inner in jaxprs.inner_bodies(eqn):
                yield from _stochastic(inner)


def _check(path: Path, place: Place) -> None:
    params = place.eqn.params
    where = f'"{show(path)}" at {params["source"]}'
    if params["spec"].family.discrete:
        raise StrategyError(
            f'The auxiliary choice at "{show(path)}" is discrete: quadrature integrates over continuous ones.',
            where=where,
            got=str(params["spec"].family),
            remedy="sum it out: `method=ppl.methods.exact()`, in a marginal inside of this one if there are both",
        )
    if place.branches or params["masked"]:
        raise ControlFlowError(
            f'The auxiliary choice at "{show(path)}" is made only sometimes.',
            where=where,
            expected="auxiliary choices that are always made",
            remedy="make it outside of the branch, or use `method=ppl.methods.importance()`",
        )
    if rule_of(params["spec"]) is None:
        raise StrategyError(
            f'There is no quadrature rule for the auxiliary choice at "{show(path)}".',
            where=where,
            expected="one of the families listed in `ppl.methods.quadrature`'s rules",
            got=str(params["spec"]),
            remedy="write it as a function of a normal or uniform choice, or use `method=ppl.methods.importance()`",
        )


def _check_sizes(points: int, sizes: Mapping[Path, int]) -> None:
    number = sum(sizes.values())
    if number <= MOST_NUMBERS and points**number <= MOST_POINTS:
        return
    raise StrategyError(
        f"`quadrature({points})` over {number} auxiliary numbers takes {points}**{number} points.",
        where=", ".join(f'"{show(path)}" ({size})' for path, size in sizes.items()),
        expected=f"at most {MOST_NUMBERS} numbers and {MOST_POINTS} points",
        got=f"{number} numbers, {points**number} points",
        remedy="use `method=ppl.methods.importance()` with a proposal, or fewer points",
    )
