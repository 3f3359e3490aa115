"""`maximize` and `minimize`: stochastic gradient ascent and descent."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from ppl._errors import boundary
from ppl.training.run import Result, Run

if TYPE_CHECKING:
    import optax


@boundary
def maximize(
    f: Callable,
    params: Any,
    data: Any,
    optimizer: optax.GradientTransformation | Any,
    *,
    steps: int,
    key: jax.Array,
    batch_size: int | None = None,
    trainable: Any = None,
    state: Any = None,
    checkpoint: str | os.PathLike | None = None,
    resume: bool = False,
    chunk: int | None = None,
    stop: Callable[[np.ndarray], bool] | None = None,
    prefetch: int = 2,
    mesh: jax.sharding.Mesh | None = None,
    progress: bool | None = None,
    callback: Callable[[int, Any, dict[str, np.ndarray]], Any] | None = None,
) -> Result:
    r"""Climb the expectation of a stochastic function by stochastic gradient steps.

    Step s moves the parameters along an unbiased estimate of the gradient of E f(params, batch), drawn with
    `jax.random.fold_in(key, s)`. It therefore depends on the arguments alone: not on the length of the chunks, on
    what is shown, or on how often the run was interrupted and resumed.

    Args:
        f: Stochastic function `f(params, batch)`, or `f(params, state, batch) -> (value, new_state)` if a state is
            given. Without data it is called without the batch.
        params: Pytree whose inexact arrays are trained; functions, integers, keys and other leaves reach f as they are.
        data: Pytree of arrays of examples; or None; or a stream of batches, which need not fit in memory: a function
            `data(step)` that returns an iterable of the batches from that step on, or an iterable of the batches from
            step 0 on, of which a resumed run skips those it has seen. Where one ends, the function is called again
            for the step that is due, and an iterable is read again from its beginning.
        optimizer: Descending optax transformation, as they all are; or several, in a pytree that is a prefix of
            `params`: `{"model": optax.adam(1e-3), "guide": optax.adam(1e-2)}`.
        steps: Number of steps.
        key: Typed key of the whole run.
        batch_size: Number of examples in a batch. Every epoch is shuffled anew, by `key`, and cut into whole batches;
            the remainder is dropped. None gives all of `data`, which may then be any pytree, at every step. Streams
            give batches of their own.
        trainable: Pytree of bools like `params`, or a prefix of it, or a function of `params` giving one.
        state: Pytree that f updates: moving averages, caches.
        checkpoint: Folder in which to save the run after every chunk: parameters, states, position in the data and
            history. Saves of another run there are replaced. Of several processes the first writes; all read.
        resume: Whether to go on from the newest usable save in that folder; without any, start at the beginning.
            All other arguments must be those of the run that wrote it, but for `steps`, `chunk`, `mesh` and what is
            shown.
        chunk: Number of steps compiled into one loop, between two saves. By default a hundredth of `steps`, but
            between 10 and 1000 (100 for a stream, of which some chunks are held in memory). The last chunk computes
            its full length and drops what exceeds `steps`; a chunk of one step computes two.
        stop: Asked after every chunk whether to end, as `stop(values)` with the values of all steps so far, signed so
            that higher is better; `ppl.training.Plateau(window, patience)` is one.
        prefetch: Number of chunks of a stream that are read and put on the device ahead of time, in a thread that ends
            with the call. 0 reads them when they are needed.
        mesh: Devices, also of several processes. Examples and batches are split over its first axis (arrays whose
            leading axis has no equal parts are not), and parameters lie on all devices, but for those that are
            sharded over this mesh already. The numbers are those of one device, but for rounding. Other axes are for
            f, which may split particles over them by `jax.lax.with_sharding_constraint`. Each process gives the same
            arguments, all of `data` included.
        progress: Whether to show a bar on stderr; None shows it only where stderr is a terminal.
        callback: Called after every chunk, and after its save, as `callback(steps_done, params, history)`. What it
            raises ends the run.

    Returns:
        The trained parameters, with the history of the run.

    Raises:
        PPLError: If the arguments do not fit together (before anything is compiled); if no save can be resumed from,
            or one cannot be written; if a stream ends, or its batches differ; or after 20 steps in a row without a
            finite value and gradient, with the choice, density or operation where that began.
        SystemExit: After the chunk in which SIGTERM arrived has been saved, if there is a `checkpoint`.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from ppl import maximize, normal
        >>> def objective(params):
        ...     x = normal(params["loc"], 1.0).sample()
        ...     return -((x - 3.0) ** 2)
        >>> init = {"loc": jnp.array(0.0)}
        >>> fit = maximize(objective, init, None, optax.adam(0.1), steps=300, key=jax.random.key(0))
        >>> bool(abs(fit.params["loc"] - 3.0) < 0.5)
        True
    """
    run = Run(
        f, params, data, optimizer, 1.0, steps=steps, key=key, batch_size=batch_size, trainable=trainable, state=state,
        chunk=chunk, prefetch=prefetch, mesh=mesh,
    )  # fmt: skip
    return run.train(checkpoint, resume, progress, callback, stop)


@boundary
def minimize(
    f: Callable,
    params: Any,
    data: Any,
    optimizer: optax.GradientTransformation | Any,
    *,
    steps: int,
    key: jax.Array,
    batch_size: int | None = None,
    trainable: Any = None,
    state: Any = None,
    checkpoint: str | os.PathLike | None = None,
    resume: bool = False,
    chunk: int | None = None,
    stop: Callable[[np.ndarray], bool] | None = None,
    prefetch: int = 2,
    mesh: jax.sharding.Mesh | None = None,
    progress: bool | None = None,
    callback: Callable[[int, Any, dict[str, np.ndarray]], Any] | None = None,
) -> Result:
    """Descend the expectation of a stochastic function: `maximize` of -f, with the values of f in the history.

    Args:
        f: As for `maximize`, and so are all other arguments.
        params: Initial parameters.
        data: Examples, a stream of batches, or None.
        optimizer: Optax transformation, or several.
        steps: Number of steps.
        key: Typed key.
        batch_size: Number of examples in a batch.
        trainable: Which leaves to train.
        state: Pytree that f updates.
        checkpoint: Folder of the saves.
        resume: Whether to go on from a save.
        chunk: Number of steps between two saves.
        stop: Asked whether to end, with values signed so that higher is better: those of -f.
        prefetch: Number of chunks of a stream read ahead.
        mesh: Devices over which examples are split.
        progress: Whether to show a bar.
        callback: Called after every chunk.

    Returns:
        The trained parameters, with the history of the run.

    Raises:
        PPLError: As `maximize` does.
        SystemExit: As `maximize` does.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from ppl import minimize, normal
        >>> def loss(loc):
        ...     return (normal(loc, 1.0).sample() - 3.0) ** 2
        >>> fit = minimize(loss, jnp.array(0.0), None, optax.adam(0.1), steps=300, key=jax.random.key(0))
        >>> bool(abs(fit.params - 3.0) < 0.5)
        True
    """
    run = Run(
        f, params, data, optimizer, -1.0, steps=steps, key=key, batch_size=batch_size, trainable=trainable, state=state,
        chunk=chunk, prefetch=prefetch, mesh=mesh,
    )  # fmt: skip
    return run.train(checkpoint, resume, progress, callback, stop)
