"""REBAR, RELAX and LAX: unbiased for every control variate, by quadrature over all of their noise."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax import lax as jax_lax

import ppl
from estimators import elbo, lax, leave_one_out, mvd, rebar, reinforce, relax
from estimators.strategies.smoothed import Smoothed
from ppl import bernoulli, categorical, gen, normal
from tests.statistics import assert_unbiased
from tests.strategies.exactly import costs, distribution, unit_interval

pytestmark = pytest.mark.x64

KEY = jr.key(3)
K = lambda b: (b + 1.3) ** 2  # One term: a constant that is added would not be charged.
CONTROLS = {
    "none": lambda z: 0.0 * z,
    "smoothed": lambda z: K(jax.nn.sigmoid(2 * z)),
    "bad": lambda z: jnp.tanh(z - 0.3) * 4 + 0.2 * z,
    "a bump": lambda z: 5.0 * jnp.exp(-((z - 1) ** 2)),
}


def truth(logit):
    return jax.grad(lambda x: jax.nn.sigmoid(x) * K(1.0) + jax.nn.sigmoid(-x) * K(0.0))(logit)


@pytest.mark.parametrize("logit", [-1.2, 0.0, 0.8])
@pytest.mark.parametrize("control", CONTROLS)
def test_coins_by_quadrature(control, logit):
    """Both uniform numbers are integrated out: the one of z on either side of its threshold."""
    law, c = Smoothed(False), CONTROLS[control]
    u, on_u = unit_interval(1e-6, 1e-3, float(jax.nn.sigmoid(-logit)), 0.999, 1 - 1e-6, nodes=40)
    v, on_v = unit_interval(1e-9, 1e-6, 1e-3, 0.03, 0.97, 0.999, 1 - 1e-6, 1 - 1e-9, nodes=40)
    one = lambda u, v: law.gradient(jnp.asarray(logit), u, v, lambda b: K(b * 1.0), c)
    table = jax.vmap(jax.vmap(one, (None, 0)), (0, None))(u, v)
    np.testing.assert_allclose(on_u @ table @ on_v, truth(logit), rtol=2e-6)


def test_z_given_b_has_the_law_of_z():
    """The mixture over b of the law of z' is logistic: moments of its distribution function are uniform."""
    law, logit = Smoothed(False), 0.7
    v, weights = unit_interval(1e-6, 1 - 1e-6, nodes=60)
    for b, side in ((1, v > 0), (0, v > 0)):
        z = law.given(jnp.asarray(logit), jnp.asarray(b), v)
        assert ((z > 0) == (b == 1))[side].all()
        uniform = jax.nn.sigmoid(z - logit)
        low, high = (float(jax.nn.sigmoid(-logit)), 1.0) if b else (0.0, float(jax.nn.sigmoid(-logit)))
        np.testing.assert_allclose(weights @ uniform, (low + high) / 2, rtol=1e-9)
        np.testing.assert_allclose(weights @ uniform**2, (high**3 - low**3) / (high - low) / 3, rtol=1e-9)


def test_vectors_given_their_largest():
    """Of a categorical choice: z' has its largest element at b, and the mixture has Gumbel marginals (z-test)."""
    law, logits = Smoothed(True), jax.nn.log_softmax(jnp.array([0.2, -0.5, 0.9]))

    def one(key):
        first, second = law.uniforms(key, logits)
        b = law.value(law.noisy(logits, first))
        z = law.given(logits, b, second)
        return jnp.argmax(z) == b, jnp.exp(-jnp.exp(logits - z))

    same, uniform = jax.vmap(one)(jr.split(KEY, 2**17))
    assert same.all()
    error = 1 / np.sqrt(12 * 2**17)
    assert (np.abs(uniform.mean(0) - 0.5) < 4.5 * error).all()
    assert (np.abs((uniform**2).mean(0) - 1 / 3) < 4.5 * np.sqrt(4 / 45) / np.sqrt(2**17)).all()


def coin(strategy):
    return lambda x: K(bernoulli(logits=x, grad=strategy).sample() * 1.0)


@pytest.mark.parametrize("scale", [0.0, 1.0, -0.7])
@pytest.mark.parametrize("temperature", [0.2, 1.5])
def test_rebar_by_quadrature(scale, temperature):
    strategy, logit = rebar(scale, temperature), 0.4
    u, on_u = unit_interval(1e-6, 1e-3, float(jax.nn.sigmoid(-logit)), 0.999, 1 - 1e-6, nodes=40)
    v, on_v = unit_interval(1e-9, 1e-6, 1e-3, 0.03, 0.97, 0.999, 1 - 1e-6, 1 - 1e-9, nodes=40)
    k = costs(lambda b: K(b * 1.0), K)
    one = lambda u, v: jax.grad(lambda x: strategy.given(u, v, distribution("bernoulli", logits=x), k))(logit)
    table = jax.vmap(jax.vmap(one, (None, 0)), (0, None))(u, v)
    np.testing.assert_allclose(on_u @ table @ on_v, truth(logit), rtol=2e-6)


def test_rebar_has_less_noise_than_the_score():
    cost = lambda s: lambda x: (bernoulli(logits=x, grad=s).sample() + 10.0) ** 2
    runs = lambda s: jax.vmap(ppl.grad(cost(s)), (0, None))(jr.split(KEY, 2**14), 0.4)
    assert runs(rebar(1.0, 0.5)).var() < runs(reinforce()).var() / 50


bump = lambda args, z: args[0] * jnp.exp(-((z - args[1]) ** 2).sum())
RELAXED = relax(bump, (jnp.array(0.8), jnp.array(0.5)))


def nested(strategy):
    inner = gen(lambda p: bernoulli(p, grad=strategy) @ "b")
    return lambda p: (inner(p) @ "x") * (1.0 + (inner(p) @ "y"))


PROGRAMS = {
    "plain": (lambda s: lambda p: K(bernoulli(p, grad=s).sample() * 1.0), lambda p: p * K(1) + (1 - p) * K(0)),
    "two choices": (
        lambda s: lambda p: (bernoulli(p, grad=s).sample() + 2.0 * bernoulli(p**2, grad=s).sample()) ** 2.0,
        lambda p: p + 4 * p**2 + 4 * p**3,
    ),
    "lanes, shared": (
        lambda s: lambda p: (jax.vmap(lambda q: bernoulli(q, grad=s).sample())(jnp.full(2, p)).sum() + 0.5) ** 2,
        lambda p: 2 * p + 2 * p**2 + 2 * p + 0.25,
    ),
    "scan": (
        lambda s: (
            lambda p: jax_lax.scan(lambda c, _: (c + bernoulli(p, grad=s).sample(), None), 0.5, None, length=2)[0] ** 2
        ),
        lambda p: 2 * p + 2 * p**2 + 2 * p + 0.25,
    ),
    "cond": (
        lambda s: lambda p: jax_lax.cond(p > 0.2, lambda: 2.0 * bernoulli(p, grad=s).sample(), lambda: p) ** 2 + p,
        lambda p: 4 * p + p,
    ),
    "nested calls": (nested, lambda p: p + p**2),
    "checkpoint": (
        lambda s: lambda p: jax.checkpoint(lambda p: bernoulli(p, grad=s).sample() * 2.0)(p) * p,
        lambda p: 2 * p**2,
    ),
    "below an enumerated choice": (
        lambda s: lambda p: (bernoulli(0.2 + 0.5 * bernoulli(p, grad=ppl.enum()).sample(), grad=s).sample() + 1.0) ** 2,
        lambda p: 1 + 3 * (0.2 + 0.5 * p),
    ),
    "above a score function": (
        lambda s: (
            lambda p: (lambda b: (b + bernoulli(0.3 + 0.4 * b, grad=reinforce()).sample() + 1.0) ** 2)(
                bernoulli(p, grad=s).sample()
            )
        ),
        lambda p: p * (0.7 * 9 + 0.3 * 4) + (1 - p) * (0.3 * 4 + 0.7),
    ),
    "categorical": (
        lambda s: (
            lambda t: (
                (jax.nn.one_hot(categorical(logits=t * jnp.arange(3.0), grad=s).sample(), 3) @ jnp.arange(3.0) + t) ** 2
            )
        ),
        lambda t: jax.nn.softmax(t * jnp.arange(3.0)) @ (jnp.arange(3.0) + t) ** 2,
    ),
    "with_grad": (
        lambda s: ppl.with_grad(lambda p: (bernoulli(p).sample("b") + 1.0) ** 2, {"b": s}),
        lambda p: 1 + 3 * p,
    ),
}


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("strategy", [rebar(0.8, 0.5), RELAXED], ids=str)
def test_programs(name, strategy):
    make, mean = PROGRAMS[name]
    truth = jax.value_and_grad(mean)(0.4)
    assert_unbiased(lambda key: ppl.value_and_grad(make(strategy))(key, 0.4), truth, KEY)


def programs(strategy):
    model = gen(lambda p: normal(2.0 * (bernoulli(0.3) @ "b"), 1.0) @ "y")
    return model, gen(lambda p, observed: bernoulli(p, grad=strategy) @ "b")


@pytest.mark.parametrize("strategy", [rebar(1.0, 0.5), RELAXED], ids=str)
def test_an_elbo(strategy):
    exact = ppl.exact_gradient(elbo(*programs(ppl.enum())))(0.15, {"y": 1.2})
    estimate = lambda key: ppl.value_and_grad(elbo(*programs(strategy)))(key, 0.15, {"y": 1.2})
    assert_unbiased(estimate, (exact.value, exact.gradient), KEY)


def two_layers(args, z):
    return jnp.tanh(args["w"] * z + args["b"]) @ args["out"] + args["level"]


def network(key):
    keys = jr.split(key, 3)
    return {
        "w": jr.normal(keys[0], (4,)),
        "b": jr.normal(keys[1], (4,)),
        "out": jr.normal(keys[2], (4,)),
        "level": jnp.zeros(()),
    }


class TestLearning:
    def test_the_gradient_is_that_of_minus_the_variance(self):
        """E[g**2] by quadrature as a function of the parameters, against the mean of what they get."""
        law, logit = Smoothed(False), 0.4
        u, on_u = unit_interval(1e-4, float(jax.nn.sigmoid(-logit)), 1 - 1e-4, nodes=30)
        v, on_v = unit_interval(1e-4, 0.02, 0.98, 1 - 1e-4, nodes=30)
        control = lambda level, z: level * jax.nn.sigmoid(2 * z)

        def square(level):
            one = lambda u, v: law.gradient(logit, u, v, lambda b: K(b * 1.0), lambda z: control(level, z)) ** 2
            return on_u @ jax.vmap(jax.vmap(one, (None, 0)), (0, None))(u, v) @ on_v

        wanted = -jax.grad(square)(1.3)
        learned = lambda args: K(bernoulli(logits=args[0], grad=relax(control, args[1])).sample() * 1.0)
        estimate = lambda key: ppl.grad(learned)(key, (logit, 1.3))
        assert_unbiased(lambda key: estimate(key), (truth(logit), wanted), KEY)

    def test_training_makes_the_variance_smaller_and_never_the_mean_wrong(self):
        program = lambda args: coin(relax(two_layers, args["control"]))(args["logit"])
        params = {"logit": jnp.array(0.4), "control": network(KEY)}

        @jax.jit
        def step(params, key):
            gradients = jax.vmap(ppl.grad(program), (0, None))(jr.split(key, 64), params)["control"]
            moved = jax.tree.map(lambda x, g: x + 0.05 * g.mean(0), params["control"], gradients)
            return {"logit": params["logit"], "control": moved}, None

        trained = jax_lax.scan(step, params, jr.split(KEY, 300))[0]
        runs = lambda params: jax.vmap(ppl.grad(program), (0, None))(jr.split(KEY, 2**14), params)["logit"]
        before, after = runs(params), runs(trained)
        for draws in (before, after):
            assert abs(draws.mean() - truth(0.4)) < 4.5 * draws.std() / 2**7
        assert after.var() < before.var() / 5

    def test_inputs_are_detached_and_parameters_are_not(self):
        control = lambda level, z, x: level * x * jax.nn.sigmoid(z)
        program = lambda args: coin(relax(control, args[1], args[2]))(args[0])
        gradients = ppl.grad(program)(KEY, (0.4, 1.5, 2.0))
        assert gradients[1] != 0
        assert gradients[2] == 0
        scan = lambda args: jax_lax.scan(lambda c, x: (c + program((*args, x)), None), 0.0, jnp.array([1.0, 2.0]))[0]
        assert all(np.isfinite(part) for part in ppl.grad(scan)(KEY, (0.4, 1.5)))

    def test_lanes_may_have_controls_of_their_own(self):
        control = lambda level, z: level * jax.nn.sigmoid(z)
        one = lambda x, level: coin(relax(control, level))(x)
        program = lambda x, levels: jax.vmap(one)(jnp.full(3, x), levels).sum()
        gradients = jax.jit(ppl.grad(program, argnums=(0, 1)))(KEY, 0.4, jnp.arange(3.0))
        assert gradients[1].shape == (3,)
        assert len(np.unique(gradients[1])) == 3
        estimate = lambda key: ppl.value_and_grad(program)(key, 0.4, jnp.arange(3.0))
        value = 3 * (jax.nn.sigmoid(0.4) * K(1) + jax.nn.sigmoid(-0.4) * K(0))
        assert_unbiased(estimate, (value, 3 * truth(0.4)), KEY)


SMOOTH = lax(lambda level, x: level * jax.nn.sigmoid(2 * x), jnp.array(0.8))


class TestLax:
    @pytest.mark.parametrize("control", [lambda c, x: c * jnp.tanh(x), lambda c, x: c * x**2], ids=["tanh", "square"])
    def test_a_jump_by_quadrature(self, control):
        """1(x > 0), x ~ N(mu, 1) at mu = .5: phi(.5) = .3520653, for every control variate."""
        nodes, weights = np.polynomial.legendre.leggauss(200)
        pieces = [(-9.0, -0.5), (-0.5, 9.0)]  # The noise at which the cost jumps is -mu.
        e = np.concatenate([a + (b - a) * (nodes + 1) / 2 for a, b in pieces])
        w = np.concatenate([(b - a) * weights / 2 for a, b in pieces]) * np.exp(-(e**2) / 2) / np.sqrt(2 * np.pi)

        def one(e):
            x = 0.5 + e
            charged = lambda m: ((x > 0) - control(0.7, x)) * (-((x - m) ** 2) / 2)
            return jax.grad(lambda m: charged(m) + control(0.7, m + e))(0.5)

        np.testing.assert_allclose(w @ jax.vmap(one)(jnp.asarray(e)), 0.3520653, rtol=1e-6)
        program = lambda m: (normal(m, 1.0, grad=lax(control, 0.7)).sample() > 0) * 1.0
        wanted = jax.scipy.stats.norm.cdf(0.5), jax.scipy.stats.norm.pdf(0.5)
        assert_unbiased(lambda key: ppl.value_and_grad(program)(key, 0.5), wanted, KEY)

    @pytest.mark.parametrize("name", ["lanes", "scan", "scale", "gamma"])
    def test_programs(self, name):
        program, mean = {
            "lanes": (
                lambda m: jax.vmap(lambda x: normal(x, 1.0, grad=SMOOTH).sample())(jnp.full(2, m)).prod(),
                lambda m: m**2,
            ),
            "scan": (
                lambda m: (
                    jax_lax.scan(lambda c, _: (c + normal(m, 1.0, grad=SMOOTH).sample(), None), 0.0, None, length=2)[0]
                    ** 2
                ),
                lambda m: 4 * m**2 + 2,
            ),
            "scale": (lambda s: normal(0.3, s, grad=SMOOTH).sample() ** 2, lambda s: 0.09 + s**2),
            "gamma": (lambda a: ppl.gamma(a, 2.0, grad=SMOOTH).sample() ** 2, lambda a: a * (a + 1) / 4),
        }[name]
        assert_unbiased(lambda key: ppl.value_and_grad(program)(key, 0.8), jax.value_and_grad(mean)(0.8), KEY)

    def test_the_variance_falls_when_it_is_trained(self):
        program = lambda args: (normal(args[0], 1.0, grad=lax(two_layers, args[1])).sample() > 0) * 10.0

        @jax.jit
        def step(params, key):
            gradients = jax.vmap(ppl.grad(program), (0, None))(jr.split(key, 64), (0.5, params))[1]
            return jax.tree.map(lambda x, g: x + 0.01 * g.mean(0), params, gradients), None

        params = network(KEY)
        trained = jax_lax.scan(step, params, jr.split(KEY, 300))[0]
        runs = lambda p: jax.vmap(ppl.grad(program), (0, None))(jr.split(KEY, 2**14), (0.5, p))[0]
        assert runs(trained).var() < runs(params).var() / 2


class TestRefusals:
    def test_what_a_smoothed_value_cannot_be(self):
        program = lambda p: jnp.array([1.0, 2.0])[bernoulli(p, grad=rebar()).sample("coin")]
        with pytest.raises(ppl.StrategyError, match="whole numbers"):
            ppl.grad(program)(KEY, 0.3)
        assert ppl.expect(program)(KEY, 0.3) in (1.0, 2.0)  # The value alone is right.

    def test_a_smoothed_cost_that_jumps(self):
        program = lambda p: (bernoulli(p, grad=rebar()).sample("coin") * 1.0 > 0.3) * 2.0
        with pytest.raises(ppl.UnsoundGradientError, match="'coin'"):
            ppl.grad(program)(KEY, 0.3)
        assert ppl.expect(program)(KEY, 0.3) in (0.0, 2.0)

    @pytest.mark.parametrize("later", [mvd(), leave_one_out()], ids=str)
    def test_a_later_choice_that_estimates_by_itself(self, later):
        program = lambda p: bernoulli(0.2 + 0.5 * bernoulli(p, grad=rebar()).sample(), grad=later).sample() * 1.0
        with pytest.raises(ppl.StrategyError, match="differentiates costs"):
            ppl.grad(program)(KEY, 0.3)

    def test_a_later_step_that_estimates_by_itself(self):
        step = lambda c, _: (bernoulli(0.2 + 0.5 * c, grad=rebar()).sample() * 1.0, None)
        with pytest.raises(ppl.StrategyError, match="differentiates costs"):
            ppl.grad(lambda c: jax_lax.scan(step, c, None, length=2)[0])(KEY, 0.3)

    def test_families(self):
        for strategy in (rebar(), RELAXED):
            with pytest.raises(ppl.StrategyError, match="bernoulli and categorical"):
                ppl.seed(lambda s=strategy: ppl.poisson(1.0, grad=s).sample())(KEY)
        with pytest.raises(ppl.StrategyError, match="moves with its parameters"):
            ppl.seed(lambda: ppl.uniform(0.0, 1.0, grad=SMOOTH).sample())(KEY)
        with pytest.raises(ppl.StrategyError, match="no derivative"):
            ppl.seed(lambda: bernoulli(0.3, grad=SMOOTH).sample())(KEY)

    def test_controls(self):
        with pytest.raises(ppl.StrategyError, match="not a number"):
            ppl.grad(coin(relax(lambda c, z: jnp.stack([z, c]), 1.0)))(KEY, 0.4)
        with pytest.raises(ppl.StrategyError, match="closes over a traced array"):
            ppl.grad(lambda x: coin(relax(lambda c, z: c * x, 1.0))(x))(KEY, 0.4)
        with pytest.raises(ppl.StrategyError, match="positive temperature"):
            rebar(temperature=0.0)

    def test_second_derivatives(self):
        with pytest.raises(ppl.StrategyError, match="second derivative"):
            ppl.hessian(coin(RELAXED))(KEY, 0.4)

    def test_what_if(self):
        """`gradient_variance` tries REBAR in place; a control variate has no value there, which it says."""
        report = ppl.gradient_variance(coin(reinforce()), alternatives={"*": [rebar(), RELAXED]})(KEY, 0.4, samples=200)
        found = {other.strategy.split("(")[0]: other for other in report.shares[0].alternatives}
        assert found["rebar"].refused is None
        assert found["rebar"].doubt is None
        assert "no value" in found["relax"].refused
