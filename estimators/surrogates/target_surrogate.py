"""Target-based surrogate optimisation, as an optax transformation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from estimators.surrogates.checks import check_call, check_target, require_steps
from estimators.surrogates.divergences import Euclidean
from estimators.surrogates.sizes import AdaGrad, LineSearch, as_size
from ppl import PPLError
from ppl._errors import boundary, user_source
from ppl.training import descend


@dataclasses.dataclass(frozen=True)
class NoiseAware:
    """Make inner steps as long as they can be told from noise.

    A step that moves the target by d changes the surrogate's linear part by <G, d>, of variance sum(Var(G) d^2), which
    Targeted(runs=2) or more estimate. The inner loop ends after the first step whose decrease of the surrogate is less
    than `sigmas` standard deviations. At least one step is made. As the steps follow the noise, noise alone makes
    decreases of about sqrt(d) standard deviations, d the number of directions in which the model can move: `sigmas`
    should be about that.

    Args:
        most: Largest number of inner steps.
        sigmas: How clear of noise a decrease has to be.

    Raises:
        PPLError: `most` is no positive int.

    Example:
        >>> from estimators import NoiseAware
        >>> NoiseAware(100).sigmas
        10.0
    """

    most: int
    sigmas: float = 10.0

    def __post_init__(self):
        require_steps(self.most)


class SurrogateState(NamedTuple):
    """What is kept from step to step.

    Attributes:
        count: Number of steps made.
        size: State of the rule for eta.
        inner: State of the inner optimiser; used if it is carried over.
        made: Number of inner steps of the last step.
        eta: Step size of the last step.
    """

    count: jax.Array
    size: Any
    inner: Any
    made: jax.Array
    eta: jax.Array


@boundary
def target_surrogate(
    inner: optax.GradientTransformation,
    eta: Any,
    num_inner: int | NoiseAware,
    divergence: Callable[[Any, Any], jax.Array] | None = None,
    *,
    carry: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Use one dear gradient G of a loss at z_t = f(params_t) for several cheap steps (Lavington et al. 2023).

    The steps descend g(params) = <G, f(params) - z_t> + D(f(params), z_t) / eta, with D half the squared distance
    unless told otherwise. The first inner gradient is that of the loss itself, so that one plain inner step is plain
    gradient descent. If the loss is L-smooth in z and eta <= 1 / L, g + loss(z_t) lies above the loss, which then
    cannot rise, however many steps are made. With a noisy G eta should shrink, the more so the more steps are made.

    It is trained by `ppl.minimize` with a [`Targeted`][ppl.training.Targeted] objective; or called by hand, as any
    transformation: `update(G, state, params, target_fn=f)`, where G is like f(params). Which rows are held near z_t is
    a matter of what f returns: a batch's, or all (with a loss that reads some of them). Parameters of the loss itself,
    such as a decoder's, may be part of the target: they then move towards a plain step of -eta G. What is to happen
    once in a step (weight decay) is chained behind it, and what in every inner step, into `inner`.

    Args:
        inner: Descending optax transformation, of the inner steps; it is told `value`, `grad` and `value_fn`, too.
        eta: Positive number, optax schedule, [`LineSearch`][estimators.LineSearch] or [`AdaGrad`][estimators.AdaGrad].
        num_inner: Number of inner steps, or [`NoiseAware`][estimators.NoiseAware].
        divergence: D(z, z_t); [`Euclidean()`][estimators.Euclidean], or
            [`kl_divergence(guide, observed)`][estimators.kl_divergence], or any function.
        carry: Whether the state of `inner` goes on from step to step, instead of being new in each.

    Returns:
        The transformation, whose updates are new parameters less old ones.

    Raises:
        PPLError: `num_inner` is no positive int; `eta` is not positive; line search or AdaGrad with a divergence that
            is not Euclidean. By `update`: a missing `params` or `target_fn`; a gradient that is not like the target,
            or that is not finite; a target that is not deterministic; a line search without `target_value_fn`,
            `NoiseAware` without `target_variance`.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from ppl import minimize, normal
        >>> from ppl.training import Targeted
        >>> from estimators import target_surrogate
        >>> loss = lambda z: jnp.sum((z + normal(0.0, 0.1).sample() - 1.0) ** 2) / 2
        >>> inputs = jnp.array([[1.0, 1.0], [1.0, 2.0]])
        >>> optimizer = target_surrogate(optax.sgd(0.07), eta=0.5, num_inner=20)
        >>> f, key = Targeted(lambda w: inputs @ w, loss), jax.random.key(0)
        >>> fit = minimize(f, jnp.zeros(2), None, optimizer, steps=100, key=key)
        >>> bool(jnp.max(jnp.abs(inputs @ fit.params - 1.0)) < 0.3)
        True
    """
    most = num_inner.most if isinstance(num_inner, NoiseAware) else require_steps(num_inner)
    size, divergence = as_size(eta), Euclidean() if divergence is None else divergence
    if isinstance(size, LineSearch | AdaGrad) and not isinstance(divergence, Euclidean):
        raise PPLError(
            "Line search and AdaGrad measure steps by the Euclidean norm.",
            where=user_source(),
            got=f"divergence={divergence!r}",
            remedy="give `eta` as a number or a schedule, or leave `divergence` out",
        )

    def init(params: Any) -> SurrogateState:
        zero = jnp.zeros((), jnp.int32)
        return SurrogateState(zero, size.init(), inner.init(params) if carry else (), zero, jnp.zeros(()))

    @boundary
    def update(
        target_grad: Any,
        state: SurrogateState,
        params: Any = None,
        *,
        target_fn: Callable | None = None,
        target_value_fn: Callable | None = None,
        target_variance: Any = None,
        **extra: Any,
    ) -> tuple[Any, SurrogateState]:
        check_call(params, target_fn)
        before = check_target(target_fn, params, target_grad)
        weight = divergence.weight(before) if isinstance(divergence, Euclidean) else 1.0
        step, new_size = size.size(state.size, state.count, target_grad, weight, before, target_value_fn)

        def surrogate(params: Any) -> jax.Array:
            z = target_fn(params)
            linear = sum(jnp.sum(g * (a - b)) for g, a, b in _leaves(target_grad, z, before))
            return linear + divergence(z, before) / step

        stop = _stop(num_inner, surrogate, target_fn, target_variance)
        start = state.inner if carry else inner.init(params)
        moved, ended, made = descend(surrogate, params, inner, start, most, stop)
        updates = jax.tree.map(lambda a, b: a - b, moved, params)
        new = SurrogateState(
            state.count + 1, new_size, ended if carry else (), made, jnp.asarray(step, state.eta.dtype)
        )
        return updates, new

    return optax.GradientTransformationExtraArgs(init, update)


def _leaves(*trees: Any) -> Any:
    return zip(*(jax.tree.leaves(tree) for tree in trees), strict=True)


def _stop(num_inner: Any, surrogate: Callable, target_fn: Callable, variance: Any) -> Callable | None:
    """Return what ends the inner loop: a decrease that noise makes as well."""
    if not isinstance(num_inner, NoiseAware):
        return None
    if variance is None:
        raise PPLError(
            "`NoiseAware` needs the variance of the target's gradient.",
            where=user_source(),
            expected="`target_variance`, like the gradient",
            got="None",
            remedy="train a `Targeted(..., runs=2)` or more, or pass `target_variance=` to `update`",
        )

    def stop(before: Any, after: Any) -> jax.Array:
        noise = sum(jnp.sum(v * (b - a) ** 2) for v, a, b in _leaves(variance, target_fn(before), target_fn(after)))
        return surrogate(before) - surrogate(after) < num_inner.sigmas * jnp.sqrt(noise)

    return stop
