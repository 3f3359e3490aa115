"""`predict` and `to_arviz`: draws against closed forms, log likelihoods against scipy, the groups and axes of ArviZ."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax import lax
from scipy import stats

import ppl
from ppl import gen, multivariate_normal, normal

pytestmark = pytest.mark.x64

KEY = jr.key(3)


@gen
def mean(params, scale):
    z = normal(1.0, 2.0) @ "z"
    normal(z * jnp.ones(3), scale) @ "y"


@gen
def guide(params, observed, scale):
    normal(params["loc"], 0.5) @ "z"


PARAMS, SCALE, DATA = {"loc": jnp.array(0.7)}, jnp.array([0.1, 0.2, 0.3]), {"y": jnp.array([0.5, 1.0, 0.0])}
NUM = 4_000


def close_in_errors(draws, expected_mean, expected_sd):
    """Mean within 4.5 standard errors; variance within 4.5 of its own, sd**2 sqrt(2 / n) for a normal."""
    assert (np.abs(draws.mean(0) - expected_mean) < 4.5 * expected_sd / np.sqrt(NUM)).all()
    assert (np.abs(draws.var(0) - expected_sd**2) < 4.5 * expected_sd**2 * np.sqrt(2 / NUM)).all()


def test_draws_of_posterior_and_prior_have_their_moments():
    draws = ppl.predict(mean, guide, PARAMS, DATA, SCALE, key=KEY, samples=NUM)
    close_in_errors(draws["z"], 0.7, 0.5)
    close_in_errors(draws["y"], 0.7, np.sqrt(0.25 + SCALE**2))
    close_in_errors(draws["y"] - draws["z"][:, None], 0.0, SCALE)  # each made given its own latents
    prior = ppl.predict(mean, None, PARAMS, DATA, SCALE, key=KEY, samples=NUM)
    close_in_errors(prior["z"], 1.0, 2.0)
    close_in_errors(prior["y"], 1.0, np.sqrt(4 + SCALE**2))
    assert prior.log_likelihood is prior.observed is None


def test_the_log_likelihood_is_that_of_every_element():
    draws = ppl.predict(mean, guide, PARAMS, DATA, SCALE, key=KEY, samples=5)
    expected = stats.norm.logpdf(DATA["y"], draws["z"][:, None], SCALE)
    np.testing.assert_allclose(draws.log_likelihood["y"], expected, rtol=1e-9)


def test_draws_from_elsewhere_are_taken_as_they_are():
    latents = {"z": jnp.array([0.0, 100.0])}
    draws = ppl.predict(mean, latents, PARAMS, DATA, SCALE, key=KEY)
    np.testing.assert_array_equal(draws["z"], latents["z"])
    assert (np.abs(draws["y"] - latents["z"][:, None]) < 2).all()
    np.testing.assert_allclose(draws.log_likelihood["y"][0], stats.norm.logpdf(DATA["y"], 0.0, SCALE), rtol=1e-9)


def test_keys_decide_and_jit_changes_nothing():
    run = lambda key: ppl.predict(mean, guide, PARAMS, DATA, SCALE, key=key, samples=3)
    first, again, other = run(KEY), jax.jit(run)(KEY), run(jr.key(4))
    jax.tree.map(np.testing.assert_array_equal, first.latents, again.latents)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), first.predictive, again.predictive)
    assert not np.isclose(first["z"], other["z"]).any()


# --- Layouts -----------------------------------------------------------------------------------------------------


@gen
def nested(params):
    """Observations in lanes, steps, events, and under a nested address; one latent made only sometimes."""
    s = normal(0.0, 1.0) @ "s"
    gen(lambda: jax.vmap(lambda t: normal(s * t, 1.0) @ "y")(jnp.arange(2.0)))() @ "sub"
    lax.scan(lambda c, t: (c, normal(s + t * jnp.ones(2), 1.0) @ "steps"), 0.0, jnp.arange(3.0))
    multivariate_normal(s * jnp.ones((2, 3)), jnp.eye(3)) @ "v"
    jax.vmap(lambda on: lax.cond(on, lambda: normal(s, 1.0) @ "extra", lambda: 0.0))(jnp.array([True, False]))


SEEN = {"sub": {"y": jnp.ones(2)}, "steps": jnp.ones((3, 2)), "v": jnp.ones((2, 3))}


@pytest.fixture(scope="module")
def drawn():
    other = gen(
        lambda params, observed: (
            normal(0.5, 0.1) @ "s",
            jax.vmap(lambda on: lax.cond(on, lambda: normal() @ "extra", lambda: 0.0))(jnp.array([True, False])),
        )
    )
    return ppl.predict(nested, other, {}, SEEN, key=KEY, samples=4)


def test_lanes_steps_events_and_masks(drawn):
    s = np.asarray(drawn["s"])
    assert drawn["sub/y"].shape == (4, 2)
    assert drawn["sub", "y"].shape == drawn.log_likelihood["sub"]["y"].shape
    expected = stats.norm.logpdf(1.0, s[:, None, None] + np.arange(3.0)[:, None], 1.0) * np.ones((4, 3, 2))
    np.testing.assert_allclose(drawn.log_likelihood["steps"], expected, rtol=1e-9)
    vectors = stats.norm.logpdf(np.ones((2, 3)), s[:, None, None], 1.0).sum(-1)
    np.testing.assert_allclose(drawn.log_likelihood["v"], vectors, rtol=1e-9)
    assert drawn.latents["extra"].mask.tolist() == [[True, False]] * 4


# --- ArviZ -------------------------------------------------------------------------------------------------------


def test_the_tree_of_arviz(drawn):
    pytest.importorskip("arviz_base")
    prior = ppl.predict(nested, None, {}, SEEN, key=KEY, samples=6)
    tree = ppl.to_arviz(drawn, prior=prior, chains=2, dims={"sub/y": ["place"]}, coords={"place": ["here", "there"]})
    groups = ["log_likelihood", "observed_data", "posterior", "posterior_predictive", "prior", "prior_predictive"]
    assert sorted(tree.children) == groups
    assert tree.posterior["s"].dims == ("chain", "draw")
    np.testing.assert_array_equal(tree.posterior["s"], drawn["s"].reshape(2, 2))
    assert tree.posterior_predictive["sub.y"].dims == ("chain", "draw", "place")
    assert tree.log_likelihood["sub.y"].dims == ("chain", "draw", "place")
    assert list(tree.observed_data.data_vars) == ["sub.y", "steps", "v"]
    assert tree.observed_data["sub.y"].coords["place"].values.tolist() == ["here", "there"]
    assert tree.prior["s"].shape == (1, 6)
    assert np.isnan(tree.posterior["extra"].values[..., 1]).all()
    assert np.isfinite(tree.posterior["extra"].values[..., 0]).all()


def test_without_arviz_the_error_says_what_to_install(drawn, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "arviz_base", None)
    with pytest.raises(ppl.PPLError, match=r"programmable-vi\[arviz\]"):
        ppl.to_arviz(drawn)


def test_without_flowjax_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "flowjax", None)
    with pytest.raises(ppl.PPLError, match=r"programmable-vi\[flows\]"):
        ppl.guides.flow(mean, DATA, SCALE, key=KEY)
