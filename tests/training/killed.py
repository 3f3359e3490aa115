"""A training run that is killed again and again: run as `python -m tests.training.killed FOLDER KILLS`.

It forks itself before JAX starts, so that every run is a fresh process without the time of the imports. Each run is
killed by SIGKILL at a random moment, from its start to some time after its first save, and the next one resumes; the
last is left alone. Every batch that is read is noted with its step, so that steps that were made and lost are counted.
Prints a JSON row.
"""

import hashlib
import itertools
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ppl import normal
from ppl.training import maximize

CHUNK, STEPS_FOR_EACH_KILL = 4, 60  # a run gets through fewer before it is killed


def objective(params, state, batch):
    fit = -jnp.mean((params["w"][:5] + normal(0.0, 1.0).sample() - batch) ** 2)
    return fit - jnp.mean(params["w"] ** 2), {
        "mean": 0.9 * state["mean"] + 0.1 * fit,
        "key": jax.random.split(state["key"])[1],
    }


def batches(log):
    """Return a stream that notes each batch before it is used."""

    def from_step(start):
        for step in itertools.count(start):
            os.write(log, f"{step}\n".encode())
            yield np.random.default_rng(step).normal(size=(3, 5))

    return from_step


def train(folder, steps):
    """Train to the end; write a digest of all that training returns."""
    log = os.open(folder / "batches.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    fit = maximize(
        objective, {"w": jnp.ones(100_000)}, batches(log), optax.adam(0.1), steps=steps, key=jax.random.key(3),
        state={"mean": 0.0, "key": jax.random.key(4)}, checkpoint=folder / "run", resume=True, chunk=CHUNK, prefetch=0,
    )  # fmt: skip
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves((fit.params, fit.opt_state, fit.state["mean"], jax.random.key_data(fit.state["key"]))):
        digest.update(np.asarray(leaf).tobytes())
    digest.update(fit.history["value"].tobytes())
    (folder / "digest").write_text(digest.hexdigest())


def fork(folder, steps):
    """Train in a child process; return its id."""
    folder.mkdir(exist_ok=True)
    pid = os.fork()
    if not pid:
        code = 1
        try:
            train(folder, steps)
            code = 0
        finally:
            os._exit(code)
    return pid


def newest(folder):
    try:
        return (folder / "run" / "current.ckpt").stat().st_mtime_ns
    except FileNotFoundError:  # not there yet, or between two renames
        return None


def kill_once(folder, steps, chance):
    """Start a run and kill it: one time in four before its first save, else within a few chunks after that."""
    before, pid = newest(folder), fork(folder, steps)
    early = chance.random() < 0.25
    deadline = time.monotonic() + (chance.uniform(0.0, 1.0) if early else 60.0)
    while time.monotonic() < deadline and newest(folder) == before:
        time.sleep(0.001)
    if not early:
        time.sleep(chance.uniform(0.0, 0.04))
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status), "the run was over before it could be killed"
    return (folder / "run" / "unfinished.tmp").exists()


def main(folder, kills):
    steps = STEPS_FOR_EACH_KILL * kills
    assert os.waitpid(fork(folder / "whole", steps), 0)[1] == 0
    chance = random.Random(kills)
    writing = sum(kill_once(folder / "killed", steps, chance) for _ in range(kills))
    assert os.waitpid(fork(folder / "killed", steps), 0)[1] == 0
    made = [int(line) for line in (folder / "killed" / "batches.log").read_text().split()]
    row = {
        "kills": kills,
        "during_a_write": writing,
        "equal": (folder / "whole" / "digest").read_text() == (folder / "killed" / "digest").read_text(),
        "steps": steps,
        "steps_read": len(made),
        "steps_missing": len({*range(steps)} - {*made}),
        "most_lost_at_once": max([before - after for before, after in itertools.pairwise([-1, *made])] + [0]) + 1,
        "chunk": CHUNK,
        "jax": jax.__version__,
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
