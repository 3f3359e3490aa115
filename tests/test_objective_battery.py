"""Every objective through jit, vmap over keys, vmap over data, and parameters that are pytrees: one line a member."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import estimators as es
import ppl

OBJECTIVES = {
    "elbo": es.elbo,
    "iwelbo": lambda m, g: es.iwelbo(m, g, 3),
    "vimco": lambda m, g: es.vimco(m, g, 3),
    "dreg": lambda m, g: es.dreg(m, g, 3),
    "sticking_the_landing": es.sticking_the_landing,
    "analytic_kl_elbo": es.analytic_kl_elbo,
    "renyi": lambda m, g: es.renyi(m, g, 0.5, 3),
    "cubo": lambda m, g: es.cubo(m, g, 3),
    "exp_cubo": es.exp_cubo,
    "f_divergence": lambda m, g: es.f_divergence(m, g, es.divergences.total_variation, 3),
    "forward_kl": lambda m, g: es.forward_kl(m, g, 3),
    "wake_p": lambda m, g: es.wake_p(m, g, 3),
    "wake_q": lambda m, g: es.wake_q(m, g, 3),
    "reweighted_wake_sleep": lambda m, g: es.reweighted_wake_sleep(m, g, 3),
    "sleep_q": es.sleep_q,
    "tempered_elbo": lambda m, g: es.tempered_elbo(m, g, 0.5),
    "thermodynamic": lambda m, g: es.thermodynamic(m, g, 3),
    "fisher_divergence": es.fisher_divergence,
    "score_matching": es.score_matching,
    "kernel_stein": lambda m, g: es.kernel_stein(m, g, 3),
    "annealed": lambda m, g: es.annealed(m, g, 2, 0.2),
}
every = pytest.mark.parametrize("make", OBJECTIVES.values(), ids=OBJECTIVES)


@ppl.gen
def model(params, covariate):
    z = ppl.normal(params["model"], 1.0) @ ("latent", "z")
    ppl.normal(z + covariate, 1.0) @ "x"


@ppl.gen
def guide(params, observed, covariate):
    loc = params["guide"]["slope"] * (observed["x"] - covariate)
    ppl.normal(loc, jnp.exp(params["guide"]["log_scale"])) @ ("latent", "z")


PARAMS = {"model": 0.3, "guide": {"slope": jnp.array(0.4), "log_scale": jnp.array(-0.3)}}


def flat(pair):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(pair)])


def close(one, other):
    tolerance = 1e-9 if jax.config.jax_enable_x64 else 1e-3
    np.testing.assert_allclose(flat(one), flat(other), rtol=tolerance, atol=tolerance)


@every
def test_one_key_gives_one_result(make):
    """Eager, compiled, and among other keys."""
    objective = make(model, guide)
    run = lambda key: ppl.value_and_grad(objective)(key, PARAMS, {"x": 1.5}, 0.2)
    keys = jr.split(jr.key(0), 3)
    together = jax.jit(jax.vmap(run))(keys)
    for i in (0, 2):
        close(run(keys[i]), jax.tree.map(lambda leaf, i=i: leaf[i], together))
    assert np.ptp(np.asarray(together[0])) > 1e-6, "different keys, different results"
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(together))


@every
def test_data_in_lanes(make):
    """Rows of data are independent, also where all are alike; the gradient has the structure of the parameters."""
    objective = make(model, guide)

    def batch(params, xs, covariates):
        return jax.vmap(lambda x, c: objective(params, {"x": x}, c))(xs, covariates)

    rows = ppl.expect(batch)(jr.key(1), PARAMS, jnp.full(4, 1.5), jnp.full(4, 0.2))
    assert len(np.unique(np.asarray(rows))) == 4
    gradient = ppl.grad(lambda *args: batch(*args).mean())(jr.key(1), PARAMS, jnp.full(4, 1.5), jnp.full(4, 0.2))
    assert jax.tree.structure(gradient) == jax.tree.structure(PARAMS)
    assert np.linalg.norm(flat(gradient)) > 0
