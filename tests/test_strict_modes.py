"""JAX's strict modes around our own code: the same programs, with the same numbers, under every one of them.

Third-party code breaks under some modes, so the programs here are made of what is ours. `CORE` is the named part of the
suite that every mode runs, in float64 (with PPL_TEST_X64=0, in float32). The persistent cache needs other processes.
"""

import contextlib

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from jax import lax

import ppl
from estimators import elbo, reinforce
from ppl import bernoulli, categorical, enum, gamma, gen, guides, half_normal, normal

KEY = jr.key(0)
OBSERVED = {"y": np.array([0.3, 1.2, -0.4])}


@gen
def model(params):
    s = half_normal(1.0) @ "s"
    z = normal(jnp.zeros(3), s) @ "z"
    normal(z, 1.0) @ "y"


@gen
def chain(params):
    def step(z, _):
        z = normal(0.9 * z, 1.0) @ "z"
        normal(z, 0.5) @ "y"
        return z, None

    lax.scan(step, 0.0, None, length=3)


@gen
def steps(params, observed):
    jax.vmap(lambda y: normal(params * y, 0.7) @ "z")(observed["y"])


@gen
def coins(params, observed):
    k = bernoulli(jax.nn.sigmoid(params), grad=enum()) @ "k"
    lax.cond(k == 1, lambda: normal(params, 1.0) @ "a", lambda: 0.0)
    categorical(logits=params * jnp.arange(3.0), grad=reinforce()) @ "c"


@gen
def coin_model(params):
    k = bernoulli(0.4) @ "k"
    a = lax.cond(k == 1, lambda: normal(0.0, 1.0) @ "a", lambda: 0.0)
    normal(a + (categorical(logits=jnp.zeros(3)) @ "c"), 1.0) @ "x"


def trained():
    guide, init = guides.mean_field(model, OBSERVED)
    objective = lambda params: elbo(model, guide)(params, OBSERVED)
    fit = ppl.maximize(objective, init, None, optax.adam(0.05), steps=3, key=KEY, progress=False)
    return fit.params, fit.history["value"]


def predicted():
    guide, init = guides.mean_field(model, OBSERVED)
    return ppl.predict(model, guide, init, OBSERVED, key=KEY, samples=2)


CORE = {
    "simulate": lambda: model.simulate(KEY, {}).choices,
    "assess": lambda: model.log_density({"s": 0.5, "z": jnp.ones(3), **OBSERVED}, {}),
    "generate in a scan": lambda: chain.generate(KEY, OBSERVED, {})[1],
    "log_joint": lambda: jax.grad(ppl.log_joint(model, OBSERVED, {})[0])(jnp.arange(4.0)),
    "pathwise through a scan": lambda: ppl.value_and_grad(elbo(chain, steps))(KEY, 0.3, OBSERVED),
    "enum, reinforce and a cond": lambda: ppl.value_and_grad(elbo(coin_model, coins))(KEY, 0.3, {"x": 1.0}),
    "exact gradient": lambda: ppl.exact_gradient(lambda p: (bernoulli(p, grad=enum()).sample() - 0.45) ** 2)(0.3),
    "gamma, implicit": lambda: ppl.grad(lambda a: gamma(a, 1.0).sample() ** 2)(KEY, 2.0),
    "training of an automatic guide": trained,
    "prediction": predicted,
}

MODES = {
    "debug_nans": lambda: jax.debug_nans(True),
    "debug_key_reuse": lambda: jax.debug_key_reuse(True),
    "disable_jit": jax.disable_jit,
    "tracer leaks": jax.checking_leaks,
}


def numbers(result):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(result)]


@pytest.fixture(scope="module")
def plain():
    """Return what every program gives without any mode."""
    results = {}

    def run(name):
        if name not in results:
            results[name] = numbers(CORE[name]())
        return results[name]

    return run


@pytest.mark.parametrize("name", CORE)
@pytest.mark.parametrize("mode", MODES)
def test_the_core_runs_under_every_mode(mode, name, plain):
    expected = plain(name)
    with MODES[mode]():
        found = numbers(CORE[name]())
    exact = jax.config.jax_enable_x64
    assert {x.dtype for x in expected if x.dtype.kind == "f"} <= {np.dtype(np.float64 if exact else np.float32)}
    tolerance = {"rtol": 1e-9, "atol": 1e-12} if exact else {"rtol": 1e-4, "atol": 1e-5}
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_allclose(x, y, **tolerance)


@pytest.mark.parametrize(
    ("mode", "bad"),
    [
        ("debug_nans", lambda: jnp.log(-1.0 * jnp.ones(()))),
        ("debug_key_reuse", lambda: (lambda key: jr.normal(key) + jr.normal(key))(jr.key(5))),
    ],
)
def test_the_modes_see_what_they_look_for(mode, bad):
    with MODES[mode](), pytest.raises(Exception, match="nan|consumed"):
        bad()


def test_the_persistent_cache_gives_the_same_numbers_in_another_process(run_python, tmp_path):
    script = """
        import jax, ppl
        from ppl import gen, normal
        hits = []
        jax.monitoring.register_event_listener(lambda name, **_: hits.append(name))
        program = gen(lambda loc: normal(loc, 1.0) @ "z")
        value = jax.jit(ppl.expect(lambda loc: (program(loc) @ "a") ** 2))(jax.random.key(0), 0.3)
        print(float(value), sum("cache_hits" in name for name in hits))
    """
    first, second = (run_python(script, JAX_COMPILATION_CACHE_DIR=str(tmp_path)).split() for _ in range(2))
    assert first[0] == second[0]
    assert int(first[1]) == 0
    assert int(second[1]) > 0


def test_modes_are_restored():
    """A mode that leaked out of a test would change all that follow."""
    with contextlib.ExitStack() as stack:
        for mode in MODES.values():
            stack.enter_context(mode())
    assert not jax.config.jax_debug_nans
    assert not jax.config.jax_disable_jit
