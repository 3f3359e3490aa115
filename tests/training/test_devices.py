"""One device or many, one process or two: the same numbers for the same key."""

import os
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import ppl
from ppl import bernoulli, reinforce
from tests.conftest import ROOT
from tests.training import sharded

LIMIT = 1e-6

DEVICES = """
    import tempfile
    import jax, numpy as np
    from tests.training import sharded

    print(len(jax.devices()))
    one = sharded.numbers(sharded.train(None))
    for count in (2, 8):
        mesh = sharded.mesh_of(count, "data")
        fit = sharded.train(mesh)
        print({len(leaf.sharding.device_set) for leaf in jax.tree.leaves(fit.params)}, sharded.far(fit, one))
    square = jax.sharding.Mesh(np.array(jax.devices()).reshape(4, 2), ("data", "model"))
    fit = sharded.train(square, params=sharded.sharded_params(square))
    specs = fit.params["guide"]["loc"].sharding.spec, fit.params["model"]["b"].sharding.spec
    print(*map(tuple, specs), sharded.far(fit, one))
    with tempfile.TemporaryDirectory() as folder:
        sharded.train(None, 8, checkpoint=folder)
        print("resumed", sharded.far(sharded.train(mesh, checkpoint=folder, resume=True), one))
    one = sharded.numbers(sharded.train(None, data=sharded.stream, batch_size=None))
    print("stream", sharded.far(sharded.train(mesh, data=sharded.stream, batch_size=None), one))
    with jax.enable_x64(False):
        one = sharded.numbers(sharded.train(None, data=sharded.EVEN, batch_size=None))
        print("whole", sharded.far(sharded.train(mesh, data=sharded.EVEN, batch_size=None), one))
"""


def test_two_and_eight_devices_give_the_numbers_of_one(run_python):
    count, *lines = run_python(DEVICES, devices=8, JAX_ENABLE_X64="1").splitlines()
    what, far = zip(*(line.rsplit(" ", 1) for line in lines), strict=True)
    assert count == "8"
    assert what == ("{2}", "{8}", "('model',) ()", "resumed", "stream", "whole")
    assert max(map(float, far)) < LIMIT, lines


def test_two_processes_give_the_numbers_of_one(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    environment = {**os.environ, "JAX_ENABLE_X64": "1", "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
    command = [sys.executable, "-m", "tests.training.sharded"]
    started = [
        subprocess.Popen(
            [*command, str(process), port, str(tmp_path)], cwd=ROOT, env=environment, stderr=subprocess.PIPE
        )
        for process in range(2)
    ]
    for process in started:
        try:
            _, error = process.communicate(timeout=300)
        finally:
            process.kill()
        assert process.returncode == 0, error.decode()
    assert {"current.ckpt", "previous.ckpt"} <= {path.name for path in tmp_path.iterdir()}
    with jax.enable_x64(True):
        one = sharded.numbers(sharded.train(None))
        streamed = sharded.numbers(sharded.train(None, data=sharded.stream, batch_size=None))
    for process in range(2):
        found = np.load(tmp_path / f"process{process}.npz")
        np.testing.assert_allclose(found["numbers"], one, rtol=LIMIT)
        np.testing.assert_allclose(found["streamed"], streamed, rtol=LIMIT)
        assert found["first"] == 4  # where they ended, told at step 4
        assert found["same"]  # the run that was resumed in both, bit by bit


@pytest.mark.parametrize(("mesh", "batch_size", "word"), [("data", 8, "must be a jax.sharding.Mesh")])
def test_what_is_no_mesh_is_refused(mesh, batch_size, word):
    with pytest.raises(ppl.PPLError, match=word):
        sharded.train(mesh, batch_size=batch_size)


FLOPS = """
    import jax
    import ppl
    from bench import device_flops
    from bench.floors import vae
    from tests.training import sharded

    one, eight = (sharded.mesh_of(count, "data") for count in (1, 8))
    print(*(device_flops.examples(mesh, 64).cost_analysis()["flops"] for mesh in (one, eight)))
    print(sum(leaf.size for leaf in jax.tree.leaves(vae.setup(jax.random.key(0), batch=1)[0])))
    try:
        sharded.train(eight, batch_size=12)
    except ppl.PPLError as error:
        print(error.what, error.details["expected"])
"""


def test_work_is_divided(run_python):
    """Each of eight devices has an eighth of the work on examples, and the optimizer's update of all parameters.

    Adam has two moving averages (3 operations each), two corrections of bias (1 each), a root, a sum, a quotient, a
    product and the sum with the parameter; the norm of the gradient and the check for what is finite have 3 more.
    """
    flops, size, refused = run_python(FLOPS, devices=8).splitlines()
    one, eight = map(float, flops.split())
    print(f"{eight / one:.3f} of the operations on one device")
    assert one / 8 <= eight <= one / 8 + 30 * int(size)  # twice what Adam needs on paper
    assert refused == "`batch_size` cannot be split equally over the first axis of `mesh`. a multiple of 8"


def test_splitting_particles_changes_no_charge():
    """Each coin is charged with the costs of its own lane, wherever the lanes lie."""
    lanes = NamedSharding(sharded.mesh_of(1, "particles"), PartitionSpec("particles"))

    def objective(params, place=lambda values: values):
        costs = jax.vmap(lambda i: (bernoulli(params, grad=reinforce()).sample() - 0.3) ** 2 * i)(jnp.arange(4.0))
        return jnp.sum(jnp.exp(0.1 * place(costs)))

    def placed(params):
        return objective(params, lambda values: jax.lax.with_sharding_constraint(values, lanes))

    plain, split = ppl.exact_gradient(objective)(0.4), ppl.exact_gradient(placed)(0.4)
    np.testing.assert_allclose(split.gradient, plain.gradient, rtol=1e-6)
    np.testing.assert_allclose(split.variance, plain.variance, rtol=1e-6)
    assert "lane by lane" in str(ppl.explain(placed)(0.4))
