"""The floors are honest: the same estimator as the program beside them, nothing of a library, and what paper says.

Noise is matched: what the program draws with a key is handed to the floor, and value and gradient must be the same
numbers. Where the noise is finite, all of it is enumerated.
"""

import functools
import importlib
import itertools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import ppl
from bench.against_floors import WORKLOADS, order_interval, pair
from bench.floors import bernoulli_vae, estimator, vae
from bench.programs import bernoulli_vae as bernoulli_program
from bench.programs import eight_schools, iwelbo, logistic_regression, many_choices, state_space
from bench.programs import vae as vae_program
from ppl import simulate
from ppl.reports import compiled_costs, costs

EACH = pytest.mark.parametrize("name", WORKLOADS)
KEY = jr.key(3)


def module(name):
    return importlib.import_module(f"bench.floors.{name}")


def choices(guide, *args):
    """Return what a guide draws with the key that the estimator gets."""
    return ppl.seed(lambda *args: simulate(guide)(*args).choices)(KEY, *args)


def of_rows(guide, params, data):
    rows = lambda params, data: jax.vmap(lambda row: simulate(guide)(params, {"x": row})["z"])(data)
    return ppl.seed(rows)(KEY, params, data)


def noise(latents, params):
    """Invert the reparameterisation of a mean-field guide."""
    return (latents - params["loc"]) / jnp.exp(params["log_scale"])


def vae_noise(params, data):
    loc, log_variance = vae.encode(params, data)
    return (of_rows(vae_program.guide, params, data) - loc) / jnp.exp(log_variance / 2)


def iwelbo_noise(params, data, particles):
    def rows(params, data):
        one = lambda row: jax.vmap(lambda _: simulate(iwelbo.guide)(params, {"x": row})["z"])(jnp.arange(particles))
        return jax.vmap(one)(data)

    loc, log_variance = vae.encode(params, data)
    return (jnp.moveaxis(ppl.seed(rows)(KEY, params, data), 1, 0) - loc) / jnp.exp(log_variance / 2)


def walk_noise(params, data):
    return noise(choices(state_space.guide, params, {"y": data})["z"], params)


def many_noise(params, data):
    drawn = choices(many_choices.guide, params, {"x": data})
    return noise(jnp.stack([drawn[f"z{i}"] for i in range(len(drawn))]), params)


def regression_noise(params, data):
    return noise(choices(logistic_regression.guide, params, {"labels": data[1]}, data[0])["weights"], params)


def schools_noise(params, data):
    drawn = choices(eight_schools.guide, params, {}, data[1])
    return noise(jnp.stack([drawn["mu"], jnp.log(drawn["tau"]), *(drawn[f"theta{i}"] for i in range(8))]), params)


NOISE = {
    "vae": lambda params, data, **_: vae_noise(params, data),
    "iwelbo": lambda params, data, particles, **_: iwelbo_noise(params, data, particles),
    "mixture": lambda params, data, **_: (),
    "hmm": lambda params, data, **_: (),
    "state_space": lambda params, data, **_: walk_noise(params, data),
    "state_space_steps": lambda params, data, **_: walk_noise(params, data),
    "many_choices": lambda params, data, **_: many_noise(params, data),
    "logistic_regression": lambda params, data, **_: regression_noise(params, data),
    "eight_schools": lambda params, data, **_: schools_noise(params, data),
}


def test_every_workload_is_compared_here():
    assert {*NOISE, "bernoulli_vae"} == set(WORKLOADS)


@pytest.mark.x64
@pytest.mark.parametrize("name", NOISE)
def test_value_and_gradient_are_those_of_the_program_with_the_same_noise(name):
    floor = module(name)
    ours, _, (_, params, data) = pair(name, floor.TINY)
    drawn = NOISE[name](params, data, **floor.TINY)
    by_hand = jax.jit(jax.value_and_grad(functools.partial(floor.objective, drawn=drawn, data=data)))
    (value, gradient), (floor_value, floor_gradient) = jax.jit(ours)(KEY, params, data), by_hand(params)
    np.testing.assert_allclose(value, floor_value, rtol=1e-11)
    flat, floor_flat = ravel_pytree(gradient)[0], ravel_pytree(floor_gradient)[0]
    np.testing.assert_allclose(flat, floor_flat, rtol=1e-10, atol=1e-10)
    assert float(jnp.linalg.norm(flat)) > 0.1


@pytest.mark.x64
def test_bernoulli_latents_have_the_same_value_and_the_same_mean_gradient():
    ours, _, (_, params, data) = pair("bernoulli_vae", bernoulli_vae.TINY)
    by_hand = jax.value_and_grad(functools.partial(bernoulli_vae.objective, data=data))
    latents = of_rows(bernoulli_program.guide, params, data)
    drawn = by_hand(params, drawn=1.0 - latents)  # noise of 0 is below every probability, noise of 1 below none
    np.testing.assert_allclose(ours(KEY, params, data)[0], drawn[0], rtol=1e-12)

    shape = latents.shape
    all_latents = jnp.array(list(itertools.product([0.0, 1.0], repeat=latents.size))).reshape(-1, *shape)
    probs = jax.nn.sigmoid(bernoulli_vae.encode(params, data))
    weights = jnp.prod(jnp.where(all_latents == 1, probs, 1 - probs), axis=(1, 2))
    values, gradients = jax.jit(jax.vmap(lambda z: by_hand(params, drawn=1 - z)))(all_latents)
    exact = ppl.exact_gradient(bernoulli_program.objective())(params, data)
    np.testing.assert_allclose(weights @ values, exact.value, rtol=1e-11)
    mean = jax.tree.map(lambda gradient: jnp.tensordot(weights, gradient, 1), gradients)
    np.testing.assert_allclose(ravel_pytree(mean)[0], ravel_pytree(exact.gradient)[0], rtol=1e-9, atol=1e-9)


@EACH
def test_the_floors_own_noise_gives_the_programs_means(name):
    floor = module(name)
    ours, by_hand, (_, params, data) = pair(name, floor.TINY)
    num = 4_000

    def moments(function):
        draws = jax.jit(jax.vmap(lambda key: ravel_pytree(function(key, params, data))[0]))
        sample = np.asarray(draws(jr.split(jr.key(5), num)), np.float64)
        return sample.mean(0), sample.var(0) / num

    (mean, error), (floor_mean, floor_error) = moments(ours), moments(by_hand)
    rounding = 1e-5 * (1 + np.abs(mean))
    assert (np.abs(mean - floor_mean) <= 4.5 * np.sqrt(error + floor_error) + rounding).all()
    assert (floor_error.max() > 1e-12) == (name not in ("mixture", "hmm"))


@EACH
def test_matrix_products_are_those_on_paper(name):
    floor = module(name)
    for size in (floor.TINY, *floor.SIZES):
        shapes = jax.eval_shape(functools.partial(floor.setup, **size), jr.key(0))
        found = costs(estimator(floor, **size))(jr.key(1), *shapes)
        assert found.matmul_flops == floor.matmul_flops(**size)
        assert found.approximate == ()


@pytest.mark.parametrize("name", ["vae", "iwelbo", "bernoulli_vae", "logistic_regression"])
def test_where_products_dominate_the_program_takes_two_per_cent_more_at_most(name):
    ours, by_hand, args = pair(name, module(name).SIZES[-1])
    mine, theirs = costs(ours)(*args), costs(by_hand)(*args)
    assert mine.matmul_flops == theirs.matmul_flops
    assert mine.flops <= 1.02 * theirs.flops


@pytest.mark.parametrize(
    ("name", "size"), [("vae", {"batch": 64}), ("iwelbo", {"particles": 10})], ids=["vae", "iwelbo"]
)
def test_the_compiled_auto_encoder_moves_five_per_cent_more_bytes_at_most(name, size):
    ours, by_hand, args = pair(name, size)
    mine, theirs = compiled_costs(ours)(*args), compiled_costs(by_hand)(*args)
    assert mine.bytes <= 1.05 * theirs.bytes
    assert mine.flops <= 1.02 * theirs.flops


def test_floors_use_neither_library(run_python):
    names = ", ".join(repr(name) for name in WORKLOADS)
    out = run_python(f"""
        import importlib, sys
        import jax
        from bench.floors import estimator
        for name in ({names},):
            floor = importlib.import_module("bench.floors." + name)
            key = jax.eval_shape(lambda: jax.random.key(0))
            args = jax.eval_shape(lambda key: floor.setup(key, **floor.TINY), key)
            value, _ = jax.eval_shape(estimator(floor, **floor.TINY), key, *args)
            assert value.shape == ()
        print(sorted({{"ppl", "estimators", "numpyro"}} & set(sys.modules)))
    """)
    assert out.strip() == "[]"


def test_the_interval_of_a_median_has_its_level():
    rng = np.random.default_rng(0)
    inside = [low <= 0 <= high for low, high in (order_interval(rng.normal(size=21)) for _ in range(2_000))]
    assert 0.95 <= np.mean(inside) <= 0.985
