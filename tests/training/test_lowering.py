"""The training step of every program lowers for processors that this machine does not have."""

import importlib

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
import pytest

import ppl
from bench.against_floors import WORKLOADS
from models import registry
from ppl.training.run import Run

PLATFORMS = ("cpu", "cuda", "tpu")
DEFAULTS = {"batch_size": None, "trainable": None, "state": None, "prefetch": 0, "mesh": None}


def exported(f, params, data, optimizer, sign=1.0, **options):
    """Lower the first chunk of a training run for all platforms, as it would be compiled here."""
    options = {name: options[name] for name in options if name in (*DEFAULTS, "steps", "key")}
    run = Run(f, params, data, optimizer, sign, **DEFAULTS | options, chunk=2)
    chunk, args = run.first_chunk()
    arrays, static = eqx.partition(args, eqx.is_array)
    leaves, treedef = jax.tree.flatten(arrays)

    def of_leaves(*leaves):
        out = chunk(*eqx.combine(jax.tree.unflatten(treedef, leaves), static))
        return jax.tree.leaves(eqx.filter(out, eqx.is_array))

    return jax.export.export(jax.jit(of_leaves), platforms=PLATFORMS)(*leaves)


def check(program):
    assert program.platforms == PLATFORMS
    assert "stablehlo.while" in program.mlir_module()  # the loop over steps


@pytest.mark.parametrize("name", WORKLOADS)
def test_programs_of_the_bench(name):
    floor, program = (importlib.import_module(f"bench.{folder}.{name}") for folder in ("floors", "programs"))
    params, data = floor.setup(jr.key(0), **floor.TINY)
    check(exported(program.objective(**floor.TINY), params, data, optax.adam(1e-3), steps=4, key=jr.key(0)))


class Lowered(Exception):
    """A model has asked for training, and that is enough."""


@pytest.mark.parametrize("name", registry.names())
def test_models(name, monkeypatch, tmp_path):
    """Whatever a model first asks to be trained."""

    def lower(*args, **options):
        check(exported(*args, **options))
        raise Lowered

    monkeypatch.setattr(ppl, "maximize", lower)
    monkeypatch.setattr(ppl, "minimize", lambda *args, **options: lower(*args, sign=-1.0, **options))
    program = registry.find(name)
    with pytest.raises(Lowered):
        program.run(registry.Context(program.preset("quick").config, 0, tmp_path))


def test_what_cannot_be_lowered_is_found():
    """General eigenvalues have no implementation for TPUs."""

    def f(params):
        return -jnp.sum(jnp.abs(jnp.linalg.eigvals(params)))

    with pytest.raises(NotImplementedError, match="(?i)eig.*tpu"):
        exported(f, jnp.eye(2), None, optax.sgd(0.1), steps=2, key=jr.key(0))
