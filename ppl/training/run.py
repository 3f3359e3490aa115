"""One training run: its checked arguments, and the loop over its chunks."""

from __future__ import annotations

import dataclasses
import functools
import time
from typing import Any

import equinox as eqx
import jax.random as jr
import numpy as np
from jax.tree_util import keystr, tree_leaves_with_path

from ppl._errors import PPLError
from ppl.training import inputs, processes
from ppl.training.checkpoint import Checkpoints
from ppl.training.diagnosis import find_origins
from ppl.training.history import MAX_STREAK, History
from ppl.training.optimizers import as_optimizer
from ppl.training.placement import Placement
from ppl.training.progress import Progress
from ppl.training.sources import make_source
from ppl.training.step import Carry, Constants, Settings, as_arrays, make_chunk, objective_of
from ppl.training.termination import termination_deferred
from ppl.training.trees import fingerprint


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """What training returns.

    Attributes:
        params: The trained parameters; leaves that are not trained are the very objects that were given.
        state: The last state of the user's function, or None.
        history: NumPy arrays with an entry for each step: `value`, as the function returned it, and `grad_norm`.
        opt_state: The last state of the optimizer.
        steps: Number of steps, including those before a resumed run; fewer than asked for if `stop` said so.
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

    def __init__(
        self, f, params, data, optimizer, sign, *, steps, key, batch_size, trainable, state, chunk, prefetch, mesh
    ):
        self._began = time.perf_counter()
        self._steps = inputs.as_count("steps", steps)
        inputs.check_key(key)
        trained, self._fixed = inputs.split_trainable(params, trainable)
        optimizer = as_optimizer(optimizer, params, trained)
        self._paths = [f"params{keystr(path)}" for path, _ in tree_leaves_with_path(trained)]
        self._batch_size = None if batch_size is None else inputs.as_count("batch_size", batch_size)
        self._placement, self._key, self._sign = Placement(mesh), key, sign
        ahead = inputs.as_count("prefetch", prefetch, least=0)
        self._source = make_source(data, key, self._batch_size, ahead, self._placement)
        self._per_chunk = _chunk_of(self._steps, self._source, chunk)
        self._carry = self._first_carry(trained, optimizer, state)
        self._settings = self._settings_of(f, optimizer, state)
        self._chunk = eqx.filter_jit(make_chunk(self._settings), donate="all-except-first")

    def _first_carry(self, trained, optimizer, state) -> Carry:
        """Return copies that the first chunk may overwrite."""
        place = self._placement.replicate
        trained = place(as_arrays(trained))
        return place(as_arrays(Carry(trained, optimizer.init(trained), state)))

    def _settings_of(self, f, optimizer, state) -> Settings:
        return Settings(
            f,
            optimizer,
            self._sign,
            has_state=state is not None,
            # XLA unrolls a loop that it knows to run once, and then rounds in other ways: a second step is dropped.
            length=max(2, self._per_chunk),
            limit=min(MAX_STREAK, self._steps),
            placement=self._placement,
            shardings=self._placement.shardings(eqx.filter(self._carry, eqx.is_array)),
        )

    def train(self, checkpoint, resume, progress, callback, stop) -> Result:
        """Make the steps that remain, with a save, a line of progress and a call after every chunk."""
        saves = self._saves(checkpoint, resume)
        done, carry, history = self._start(saves if resume else None)
        starts = range(done, self._steps, self._per_chunk)
        with (
            Progress(self._steps, done, progress if self._placement.is_first else False) as bar,
            termination_deferred(saves is not None) as terminated,
            self._source.open(starts, self._steps) as chunks,
        ):
            while done < self._steps and not self._ends(terminated, stop, history):
                start, done = done, min(done + self._per_chunk, self._steps)
                constants = self._constants(start, done, next(chunks), history.streak)
                carry, record = self._chunk(constants, carry)
                columns = {name: np.asarray(column)[: done - start] for name, column in record.items()}
                diagnose = functools.partial(self._diagnose, constants, carry)
                history.check(columns, columns.pop("culprit"), start, self._paths, diagnose)
                self._save(saves, done, carry, history)
                bar.advance(columns["value"], history.skipped)
                if callback is not None:
                    callback(done, self._whole(self._placement.replicate(carry.params)), history.columns())
        return self._result(done, carry, history)

    def first_chunk(self) -> tuple:
        """Return the function of a chunk before it is compiled, and its arguments for the first one."""
        starts = range(0, self._steps, self._per_chunk)
        with self._source.open(starts, self._steps) as chunks:
            constants = self._constants(0, min(self._per_chunk, self._steps), next(chunks), 0)
        return make_chunk(self._settings), (constants, self._carry)

    def _constants(self, start, stop, examples, streak) -> Constants:
        start, stop, streak = (np.asarray(number, np.int32) for number in (start, stop, streak))
        return Constants(self._placed_fixed, examples, self._placed_key, start, stop, streak)

    @functools.cached_property
    def _placed_fixed(self):
        return self._placement.replicate(self._fixed)

    @functools.cached_property
    def _placed_key(self):
        return self._placement.replicate(self._key)

    def _ends(self, terminated, stop, history) -> bool:
        """Tell whether to end before the last step."""
        if processes.any_of_them(terminated.is_set(), self._placement.spans_processes):
            terminated.set()
            return True
        values = history.values()
        return bool(stop is not None and len(values) and stop(self._sign * values))

    def _diagnose(self, constants, carry, step) -> list[str]:
        """Say where a number that is not finite comes from; nothing has changed since the step that made it."""
        if self._placement.spans_processes:
            return []
        objective, args = objective_of(self._settings, constants, carry, step)
        names, trained = ("params", "params", "state", "data"), len(self._paths)
        try:
            return find_origins(objective, jr.fold_in(constants.key, step), args, names, trained)
        except Exception as error:  # The run has failed, and why it did must not be hidden by this.
            return [f"(where it began could not be found out: {type(error).__name__}: {error})"]

    def _saves(self, checkpoint, resume):
        """Return the checkpoints of this run: their settings are what must not change when it is resumed."""
        if checkpoint is None:
            if resume:
                raise PPLError("`resume` needs a folder to resume from.", remedy="checkpoint=FOLDER")
            return None
        settings = {
            "objective": "maximize" if self._sign > 0 else "minimize",
            "batch_size": self._batch_size,
            "data": self._source.settings,
            "fixed leaves": fingerprint(self._fixed),
            "key": [str(jr.key_impl(self._key)), np.asarray(jr.key_data(self._key)).tolist()],
        }
        return Checkpoints(checkpoint, settings, resume)

    def _save(self, saves, done, carry, history):
        """Let the first process write; all end if it cannot."""
        if saves is None:
            return
        carry = self._placement.whole(carry)
        with processes.together(self._placement.spans_processes):
            if self._placement.is_first:
                saves.save(done, carry, history.columns())

    def _start(self, saves):
        """Return steps done, carry and history: the saved ones if there are any."""
        saved = saves and saves.load(self._carry)
        done, carry, columns = saved or (0, self._carry, None)
        del self._carry  # its buffers are about to be overwritten, or to make room for the saved ones
        processes.agree("step of the checkpoint", done, self._placement.spans_processes)
        if done > self._steps:
            raise PPLError("The run to resume has gone further than `steps`.", expected=f"{self._steps}", got=f"{done}")
        return done, carry, History(columns, self._settings.limit)

    def _whole(self, trained):
        return eqx.combine(trained, self._fixed)

    def _result(self, done, carry, history):
        seconds = time.perf_counter() - self._began
        params = self._whole(carry.params)
        return Result(params, carry.state, history.columns(), carry.opt_state, done, seconds, history.skipped)


def _chunk_of(steps: int, source, chunk) -> int:
    """Return the number of steps between two saves.

    By default a hundredth of the steps, within limits: what is dropped of the last chunk is little.
    """
    default = min(max(10, -(-steps // 100)), source.per_chunk)
    return min(steps, default if chunk is None else inputs.as_count("chunk", chunk))
