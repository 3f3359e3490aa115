"""What an error says about a run that is stuck: step, leaf, and the choice, density or operation where it began."""

import itertools

import jax
import jax.numpy as jnp
import jax.random as jr
import optax
import pytest

import ppl
from estimators import elbo
from ppl import bernoulli, gen, normal, reinforce
from ppl.training import maximize, minimize
from ppl.training.diagnosis import find_origins

KEY = jr.key(0)


@gen
def model(params):
    flip = bernoulli(0.5) @ "flip"
    z = normal(params["m"] * flip, 1.0) @ "z"
    normal(z, jnp.exp(params["s"])) @ "x"


@gen
def guide(params, observed):
    bernoulli(0.5, grad=reinforce()) @ "flip"
    normal(params["g"], jnp.sqrt(params["v"])) @ "z"


OBJECTIVE = elbo(model, guide)


def params(**changes):
    return {name: jnp.asarray(changes.get(name, float(name == "v"))) for name in "gmsv"}


def stuck(f, params, data, **options):
    with pytest.raises(ppl.PPLError) as caught:
        maximize(f, params, data, optax.sgd(0.0), steps=30, key=KEY, **options)
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "x", "words"),
    [
        ({"v": -1.0}, 1.0, ["`sqrt` at", 'and so the value of choice "z"', "test_origins.py"]),
        ({}, jnp.nan, ["data['x'], which is given so", 'and so log p("x")']),
        ({"s": -2000.0}, 1.0, ['not finite: log p("x") at']),
        ({"m": jnp.inf}, 1.0, ["params['m'], which is given so"]),
    ],
    ids=["operation", "data", "density", "parameter"],
)
def test_the_origin_of_a_value(changes, x, words):
    message = stuck(OBJECTIVE, params(**changes), {"x": jnp.asarray(x)})
    assert "at step 19" in message
    for word in words:
        assert word in message


def test_the_origin_of_a_gradient():
    def f(p, batch):
        root = jnp.sqrt(jnp.maximum(p["b"] - batch, 0.0))  # infinite slope where it is zero
        return jnp.sum(root) + p["a"] + normal(0.0, 1.0).sample()

    message = stuck(f, {"a": jnp.array(1.0), "b": jnp.array(0.0)}, jnp.zeros(2))
    assert "the gradient of params['b'] is not finite" in message
    assert "not finite: the derivative of `sqrt` at" in message


def test_the_step_of_a_loop_is_named():
    def f(p, xs):
        def step(carry, x):
            carry = normal(carry, 1.0).sample() * jnp.log(p * x + 0.0 * carry)
            return carry, None

        return -jax.lax.scan(step, 0.0, xs)[0]

    message = stuck(f, jnp.array(1.0), jnp.array([1.0, 1.0, -1.0, 1.0]))
    assert "`log` at" in message
    assert "in step 2 of its loop" in message


def test_state_and_nested_programs():
    @gen
    def outer(params):
        model(params) @ "inner"

    @gen
    def outer_guide(params, observed):
        guide(params, observed) @ "inner"

    bound = elbo(outer, outer_guide)

    def f(params, state, batch):
        return bound(params, {"inner": batch}), {"n": state["n"] + 1, "key": jr.split(state["key"])[0]}

    message = stuck(f, params(s=-2000.0), {"x": jnp.array(1.0)}, state={"n": 0, "key": jr.key(3)})
    assert 'log p("inner/x") at' in message


def test_parameters_are_those_of_the_step():
    """Step 25 is finite and would move the parameter to where step 19, which is looked at, is finite, too."""

    def stream(step):
        return (jnp.where(s < 25, -1.0, 1.0) for s in itertools.count(step))

    with pytest.raises(ppl.PPLError) as caught:
        minimize(lambda p, x: jnp.log(p * x), jnp.array(1.0), stream, optax.sgd(100.0), steps=30, key=KEY, chunk=30)
    assert "20 steps in a row, from step 0 on" in str(caught.value)
    assert "`log` at" in str(caught.value)


def test_a_finite_run_has_no_origin():
    assert find_origins(OBJECTIVE, KEY, (params(), {"x": jnp.array(1.0)}), ("params", "data"), 4) == []


def test_a_masked_infinity_is_no_origin():
    def f(p):
        return jnp.where(True, -(p**2), jnp.log(p * 0.0)) + jnp.log(-jnp.abs(p) - 1.0)

    assert find_origins(f, KEY, (jnp.array(0.5),), ("params",), 1)[0].startswith("`log`")
    assert len(find_origins(f, KEY, (jnp.array(0.5),), ("params",), 1)) == 1
