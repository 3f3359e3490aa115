"""Target surrogates: majorisation, descent, projections and natural gradients, all in closed form."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from sklearn.datasets import load_breast_cancer

import ppl
from estimators import Euclidean, kl_divergence, target_surrogate
from ppl import bernoulli, gen
from ppl.training import Targeted

pytestmark = pytest.mark.x64


@pytest.fixture(scope="module")
def cancer():
    """Standardised measurements with a bias, (569, 31), and labels."""
    inputs, labels = load_breast_cancer(return_X_y=True)
    inputs = (inputs - inputs.mean(0)) / inputs.std(0)
    return jnp.asarray(np.c_[inputs, np.ones(len(inputs))]), jnp.asarray(labels, jnp.float64)


def logistic(z, y):
    return jnp.mean(jnp.logaddexp(0.0, z) - y * z)


def exact_inner(inputs, eta):
    """Return an inner optimiser whose only step reaches the minimum of a linear model's surrogate."""
    inverse = jnp.linalg.pinv(inputs.T @ inputs)
    return optax.stateless(lambda grad, _: -eta * inverse @ grad)


def one_step(transform, params, loss, target_fn):
    grad = jax.grad(loss)(target_fn(params))
    updates, _ = transform.update(grad, transform.init(params), params, target_fn=target_fn)
    return params + updates


@pytest.mark.parametrize("eta", [0.01, 1.0, 300.0])
def test_one_plain_inner_step_is_plain_gradient_descent(eta, cancer, getkey):
    """Check 1: exactly, for any eta and a model that is not linear."""
    inputs, labels = cancer
    params = jr.normal(getkey(), (31,))
    target_fn, loss = lambda w: jnp.tanh(inputs @ w), lambda z: logistic(z, labels)
    found = one_step(target_surrogate(optax.sgd(0.3), eta, 1), params, loss, target_fn)
    expected = params - 0.3 * jax.grad(lambda w: loss(target_fn(w)))(params)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_the_surrogate_lies_above_the_loss(cancer, getkey):
    """Check 2: at eta = 1 / L = 4 n it does at 200 pairs; at eta = 4 / L it does not."""
    inputs, labels = cancer
    n = len(labels)
    pairs = jr.normal(getkey(), (200, 2, 31)) * jnp.exp(jr.uniform(getkey(), (200, 1, 1), minval=-5.0, maxval=1.0))

    def gap(pair, eta):
        new, old = inputs @ pair[0], inputs @ pair[1]
        value, grad = jax.value_and_grad(logistic)(old, labels)
        return value + jnp.vdot(grad, new - old) + Euclidean()(new, old) / eta - logistic(new, labels)

    gaps = lambda eta: jax.vmap(lambda pair: gap(pair, eta))(pairs)
    assert gaps(4.0 * n).min() >= -1e-12
    assert gaps(16.0 * n).min() < -1e-3


@pytest.mark.parametrize(
    ("num_inner", "after_one", "after_hundred"),
    [
        (1, 0.325197, 0.076349),
        (10, 0.275297, 0.063119),
        (100, 0.250565, 0.058157),
        (1000, 0.239365, 0.056608),
    ],
)
def test_descent_never_rises(num_inner, after_one, after_hundred, cancer):
    """Check 3: at eta = 1 / L, whatever the number of inner steps of 1 / (surrogate's curvature)."""
    inputs, labels = cancer
    eta = 4.0 * len(labels)
    inner = optax.sgd(eta / jnp.linalg.eigvalsh(inputs.T @ inputs)[-1])
    f = Targeted(lambda w: inputs @ w, lambda z: logistic(z, labels))
    fit = ppl.minimize(f, jnp.zeros(31), None, target_surrogate(inner, eta, num_inner), steps=101, key=jr.key(0))
    losses = fit.history["value"]
    assert (np.diff(losses) <= 0).all()
    np.testing.assert_allclose(losses[[1, 100]], [after_one, after_hundred], atol=1e-6)


def test_one_inner_step_is_gradient_descent_for_a_hundred_steps(cancer):
    """Check 3: plain descent with 1 / L of the parameters gives the row of one inner step."""
    inputs, labels = cancer
    largest = jnp.linalg.eigvalsh(inputs.T @ inputs)[-1]
    descent = jax.lax.fori_loop(
        0, 100, lambda _, w: w - 4 * 569 / largest * jax.grad(lambda w: logistic(inputs @ w, labels))(w), jnp.zeros(31)
    )
    f = Targeted(lambda w: inputs @ w, lambda z: logistic(z, labels))
    transform = target_surrogate(optax.sgd(4 * 569 / largest), 4.0 * 569, 1)
    fit = ppl.minimize(f, jnp.zeros(31), None, transform, steps=100, key=jr.key(0))
    np.testing.assert_allclose(logistic(inputs @ fit.params, labels), 0.0763486, atol=1e-7)
    np.testing.assert_allclose(logistic(inputs @ fit.params, labels), logistic(inputs @ descent, labels), atol=1e-14)


def test_the_minimum_is_a_projection(cancer):
    """Check 4: theta - eta (X'X)^-1 X'G, and the loss after one such step."""
    inputs, labels = cancer
    eta = 4.0 * len(labels)
    transform = target_surrogate(exact_inner(inputs, eta), eta, 1)
    found = one_step(transform, jnp.zeros(31), lambda z: logistic(z, labels), lambda w: inputs @ w)
    target = -eta * jax.grad(logistic)(jnp.zeros(len(labels)), labels)
    np.testing.assert_allclose(found, jnp.linalg.lstsq(inputs, target)[0], atol=1e-9)
    np.testing.assert_allclose(logistic(inputs @ found, labels), 0.2366604, atol=1e-7)


def test_least_squares_in_one_step(getkey):
    """Check 5: half the mean squared error at eta = n."""
    inputs, outputs = jr.normal(getkey(), (30, 4)), jr.normal(getkey(), (30,))
    loss = lambda z: jnp.mean((z - outputs) ** 2) / 2
    transform = target_surrogate(exact_inner(inputs, 30.0), 30.0, 1)
    found = one_step(transform, jr.normal(getkey(), (4,)), loss, lambda w: inputs @ w)
    np.testing.assert_allclose(found, jnp.linalg.lstsq(inputs, outputs)[0], atol=1e-9)


class TestInterpolation:
    """Check 6: linear regression without noise, one example at a time; all rows are held, or only the sampled one."""

    RUNS, STEPS, ROWS, ETA = 400, 300, 30, 0.5

    @pytest.fixture
    def problem(self, getkey):
        inputs = jr.normal(getkey(), (self.ROWS, 4))
        return inputs, inputs @ jr.normal(getkey(), (4,))

    def test_all_rows(self, problem, getkey):
        inputs, outputs = problem
        transform = target_surrogate(exact_inner(inputs, self.ETA), self.ETA, 1)

        def step(params, row):
            moved = one_step(transform, params, lambda z: (z[row] - outputs[row]) ** 2 / 2, lambda w: inputs @ w)
            return moved, jnp.sum((inputs @ params - outputs) ** 2)

        rows = jr.randint(getkey(), (self.RUNS, self.STEPS + 1), 0, self.ROWS)
        _, distances = jax.jit(jax.vmap(lambda rows: jax.lax.scan(step, jnp.zeros(4), rows)))(rows)
        bound = (1 - self.ETA / self.ROWS) ** np.arange(self.STEPS + 1) * float(jnp.sum(outputs**2))
        ratio = np.asarray(distances.mean(0)) / bound
        assert ratio.max() <= 1 + 1e-12
        assert ratio.argmax() == 0

    def test_the_sampled_row_is_relaxed_kaczmarz(self, problem, getkey):
        inputs, outputs = problem
        params = jr.normal(getkey(), (4,))
        for row in (0, 7):
            x, y = inputs[row], outputs[row]
            transform = target_surrogate(exact_inner(x[None], self.ETA), self.ETA, 1)
            found = one_step(transform, params, lambda z, y=y: jnp.sum((z - y) ** 2) / 2, lambda w, x=x: x[None] @ w)
            expected = params - self.ETA * (x @ params - y) * x / jnp.vdot(x, x)
            np.testing.assert_allclose(found, expected, atol=1e-12)

    def test_convergence_in_distance_with_noise(self, getkey):
        """Section 2.5: (1 - eta mu)^T ||z_0 - z*||^2 + 2 eta sigma^2 / mu, at eta = 1 / (2 L)."""
        inputs = jr.normal(getkey(), (self.ROWS, 4))
        outputs = inputs @ jr.normal(getkey(), (4,)) + 0.3 * jr.normal(getkey(), (self.ROWS,))
        best = inputs @ jnp.linalg.lstsq(inputs, outputs)[0]
        transform = target_surrogate(exact_inner(inputs, self.ETA), self.ETA, 1)

        def step(params, row):
            moved = one_step(transform, params, lambda z: (z[row] - outputs[row]) ** 2 / 2, lambda w: inputs @ w)
            return moved, jnp.sum((inputs @ params - best) ** 2)

        rows = jr.randint(getkey(), (self.RUNS, self.STEPS + 1), 0, self.ROWS)
        _, distances = jax.jit(jax.vmap(lambda rows: jax.lax.scan(step, jnp.zeros(4), rows)))(rows)
        residual = best - outputs
        # gradients at z* are e_i r_i; their mean is r / n
        variance = float(jnp.mean(residual**2) - jnp.sum((residual / self.ROWS) ** 2))
        start = float(jnp.sum(best**2))
        bound = (1 - self.ETA / self.ROWS) ** np.arange(self.STEPS + 1) * start + 2 * self.ETA * variance * self.ROWS
        assert (np.asarray(distances.mean(0)) <= bound).all()


class TestNaturalGradient:
    """Check 7: a Bernoulli guide under its divergence."""

    @staticmethod
    def descended(guide, grad, eta, link=lambda theta: theta, start=0.4):
        transform = target_surrogate(optax.sgd(eta), eta, 4000, kl_divergence(guide, {}))
        params = jnp.asarray(start)
        updates, _ = transform.update(grad(link(params)), transform.init(params), params, target_fn=link)
        return params, params + updates

    def test_of_mean_parameters_is_exact(self):
        """The logit moves by -eta / F times its own gradient: the natural-gradient step."""
        guide = gen(lambda p, observed: bernoulli(p) @ "x")
        loss = lambda p: (p - 0.9) ** 2
        for eta in (0.1, 1.0, 5.0):
            before, after = self.descended(guide, jax.grad(loss), eta, jax.nn.sigmoid)
            own = jax.grad(lambda logit: loss(jax.nn.sigmoid(logit)))(before)
            p = jax.nn.sigmoid(before)
            np.testing.assert_allclose(after, before - eta * own / (p * (1 - p)), atol=1e-8)

    def test_of_logits_is_exact_to_first_order(self):
        """With logits as targets the minimum obeys F(z) (z - z_t) = -eta G, where the natural gradient has F(z_t)."""
        guide = gen(lambda z, observed: bernoulli(logits=z) @ "x")
        grad = jax.grad(lambda z: (jax.nn.sigmoid(z) - 0.9) ** 2)
        fisher = lambda z: jax.nn.sigmoid(z) * jax.nn.sigmoid(-z)
        errors = []
        for eta in (0.02, 0.04):
            before, after = self.descended(guide, grad, eta)
            np.testing.assert_allclose(fisher(after) * (after - before), -eta * grad(before), atol=1e-9)
            errors.append(float(abs(after - (before - eta * grad(before) / fisher(before)))))
        assert 3.5 < errors[1] / errors[0] < 4.5  # of second order in eta
