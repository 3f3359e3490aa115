"""One training run: its checked arguments, and the loop over its chunks."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.tree_util import keystr, tree_leaves_with_path

from ppl._errors import PPLError
from ppl.training import inputs
from ppl.training.batches import Batches
from ppl.training.checkpoint import Checkpoints
from ppl.training.history import MAX_STREAK, History
from ppl.training.progress import Progress
from ppl.training.step import Carry, Constants, make_chunk, own
from ppl.training.termination import termination_deferred
from ppl.training.trees import describe, fingerprint


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """What training returns.

    Attributes:
        params: The trained parameters; leaves that are not trained are the very objects that were given.
        state: The last state of the user's function, or None.
        history: NumPy arrays with an entry for each step: `value`, as the function returned it, and `grad_norm`.
        opt_state: The last state of the optimizer.
        steps: Number of steps, including those before a resumed run.
        seconds: Wall time of this call, compilation included.
        skipped: Number of steps that changed nothing, because the value or the gradient norm was not finite.
    """

    params: Any = dataclasses.field(repr=False)
    state: Any = dataclasses.field(repr=False)
    history: dict[str, np.ndarray] = dataclasses.field(repr=False)
    opt_state: Any = dataclasses.field(repr=False)
    steps: int
    seconds: float
    skipped: int


class Run:
    """The arguments of `maximize`, checked and ready to train; `sign` is 1 to climb and -1 to descend."""

    def __init__(self, f, params, data, optimizer, sign, steps, key, batch_size, trainable, state, chunk):
        self._began = time.perf_counter()
        self._steps = inputs.as_count("steps", steps)
        self._per_chunk = _default_chunk(self._steps) if chunk is None else inputs.as_count("chunk", chunk)
        # XLA unrolls a loop that it knows to run once, and then rounds in other ways: a second step is dropped instead.
        length = max(2, min(self._steps, self._per_chunk))
        inputs.check_key(key)
        inputs.check_optimizer(optimizer)
        trained, self._fixed = inputs.split_trainable(params, trainable)
        self._paths = [f"params{keystr(path)}" for path, _ in tree_leaves_with_path(trained)]
        self._batch_size = None if batch_size is None else inputs.as_count("batch_size", batch_size)
        self._batches = _batches(key, data, self._batch_size, length)
        fixed, data = _on_device((self._fixed, data))
        self._constants = Constants(fixed, data, key, start=0, stop=0, rows=None, first=0)
        self._carry = own(Carry(trained, optimizer.init(trained), state))
        self._chunk = make_chunk(f, optimizer, sign=sign, has_state=state is not None, length=length)
        self._sign = sign

    def train(self, checkpoint, resume, progress, callback) -> Result:
        """Make the steps that remain, with a save, a line of progress and a call after every chunk."""
        saves = self._saves(checkpoint, resume)
        done, carry, history = self._start(saves if resume else None)
        with Progress(self._steps, done, progress) as bar, termination_deferred(saves is not None) as terminated:
            while done < self._steps and not terminated.is_set():
                start, done = done, min(done + self._per_chunk, self._steps)
                carry, record = self._chunk(self._chunk_constants(start, done), carry)
                columns = {name: np.asarray(column)[: done - start] for name, column in record.items()}
                history.check(columns, columns.pop("culprit"), start, self._paths)
                if saves is not None:
                    saves.save(done, carry, history.columns())
                bar.advance(columns["value"], history.skipped)
                if callback is not None:
                    callback(done, self._whole(own(carry.params)), history.columns())
        return self._result(done, carry, history)

    def _chunk_constants(self, start, stop):
        rows, first = (None, 0) if self._batches is None else self._batches.rows(start)
        return self._constants._replace(start=jnp.int32(start), stop=jnp.int32(stop), rows=rows, first=jnp.int32(first))

    def _saves(self, checkpoint, resume):
        """Return the checkpoints of this run: their settings are what must not change when it is resumed."""
        if checkpoint is None:
            if resume:
                raise PPLError("`resume` needs a folder to resume from.", remedy="checkpoint=FOLDER")
            return None
        key, data = self._constants.key, self._constants.data
        settings = {
            "objective": "maximize" if self._sign > 0 else "minimize",
            "batch_size": self._batch_size,
            "data": describe(data),
            "fixed leaves": fingerprint(self._fixed),
            "key": [str(jr.key_impl(key)), np.asarray(jr.key_data(key)).tolist()],
        }
        return Checkpoints(checkpoint, settings, resume)

    def _start(self, saves):
        """Return steps done, carry and history: the saved ones if there are any."""
        saved = saves and saves.load(self._carry)
        done, carry, columns = saved or (0, self._carry, None)
        del self._carry  # its buffers are about to be overwritten, or to make room for the saved ones
        if done > self._steps:
            raise PPLError("The run to resume has gone further than `steps`.", expected=f"{self._steps}", got=f"{done}")
        return done, carry, History(columns, min(MAX_STREAK, self._steps))

    def _whole(self, trained):
        return eqx.combine(trained, self._fixed)

    def _result(self, done, carry, history):
        seconds = time.perf_counter() - self._began
        params = self._whole(carry.params)
        return Result(params, carry.state, history.columns(), carry.opt_state, done, seconds, history.skipped)


def _default_chunk(steps: int) -> int:
    """Return a chunk of a hundredth of the steps, within limits: what is dropped of the last one is little."""
    return min(max(10, -(-steps // 100)), 1000)


def _batches(key, data, batch_size, length):
    if batch_size is None:
        return None
    return Batches(key, inputs.num_examples(data, batch_size), batch_size, length)


def _on_device(tree):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf) if eqx.is_array(leaf) else leaf, tree)
