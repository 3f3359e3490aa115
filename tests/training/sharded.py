"""A training run over a mesh of devices, also one that spans processes; run by `test_devices.py`."""

import hashlib
import json
import os
import signal
import sys

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from estimators import elbo, reinforce
from ppl import bernoulli, gen, normal
from ppl.training import maximize

DATA = {"x": np.linspace(-1.0, 2.0, 26), "y": np.linspace(-1.0, 1.0, 26) ** 2}
EVEN = {name: column[:24] for name, column in DATA.items()}
PARAMS = {"model": {"a": np.array(0.1), "b": np.ones(3)}, "guide": {"loc": np.zeros(2), "logit": np.array(0.3)}}


@gen
def model(params, x):
    z = normal(jnp.zeros(2), 1.0) @ "z"
    flip = bernoulli(0.4) @ "flip"
    powers = x ** jnp.arange(3) @ params["model"]["b"]
    normal(params["model"]["a"] * powers + flip * z[0], jnp.exp(0.1 * z[1])) @ "y"


@gen
def guide(params, observed, x):
    normal(params["guide"]["loc"] * x, 0.9) @ "z"
    bernoulli(logits=params["guide"]["logit"] + observed["y"], grad=reinforce()) @ "flip"


BOUND = elbo(model, guide)


def objective(params, state, batch):
    values = jax.vmap(lambda x, y: BOUND(params, {"y": y}, x))(batch["x"], batch["y"])
    value = jnp.mean(values)
    return value, {"mean": 0.9 * state["mean"] + 0.1 * value, "key": jr.split(state["key"])[0]}


def mesh_of(num_devices, *names):
    """Return a mesh of the first devices, all along its first axis."""
    devices = np.array(jax.devices()[:num_devices]).reshape(num_devices, *[1] * (len(names) - 1))
    return Mesh(devices, names)


def stream(step):
    while True:
        yield {name: np.random.default_rng(step).normal(size=16) for name in ("x", "y")}
        step += 1


def train(mesh, steps=12, *, data=DATA, batch_size=8, params=PARAMS, **options):
    options = {"chunk": 4, "state": {"mean": 0.0, "key": jr.key(7)}} | options
    optimizer = {"model": optax.adam(0.05), "guide": optax.sgd(0.05)}
    return maximize(
        objective, params, data, optimizer, steps=steps, batch_size=batch_size, key=jr.key(5), mesh=mesh, **options
    )


def numbers(fit):
    """Return all that training returned as one vector."""
    leaves = jax.tree.leaves((fit.params, fit.opt_state, fit.state["mean"], fit.history))
    return np.concatenate([np.ravel(np.asarray(leaf)).astype(np.float64) for leaf in leaves])


def far(fit, other):
    """Return the largest difference, relative to numbers above 1 and absolute below."""
    return np.max(np.abs(numbers(fit) - other) / np.maximum(1.0, np.abs(other)))


def digest(fit):
    """Return a digest of the bytes of the same."""
    return hashlib.sha256(numbers(fit).tobytes()).hexdigest()


def sharded_params(mesh):
    """Return parameters of which one is split over the second axis of a mesh."""
    rows = NamedSharding(mesh, PartitionSpec("model"))
    return PARAMS | {"guide": PARAMS["guide"] | {"loc": jax.device_put(PARAMS["guide"]["loc"], rows)}}


def step_of(folder):
    """Return the step of the newest checkpoint."""
    with open(os.path.join(folder, "current.ckpt"), "rb") as file:
        return json.loads(file.readline())["step"]


def terminate(step, *_):
    """Ask this process to end."""
    if step == 4:
        os.kill(os.getpid(), signal.SIGTERM)


def of_process(process, port, folder):
    """Train as one of two processes with one device each: in one go; and in two parts, resumed after SIGTERM."""
    jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=process)
    mesh = mesh_of(2, "data")
    fit = train(mesh)
    try:  # one of the two is told to end, and both do
        train(mesh, checkpoint=folder, callback=terminate if process == 0 else None)
    except SystemExit as ended:
        saved_at, code = step_of(folder), ended.code
    else:
        raise AssertionError("the run was not terminated")
    resumed = train(mesh, checkpoint=folder, resume=True)
    assert (code, resumed.steps) == (143, 12)
    streamed = train(mesh, data=stream, batch_size=None)
    np.savez(
        os.path.join(folder, f"process{process}.npz"),
        numbers=numbers(fit), first=saved_at, same=digest(fit) == digest(resumed), streamed=numbers(streamed),
    )  # fmt: skip


if __name__ == "__main__":
    of_process(int(sys.argv[1]), sys.argv[2], sys.argv[3])
