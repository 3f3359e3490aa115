"""Coordinate ascent for conjugate programs: mean-field optima without steps."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from estimators.objectives.checks import require_programs
from ppl import GenerativeFunction, PPLError, assess, categorical, enum, expect, merge
from ppl._errors import boundary, user_source
from ppl.choicemap import flatten, nest, show
from ppl.transforms.layout import addressed, trace_shape
from ppl.transforms.programs import list_places


@dataclasses.dataclass(frozen=True)
class Cavi:
    """A mean-field optimum.

    Attributes:
        means: Means of the normal factors, by address.
        variances: Their variances.
        probabilities: Of the finite factors, by address, with a last axis of values.
        elbo: The exact ELBO after each sweep over all coordinates, the start first; it never falls.
        converged: Whether the last sweep changed it by no more than the tolerance.
    """

    means: dict[str, jax.Array]
    variances: dict[str, jax.Array]
    probabilities: dict[str, jax.Array]
    elbo: jax.Array
    converged: bool


@boundary
def cavi(
    model: GenerativeFunction,
    params: Any,
    observed: Any,
    *inputs: Any,
    start: Mapping[str, Any] | None = None,
    sweeps: int = 100,
    tolerance: float = 1e-8,
) -> Cavi:
    """Fit independent factors by coordinate ascent, log q_i = E_{-i} log p + constant (Bishop 2006, eq. 10.9).

    For programs whose unobserved choices are finite, or real with a log density that is quadratic in all of them
    together, whatever the finite ones are: mixtures, Ising models, linear regression. Every element of every choice is
    a factor: probabilities, or a normal. Expectations are exact: over finite choices by enumeration, over normal ones
    because of the quadratic. A factor's update is its natural-gradient step of size 1, taken from derivatives in its
    mean parameters: q(v) ~ exp(dF / dq(v)), 1 / var = -2 dF / dvar, mean + var * dF / dmean, F = E_q log p.

    Args:
        model: Called as `model(params, *inputs)`.
        params: Its parameters.
        observed: Observed choices.
        *inputs: Its inputs.
        start: Means of real choices and probabilities of finite ones, by address, where not 0 and uniform. Symmetric
            models need one: a mixture's components start alike otherwise, and stay so.
        sweeps: Most sweeps over all coordinates.
        tolerance: A sweep that raises the ELBO by less ends it.

    Returns:
        A [`Cavi`][estimators.Cavi].

    Raises:
        PPLError: An unobserved choice is neither finite nor real, or the log density is not quadratic in the real ones.
        AddressError: An observed choice is unknown, or `start` names one that is not there.

    Example:
        >>> import jax.numpy as jnp, ppl
        >>> from estimators import cavi
        >>> @ppl.gen
        ... def model(params):  # precision [[2, 1], [1, 2]]
        ...     a = ppl.normal(0.0, (2 / 3) ** 0.5) @ "a"
        ...     ppl.normal(-a / 2, 0.5**0.5) @ "b"
        >>> found = cavi(model, None, {})
        >>> round(float(found.variances["a"]), 4), round(float(found.variances["b"]), 4)
        (0.5, 0.5)
    """
    require_programs("cavi", model=model)
    problem = _Problem.of(model, params, observed, inputs)
    state = problem.start(start or {})
    problem.require_quadratic(state)
    sweep, bound = jax.jit(problem.sweep), jax.jit(problem.bound)
    history = [float(bound(state))]
    for _ in range(sweeps):
        state = sweep(state)
        history.append(float(bound(state)))
        if history[-1] - history[-2] <= tolerance * max(1, abs(history[-1])):
            break
    converged = len(history) > 1 and history[-1] - history[-2] <= tolerance * max(1, abs(history[-1]))
    probabilities, means, variances = state
    unravel = problem.unravel
    return Cavi(unravel(means), unravel(variances), probabilities, jnp.asarray(history), converged)


@dataclasses.dataclass(frozen=True)
class _Problem:
    """E_q log p as a function of the factors: probabilities by address, and vectors of means and variances."""

    log_joint: Any
    finite: dict[str, tuple[tuple[int, ...], int, int]]  # shape, number of values, the first of them
    reals: dict[str, Any]
    unravel: Any
    size: int

    @classmethod
    def of(cls, model: GenerativeFunction, params: Any, observed: Any, inputs: tuple) -> _Problem:
        args = (params, *inputs)
        staged, _ = model.stage(args)
        seen = flatten(observed)
        finite, reals = {}, {}
        for path, place in addressed(list_places(staged.body)[0]).items():
            if path in seen:
                continue
            family, shape = place.eqn.params["spec"].family, trace_shape(place)
            if family.enumerable:
                operands = [var.aval.shape for var in place.eqn.invars]
                spec = place.eqn.params["spec"]
                finite[show(path)] = (shape, spec.num_values(operands[: len(spec.names)]), spec.first_value())
            elif family.support.everywhere and not family.discrete:
                reals[show(path)] = jnp.zeros(shape, place.eqn.outvars[0].aval.dtype)
            else:
                raise _not_conjugate(show(path), f"{family}, which is neither finite nor real")
        flat, unravel = ravel_pytree(reals)

        def log_joint(values: Mapping[str, Any], vector: jax.Array) -> jax.Array:
            both = {**values, **unravel(vector)}
            latent = nest({tuple(name.split("/")): value for name, value in both.items()})
            return assess(model)(merge(latent, observed), *args)[0]

        return cls(log_joint, finite, reals, unravel, len(flat))

    def start(self, given: Mapping[str, Any]) -> tuple:
        """Return the factors to begin with."""
        for name in given:
            if name not in self.finite and name not in self.reals:
                raise _not_conjugate(name, "no unobserved choice of the model")
        uniform = {name: jnp.full((*shape, count), 1 / count) for name, (shape, count, _) in self.finite.items()}
        probabilities = {name: jnp.broadcast_to(given.get(name, probs), probs.shape) for name, probs in uniform.items()}
        centre = {
            name: jnp.broadcast_to(jnp.asarray(given.get(name, x), x.dtype), x.shape) for name, x in self.reals.items()
        }
        means = ravel_pytree(centre)[0]
        return probabilities, means, jnp.ones_like(means)

    def energy(self, state: tuple) -> jax.Array:
        """Return E_q log p."""
        _, means, variances = state

        def stochastic(probabilities: Any, means: jax.Array, variances: jax.Array) -> jax.Array:
            values = {}
            for name, probs in probabilities.items():
                values[name] = categorical(probs=probs, grad=enum()).sample(name) + self.finite[name][2]
            curvature = self._curvature(values, means) if self.size else 0.0
            return self.log_joint(values, means) + jnp.sum(variances * curvature) / 2

        return expect(stochastic)(jax.random.key(0), state[0], means, variances)  # all is summed: no key is read

    def _curvature(self, values: Mapping[str, Any], vector: jax.Array) -> jax.Array:
        """Return the diagonal of the second derivative in the real choices."""
        score = jax.grad(lambda x: self.log_joint(values, x))
        along = lambda direction: jnp.vdot(direction, jax.jvp(score, (vector,), (direction,))[1])
        return jax.vmap(along)(jnp.eye(self.size, dtype=vector.dtype))

    def bound(self, state: tuple) -> jax.Array:
        """Return the ELBO."""
        probabilities, _, variances = state
        of_finite = sum(-jnp.sum(jax.scipy.special.xlogy(p, p)) for p in probabilities.values())
        of_reals = jnp.sum(jnp.log(2 * math.pi * math.e * variances)) / 2
        return self.energy(state) + of_finite + of_reals

    def sweep(self, state: tuple) -> tuple:
        """Update every coordinate once."""
        for name, (shape, _, _) in self.finite.items():
            state = jax.lax.fori_loop(0, math.prod(shape), lambda i, s, name=name: self._finite(s, name, i), state)
        return jax.lax.fori_loop(0, self.size, lambda i, s: self._real(s, i), state) if self.size else state

    def _finite(self, state: tuple, name: str, at: Any) -> tuple:
        probabilities, means, variances = state
        slope = jax.grad(lambda p: self.energy(({**probabilities, name: p}, means, variances)))(probabilities[name])
        rows, slopes = (x.reshape(-1, x.shape[-1]) for x in (probabilities[name], slope))
        rows = rows.at[at].set(jax.nn.softmax(slopes[at]))
        return {**probabilities, name: rows.reshape(probabilities[name].shape)}, means, variances

    def _real(self, state: tuple, at: Any) -> tuple:
        probabilities, means, variances = state
        slopes = jax.grad(lambda m, v: self.energy((probabilities, m, v)), (0, 1))(means, variances)
        variance = -1 / (2 * slopes[1][at])
        return probabilities, means.at[at].add(variance * slopes[0][at]), variances.at[at].set(variance)

    def require_quadratic(self, state: tuple) -> None:
        """Refuse a log density whose second derivative is not the same at two places: a test, not a proof."""
        if not self.size:
            return
        vector = state[1]
        other = vector + jnp.linspace(-1.3, 1.7, self.size, dtype=vector.dtype)
        for last in (False, True):  # at the first values of all finite choices, and at the last ones
            at = lambda count, first, last=last: first + last * (count - 1)
            values = {name: jnp.full(shape, at(count, first)) for name, (shape, count, first) in self.finite.items()}
            curvature = jax.hessian(lambda x, values=values: self.log_joint(values, x))
            one, two = curvature(vector), curvature(other)
            if not float(jnp.max(jnp.abs(one - two))) <= 1e-4 * max(float(jnp.max(jnp.abs(one))), 1e-6):
                raise _not_conjugate(", ".join(self.reals), "a log density that is not quadratic in the real choices")


def _not_conjugate(name: str, got: str) -> PPLError:
    return PPLError(
        f'`cavi` has no exact update for "{name}".',
        where=user_source(),
        expected="finite choices, and real ones in which the log density is quadratic",
        got=got,
        remedy="fit a guide by `elbo`, or observe or marginalise the choice",
    )
