"""What a user writes: a random choice, its address, and the watch for choices that are never used."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ppl import batching as batching  # Its import sets the rules of vmap.
from ppl._errors import AddressError, PPLError, StrategyError, boundary, user_source
from ppl.family import Spec
from ppl.operands import as_static, baseline_operand
from ppl.primitives import bind_choice, bind_density
from ppl.specs import Whole, foreign, score_spec
from ppl.strategies.protocol import Strategy, as_strategy
from ppl.value_checks import checked


def as_path(address: Any) -> tuple[str, ...]:
    """Check an address: a non-empty string without "/", or a tuple of such strings."""
    parts = address if isinstance(address, tuple) else (address,)
    if parts and all(isinstance(part, str) and part and "/" not in part for part in parts):
        return parts
    raise AddressError(
        "This is not an address.",
        where=user_source(),
        expected='a non-empty string without "/", or a tuple of such strings',
        got=repr(address),
        remedy='write `... @ "z"`, or `... @ ("group", "z")` for nested addresses',
    )


@dataclasses.dataclass
class Frame:
    """What is being traced: whose body, and the choices and calls made in it that are not yet used."""

    name: str
    pending: list[Pending] = dataclasses.field(default_factory=list)


_frames: list[Frame] = []


class tracing:  # noqa: N801 - a context manager, used as a word.
    """Collect the choices and calls made while a body is traced, and refuse those that are never used."""

    def __init__(self, name: str):
        self.frame = Frame(name)

    def __enter__(self) -> Frame:
        _frames.append(self.frame)
        return self.frame

    def __exit__(self, kind, error, traceback) -> None:
        _frames.pop()
        forgotten = [item for item in self.frame.pending if not item.used]
        if forgotten and (kind is None or kind is TypeError):  # Used as a number, it is a TypeError of Python or JAX.
            raise AddressError(
                f"`{self.frame.name}` makes a {forgotten[0].noun} that is never addressed.",
                where=f"`{forgotten[0]}` at {forgotten[0].source}",
                expected='`... @ "address"` (or `.sample()` in an objective)',
                got="neither" if error is None else f"{str(error).splitlines()[0]}",
                remedy=f'write `{forgotten[0]} @ "name"`',
            )


class Pending:
    """What must be used before tracing ends; then it is let go, or its arrays would outlive the body they are of."""

    _used = False

    @property
    def used(self) -> bool:
        """Whether it has been used."""
        return self._used

    @used.setter
    def used(self, yes: bool) -> None:
        self._used = yes
        for frame in _frames if yes else ():
            frame.pending[:] = [item for item in frame.pending if item is not self]


def note_pending(item: Pending) -> None:
    """Remember a choice or call that must be used before tracing ends."""
    if _frames:
        _frames[-1].pending.append(item)


class Choice(Pending):
    """A distribution about to be chosen from: `@ "address"`, `.sample()`, or `.log_prob(x)`."""

    noun = "random choice"

    def __init__(self, spec: Spec, params: Sequence, strategy: Any, default: Strategy | None):
        self.spec, self.params, self.source = spec, list(params), user_source()
        self.strategy = as_strategy(strategy) or default
        self.used = False
        self._check()
        self.params = checked(spec, self.params, self.source)
        note_pending(self)

    def __repr__(self) -> str:
        return f"{self.spec.family}(...)"

    def _check(self) -> None:
        shapes = [jnp.shape(param) for param in self.params]
        listed = ", ".join(f"{name} {shape}" for name, shape in zip(self.spec.names, shapes, strict=True))
        for name, shape, ndim in zip(self.spec.names, shapes, self.spec.event_ndims, strict=True):
            if len(shape) < ndim:
                raise PPLError(
                    f"`{self.spec.family}` takes a parameter `{name}` with at least {ndim} axes.",
                    where=self.source,
                    got=f"shape {shape}",
                    remedy=f"give `{name}` its event axes: they come last",
                )
        try:
            self.spec.batch_shape(shapes)
            self.spec.check_events(shapes)
        except ValueError:
            raise PPLError(
                f"The parameters of `{self.spec.family}` do not fit together.",
                where=self.source,
                expected="batch axes that broadcast, and event axes of one size",
                got=listed,
                remedy="reshape the parameters, or make several choices with `jax.vmap`",
            ) from None
        if self.spec.family.enumerable and self.spec.num_values(shapes) < 1:
            raise PPLError(
                f"`{self.spec.family}` has no value to choose from.",
                where=self.source,
                expected="at least one category",
                got=listed,
                remedy="give its event axis a size of at least 1",
            )
        reason = self.strategy.check(self.spec.family) if self.strategy is not None else None
        if reason:
            raise StrategyError(
                f"`{self.strategy}` does not apply to `{self.spec.family}`: {reason}.",
                where=self.source,
                remedy=f"use one of: {', '.join(sound_strategies(self.spec.family))}",
            )

    @boundary
    def __matmul__(self, address: Any) -> jax.Array:
        """Make the choice under an address."""
        self.used = True
        path = as_path(address)
        return self._bind(path, "/".join(path))

    @boundary
    def sample(self, label: str | None = None) -> jax.Array:
        """Make the choice without an address: for objectives, not for the body of a `@gen` function.

        Args:
            label: Its name in reports and for `with_grad`; by default that of the distribution.
        """
        self.used = True
        return self._bind(None, label or self.spec.family.name)

    def _bind(self, address, label):
        shape = self.spec.batch_shape([jnp.shape(param) for param in self.params])
        baseline = baseline_operand(self.strategy, [tuple(shape)], f"{label!r} at {self.source}")
        (value,) = bind_choice(
            self.params if baseline is None else [*self.params, baseline],
            spec=self.spec,
            address=address,
            label=label,
            strategy=as_static(self.strategy),
            source=self.source,
            baseline=baseline is not None,
        )
        return value

    @boundary
    def log_prob(self, value: Any) -> jax.Array:
        """Evaluate the log density of a value, elementwise over the batch; -inf outside the support."""
        self.used = True
        value, params = self._broadcast(jnp.asarray(value))
        return bind_density(value, params, spec=self.spec, lanes=(), masked=False, inside=False, label=str(self))

    def _broadcast(self, value) -> tuple[jax.Array, list]:
        """Give a value and the first parameter the batch axes of both."""
        if not self.spec.event_ndims or isinstance(self.spec, Whole):
            return value, self.params
        spec, (first, *rest) = self.spec, self.params
        if not spec.family.discrete and not jnp.issubdtype(value.dtype, jnp.inexact):
            value = value.astype(first.dtype)
        shapes = [param.shape for param in self.params]
        event = spec.event_shape(shapes)
        own = value.shape[: value.ndim - len(event)]
        try:
            if value.shape[len(own) :] != event:
                raise ValueError
            batch = np.broadcast_shapes(own, spec.batch_shape(shapes))
        except ValueError:
            raise PPLError(
                f"A value does not broadcast against the parameters of `{spec.family}`.",
                where=self.source,
                expected=f"batch shape {spec.batch_shape(shapes)} and event shape {event}",
                got=f"shape {value.shape}",
                remedy="reshape the value: batch axes broadcast, event axes come last",
            ) from None
        first = jnp.broadcast_to(first, batch + first.shape[first.ndim - spec.event_ndims[0] :])
        return jnp.broadcast_to(value, batch + event), [first, *rest]


def choice(distribution: Any, grad: Any = None) -> Choice:
    """Make a random choice from any object with `sample(key)` and `log_prob(value)` (NumPyro, distrax, flowjax).

    Args:
        distribution: The object. Arrays that it holds, or that its methods close over, may be differentiated.
        grad: The gradient strategy; there is no default. `pathwise` needs a differentiable `sample`.

    Returns:
        A choice whose value is one draw; its batch is drawn and scored as a whole. Booleans and integers are int32,
        and given back to `log_prob` in the type of `sample`, outside of which the density is 0.

    Raises:
        PPLError: `sample` or `log_prob` returns something other than one array.

    Example:
        >>> import jax, numpyro.distributions as dist, ppl
        >>> model = ppl.gen(lambda: ppl.choice(dist.Weibull(2.0, 1.5)) @ "w")
        >>> model.simulate(jax.random.key(0))["w"].shape
        ()
    """
    spec, operands = foreign(distribution)
    return Choice(spec, operands, grad, None)


def score_prior(score_fn: Callable, shape: tuple[int, ...]) -> Choice:
    """Make a choice whose prior is known by its score only, as a denoiser D gives it: (D(x) - x) / sigma**2.

    Its density has a tangent, <score(x), dx>, and counts as 0: it may stand in an ELBO, not in a log weight. It cannot
    be sampled, so a generative function that makes such a choice is unnormalised.

    Args:
        score_fn: Maps a value to the gradient of log p there, of the same shape. What it closes over gets no gradient.
        shape: Shape of a value.

    Returns:
        The choice.

    Raises:
        PPLError: The score has another shape.

    Example:
        >>> import jax, jax.numpy as jnp, ppl
        >>> model = ppl.gen(lambda: ppl.score_prior(lambda x: -x, (2,)) @ "x")
        >>> jax.grad(lambda x: model.log_density({"x": x}))(jnp.array([1.0, 2.0])).tolist()
        [-1.0, -2.0]
    """
    spec, operands = score_spec(score_fn, tuple(shape))
    return Choice(spec, operands, None, None)


def sound_strategies(family) -> list[str]:
    """Name the built-in strategies that apply to a family."""
    from ppl.strategies import enum, pathwise, reinforce

    return [f"{s}()" for s in (pathwise(), enum(), reinforce()) if not s.check(family)]
