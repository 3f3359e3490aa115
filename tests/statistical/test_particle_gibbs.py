"""`particle_gibbs` leaves the posterior as it is: exactly, by enumeration of its noise."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ppl
from ppl import bernoulli, categorical, gen, normal, reinforce
from ppl.methods import multinomial, sir, smc, systematic
from ppl.transforms.normalize import Normalisation

pytestmark = pytest.mark.x64
YS = jnp.array([1, 0])
STATES = jnp.array(list(itertools.product((0, 1), repeat=2)))


@gen
def two_steps(b):
    def one(z, _):
        z = bernoulli(jnp.where(z == 1, 0.8, 0.3), grad=reinforce()) @ "z"
        bernoulli(jnp.where(z == 1, b, 0.2)) @ "y"
        return z, None

    jax.lax.scan(one, 1, None, length=2)


@gen
def informed(observed, b):
    jax.lax.scan(lambda z, y: (bernoulli(0.2 + 0.6 * y, grad=reinforce()) @ "z", None), 1, observed["y"])


METHODS = {
    "smc": smc(index=reinforce()),
    "adaptive": smc(multinomial(), 0.9, reinforce()),
    "sir": sir(index=reinforce()),
}


@pytest.mark.parametrize("proposal", [None, informed], ids=["forward", "proposed"])
@pytest.mark.parametrize("method", METHODS)
def test_the_posterior_is_invariant(method, proposal):
    """From a draw of the posterior, the next state has the law of the posterior; and it is another one now and then."""
    observed = {"y": YS}
    problem = Normalisation(two_steps, proposal, 2, lambda args: (observed, args, (observed, *args)))
    move = METHODS[method].move(problem)
    joint = jax.vmap(lambda z: two_steps.log_density({"z": z, "y": YS}, 0.7))(STATES)
    posterior = jax.nn.softmax(joint)

    def stepped(b):
        state = STATES[categorical(logits=joint, grad=reinforce()).sample("state")]
        return state, move({"z": state}, b)["z"]

    for target, wanted in zip(STATES, posterior, strict=True):
        reached = lambda b, target=target: jnp.where((stepped(b)[1] == target).all(), 1.0, 0.0)
        assert abs(ppl.exact_gradient(reached)(0.7).value - wanted) < 1e-10

    def moved(b):
        state, new = stepped(b)
        return jnp.where((state == new).all(), 0.0, 1.0)

    assert 0.1 < ppl.exact_gradient(moved)(0.7).value < 0.9


def test_a_chain_finds_the_posterior_of_a_linear_gaussian_model():
    @gen
    def walk():
        def step(z, _):
            z = normal(z, 1.0) @ "z"
            normal(z, 0.5) @ "y"
            return z, None

        jax.lax.scan(step, 0.0, None, length=3)

    ys = jnp.array([0.5, 1.0, -1.5])
    kernel = ppl.particle_gibbs(walk, {"y": ys}, particles=8)
    step = lambda state, key: (kernel(key, state),) * 2
    run = lambda key: jax.lax.scan(step, {"z": jnp.zeros(3)}, jax.random.split(key, 30))[0]["z"]
    draws = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(1), 4000))
    prior = np.linalg.inv(np.minimum.outer(np.arange(1, 4), np.arange(1, 4)))
    covariance = np.linalg.inv(prior + 4 * np.eye(3))
    mean = covariance @ (4 * np.asarray(ys))
    errors = np.sqrt(np.diag(covariance) / len(draws))
    assert (abs(draws.mean(0) - mean) < 4.5 * errors).all()
    assert (abs(draws.var(0) / np.diag(covariance) - 1) < 4.5 * np.sqrt(2 / len(draws))).all()


def test_what_is_refused():
    key = jax.random.key(0)
    with pytest.raises(ppl.PPLError, match="at least 2"):
        ppl.particle_gibbs(two_steps, {"y": YS}, particles=1)
    with pytest.raises(ppl.PPLError, match="cannot be done"):
        ppl.particle_gibbs(two_steps, {"y": YS}, method=ppl.methods.exact())
    with pytest.raises(ppl.AddressError, match='expected: "z"'):
        ppl.particle_gibbs(two_steps, {"y": YS})(key, {"zz": STATES[0]}, 0.7)
    with pytest.raises(ppl.PPLError, match="no conditional version"):
        ppl.particle_gibbs(two_steps, {"y": YS}, method=smc(systematic()))(key, {"z": STATES[0]}, 0.7)
