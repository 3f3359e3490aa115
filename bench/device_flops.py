"""Operations of each device for a training step, on a mesh of 1, 2, 4 and 8 of them.

Run `python -m bench.device_flops [--batch N] [--particles K]`: forces eight devices on this machine's processor and
prints JSON rows: XLA's own analysis of the module that each device runs (`cost_analysis` of the compiled chunk, whose
loop over steps is counted once, so it is one step), the share of one device's operations, and how many collective
operations there are. Split are the examples of a batch, over the first axis of the mesh; or the particles of a bound on
one example, over an axis that the program names. What every device does in full is the optimizer's update of all
parameters (about 9 Mflop here) and, for particles, the encoding of the example that they share.
"""

import argparse
import json
import os

os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
os.environ["JAX_PLATFORMS"] = "cpu"

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

from bench.floors import vae as floor
from bench.programs import vae as program
from estimators import elbo
from ppl.training.run import Run

COUNTS = (1, 2, 4, 8)
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
OPTIONS = {"steps": 4, "trainable": None, "state": None, "chunk": 2, "prefetch": 0}


def compiled(f, params, data, mesh, batch_size):
    """Compile the first chunk of a training run."""
    run = Run(
        f, params, data, optax.adam(1e-3), 1.0, key=jax.random.key(0), mesh=mesh, batch_size=batch_size, **OPTIONS
    )
    chunk, args = run.first_chunk()
    return eqx.filter_jit(chunk).lower(*args).compile().compiled


def examples(mesh, batch):
    """Return the compiled auto-encoder with its batch split over the devices."""
    params, images = floor.setup(jax.random.key(0), batch=batch)
    return compiled(program.objective(batch=batch), params, images, mesh, batch)


def particles(mesh, count):
    """Return the compiled mean of so many one-sample bounds of a single image, split over the devices."""
    params, images = floor.setup(jax.random.key(0), batch=1)
    bound = elbo(program.model, program.guide)
    lanes = NamedSharding(mesh, PartitionSpec("particles"))

    def objective(params, images):
        values = jax.vmap(lambda _: bound(params, {"x": images[0]}))(jnp.arange(count))
        return jnp.mean(jax.lax.with_sharding_constraint(values, lanes))

    return compiled(objective, params, images, mesh, None)


def measured(what, make, names, size):
    """Print a row for each number of devices."""
    whole = None
    for count in COUNTS:
        shape = (count,) if len(names) == 1 else (1, count)
        mesh = jax.sharding.Mesh(np.array(jax.devices()[:count]).reshape(shape), names)
        module = make(mesh, size)
        flops = module.cost_analysis()["flops"]
        whole = whole or flops
        collectives = sum(
            module.as_text().count(f" {name}(") for name in ("all-reduce", "all-gather", "reduce-scatter")
        )
        row = {
            "split": what,
            "size": size,
            "devices": count,
            "flops_per_device": flops,
            "share": round(flops / whole, 4),
        }
        print(
            json.dumps(row | {"ideal": 1 / count, "collectives": collectives, "jax": jax.__version__, "device": "cpu"})
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--particles", type=int, default=64)
    settings = parser.parse_args()
    measured("examples", examples, ("data",), settings.batch)
    measured("particles", particles, ("data", "particles"), settings.particles)
