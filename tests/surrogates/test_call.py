"""Target surrogates as a transformation: step sizes, stopping, composition, bad input, traps."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import ppl
from estimators import AdaGrad, Euclidean, LineSearch, NoiseAware, curvature_descent, kl_divergence, target_surrogate
from ppl import PPLError, bernoulli, gen, normal
from ppl.training import Targeted, descend

INPUTS = jnp.asarray(np.random.default_rng(0).normal(size=(12, 3)))
OUTPUTS = INPUTS @ jnp.array([1.0, -2.0, 0.5])


def target_fn(params):
    return INPUTS @ params


def loss(z):
    return jnp.mean((z - OUTPUTS) ** 2) / 2


def updated(transform, params=None, **extra):
    params = jnp.ones(3) if params is None else params
    extra = {"target_fn": target_fn} | extra
    return transform.update(jax.grad(loss)(extra["target_fn"](params)), transform.init(params), params, **extra)


class TestSizes:
    def test_line_search_takes_the_first_step_that_decreases_enough(self):
        """Of 1/2 mean squared error, one example's scale: eta = 1 is the minimum, and c = 1/2 allows up to 1."""
        transform = target_surrogate(optax.sgd(0.1), LineSearch(initial=4.0), 3, Euclidean(per_example=True))
        _, state = updated(transform, target_value_fn=loss)
        tried = 4.0 * 1.8 * 0.9 ** np.arange(60)
        np.testing.assert_allclose(state.eta, tried[tried <= 1.0][0], rtol=1e-6)
        _, again = transform.update(
            jax.grad(loss)(target_fn(jnp.ones(3))), state, jnp.ones(3), target_fn=target_fn, target_value_fn=loss
        )
        tried = float(state.eta) * 1.8 * 0.9 ** np.arange(60)
        np.testing.assert_allclose(again.eta, tried[tried <= 1.0][0], rtol=1e-6)

    def test_line_search_stays_within_its_limits(self):
        search = LineSearch(initial=1.0, least=0.5, largest=0.7)
        assert updated(target_surrogate(optax.sgd(0.1), search, 1), target_value_fn=loss)[1].eta == pytest.approx(0.7)
        rising = lambda z: -loss(z)
        found = updated(target_surrogate(optax.sgd(0.1), search, 1), target_value_fn=rising)[1].eta
        assert found == pytest.approx(0.5)

    def test_line_search_compares_with_the_same_randomness(self):
        """Trap: with a noise of 100 on the loss, fresh draws at each try would make it a lottery."""

        def noisy(z):
            return loss(z) + normal(0.0, 100.0).sample()

        transform = target_surrogate(optax.sgd(0.1), LineSearch(initial=4.0), 1, Euclidean(per_example=True))
        etas = []
        for seed in range(3):
            fit = ppl.minimize(Targeted(target_fn, noisy), jnp.ones(3), None, transform, steps=1, key=jr.key(seed))
            etas.append(float(fit.opt_state.eta))
            assert abs(fit.history["value"][0]) > 1.0
        tried = 4.0 * 1.8 * 0.9 ** np.arange(60)
        np.testing.assert_allclose(etas, tried[tried <= 1.0][0], rtol=1e-5)

    def test_adagrad(self):
        transform = target_surrogate(optax.sgd(0.01), AdaGrad(0.5), 1)
        params = jnp.ones(3)
        state, total = transform.init(params), 0.0
        for _ in range(3):
            grad = jax.grad(loss)(target_fn(params))
            total += float(jnp.sum(grad**2))
            updates, state = transform.update(grad, state, params, target_fn=target_fn)
            np.testing.assert_allclose(state.eta, 0.5 / np.sqrt(total), rtol=1e-6)
            params = params + updates

    def test_a_schedule_counts_steps(self):
        transform = target_surrogate(optax.sgd(0.01), lambda count: 2.0 / jnp.sqrt(count + 1.0), 4)
        fit = ppl.minimize(Targeted(target_fn, loss), jnp.ones(3), None, transform, steps=4, key=jr.key(0))
        assert fit.opt_state.eta == pytest.approx(1.0)
        assert (int(fit.opt_state.count), int(fit.opt_state.made)) == (4, 4)


class TestInner:
    def test_any_chain(self):
        """Backtracking and L-BFGS see the surrogate; many steps solve it: z = z_t - eta G, which is in range here."""
        expected = jnp.linalg.lstsq(INPUTS, target_fn(jnp.ones(3)) - 3.0 * jax.grad(loss)(target_fn(jnp.ones(3))))[0]
        backtracking = optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(30))
        for inner, steps in ((backtracking, 300), (optax.lbfgs(), 30), (curvature_descent(), 300)):
            updates, _ = updated(target_surrogate(inner, 3.0, steps))
            np.testing.assert_allclose(1.0 + updates, expected, atol=1e-5)

    def test_curvature_is_the_largest(self):
        grad = jax.grad(lambda w: loss(target_fn(w)))
        updates, _ = updated(target_surrogate(curvature_descent(200), 5.0, 1))
        largest = jnp.linalg.eigvalsh(INPUTS.T @ INPUTS)[-1] / 5.0
        np.testing.assert_allclose(updates, -grad(jnp.ones(3)) / largest, rtol=1e-5)

    def test_state_is_new_or_carried(self):
        """Adam as the inner optimiser, one step at a time and carried: ordinary Adam."""
        plain = ppl.minimize(lambda w: loss(target_fn(w)), jnp.ones(3), None, optax.adam(0.1), steps=20, key=jr.key(0))
        f, adam = Targeted(target_fn, loss), optax.adam(0.1)
        run = lambda carry: ppl.minimize(
            f, jnp.ones(3), None, target_surrogate(adam, 1.0, 1, carry=carry), steps=20, key=jr.key(0)
        )
        np.testing.assert_allclose(run(True).params, plain.params, rtol=1e-5)
        assert np.abs(run(False).params - plain.params).max() > 1e-3

    def test_jit_and_vmap_over_steps_sizes(self):
        def after(eta):
            return updated(target_surrogate(optax.sgd(0.1), eta, 5))[0]

        etas = jnp.array([0.5, 2.0])
        np.testing.assert_allclose(
            jax.jit(jax.vmap(after))(etas), jnp.stack([after(0.5), after(2.0)]), rtol=1e-5, atol=1e-7
        )

    def test_descend_ends_early(self):
        sgd = optax.sgd(0.25)
        x, _, made = descend(
            lambda x: x**2, jnp.array(8.0), sgd, sgd.init(jnp.array(8.0)), 100, lambda a, b: jnp.abs(b) < 1.5
        )
        assert (float(x), int(made)) == (1.0, 3)


class TestNoise:
    def test_steps_end_where_noise_is(self):
        """Little noise, all steps; much noise, one."""
        f = lambda sd: Targeted(
            target_fn, lambda z: loss(z) + jnp.vdot(z, sd * normal(jnp.zeros(12), 1.0).sample()) / 12, runs=4
        )
        transform = target_surrogate(optax.sgd(0.05), 3.0, NoiseAware(50, 3.0))
        made = lambda sd: int(ppl.minimize(f(sd), jnp.ones(3), None, transform, steps=1, key=jr.key(0)).opt_state.made)
        assert made(0.0) == 50
        assert made(100.0) == 1
        assert 1 <= made(1.0) < 50

    def test_the_variance_is_that_of_the_mean(self):
        f = Targeted(lambda w: w, lambda z: jnp.vdot(z, normal(jnp.zeros(2000), 3.0).sample()), runs=4)
        _, grad, extra = f.gradient(jr.key(1), lambda w: w, jnp.zeros(2000), None, -1.0)
        assert extra["target_variance"].shape == grad.shape
        np.testing.assert_allclose(jnp.mean(extra["target_variance"]), 9 / 4, rtol=5 * np.sqrt(2 / 3 / 2000))
        np.testing.assert_allclose(jnp.mean(grad**2), 9 / 4, rtol=5 * np.sqrt(2 / 2000))


class TestTargeted:
    def test_a_gradient_of_a_stochastic_objective_is_unbiased(self):
        """A discrete choice below the target, enumerated and by its score: the same mean, found by enumeration."""

        def objective(strategy):
            def f(z):
                coin = bernoulli(logits=z, grad=strategy).sample()
                return jnp.sum((coin - 0.3) ** 2)

            return f

        z = jnp.array([0.2, -1.0])
        exact = ppl.exact_gradient(objective(ppl.reinforce()))(z)
        summed = ppl.grad(objective(ppl.enum()))(jr.key(0), z)
        np.testing.assert_allclose(exact.gradient, summed, rtol=1e-6)

    def test_called_it_is_the_plain_objective(self):
        f = Targeted(target_fn, lambda z: loss(z) + 0 * normal(0.0, 1.0).sample())
        np.testing.assert_allclose(ppl.expect(f)(jr.key(0), jnp.ones(3)), loss(target_fn(jnp.ones(3))), rtol=1e-6)

    def test_what_is_prepared_is_seen_by_both_parts_and_all_inner_steps(self):
        """Rows drawn around the parameters: had the inner steps drawn their own, the update would differ."""
        prepare = lambda params: params + normal(jnp.zeros(3), 1.0).sample()
        f = Targeted(lambda w, row: row @ w, lambda z, row: (z - 1.0) ** 2 / 2, prepare)
        transform = target_surrogate(optax.sgd(0.05), 0.5, 4)
        fit = ppl.minimize(f, jnp.ones(3), None, transform, steps=1, key=jr.key(4))
        row = ppl.seed(prepare)(jr.split(jr.fold_in(jr.key(4), 0))[0], jnp.ones(3))
        grad = jax.grad(lambda z: (z - 1.0) ** 2 / 2)(row @ jnp.ones(3))
        params = jnp.ones(3)
        updates, _ = transform.update(grad, transform.init(params), params, target_fn=lambda w: row @ w)
        np.testing.assert_allclose(fit.params, params + updates, rtol=1e-5)

    def test_climbing_is_descending_the_negative(self):
        transform = target_surrogate(optax.sgd(0.1), LineSearch(), 3)
        down = ppl.minimize(Targeted(target_fn, loss), jnp.ones(3), None, transform, steps=5, key=jr.key(0))
        up = ppl.maximize(Targeted(target_fn, lambda z: -loss(z)), jnp.ones(3), None, transform, steps=5, key=jr.key(0))
        np.testing.assert_allclose(up.params, down.params, rtol=1e-6)

    def test_only_what_is_trained_moves(self):
        f = Targeted(lambda params: INPUTS @ params["w"] + params["b"], loss)
        start = {"w": jnp.ones(3), "b": jnp.array(2.0)}
        trainable = {"w": True, "b": False}
        transform = target_surrogate(optax.sgd(0.1), 1.0, 3)
        fit = ppl.minimize(f, start, None, transform, steps=3, key=jr.key(0), trainable=trainable)
        assert float(fit.params["b"]) == 2.0
        assert np.abs(fit.params["w"] - 1.0).max() > 1e-3

    def test_a_run_goes_on_from_its_save(self, tmp_path):
        f = Targeted(target_fn, lambda z: loss(z + 0.1 * normal(jnp.zeros(12), 1.0).sample()))
        transform = target_surrogate(optax.sgd(0.1), LineSearch(), 3)
        run = lambda steps, **more: ppl.minimize(
            f, jnp.ones(3), None, transform, steps=steps, key=jr.key(0), chunk=4, **more
        )
        run(4, checkpoint=tmp_path)
        np.testing.assert_array_equal(run(8, checkpoint=tmp_path, resume=True).params, run(8).params)


class TestRefused:
    @pytest.mark.parametrize("number", [0, -1, 2.0, True, None])
    def test_number_of_inner_steps(self, number):
        with pytest.raises(PPLError, match="positive number of inner steps"):
            target_surrogate(optax.sgd(0.1), 1.0, number)

    @pytest.mark.parametrize("eta", [0.0, -1.0, float("nan"), "line_search", None])
    def test_eta(self, eta):
        with pytest.raises(PPLError, match="`eta`"):
            target_surrogate(optax.sgd(0.1), eta, 1)

    def test_rules_out_of_range(self):
        with pytest.raises(PPLError, match="`shrink`"):
            LineSearch(shrink=1.0)
        with pytest.raises(PPLError, match="`initial`"):
            LineSearch(initial=0.0)
        with pytest.raises(PPLError, match="`eta`"):
            AdaGrad(-1.0)
        with pytest.raises(PPLError, match="inner steps"):
            NoiseAware(0)
        with pytest.raises(PPLError, match="iterations"):
            curvature_descent(0)
        with pytest.raises(PPLError, match="runs"):
            Targeted(target_fn, loss, runs=0)

    def test_gradients_of_parameters(self):
        """The most likely mistake."""
        transform, params = target_surrogate(optax.sgd(0.1), 1.0, 2), jnp.ones(3)
        grad = jax.grad(lambda w: loss(target_fn(w)))(params)
        with pytest.raises(PPLError, match="not to the parameters"):
            transform.update(grad, transform.init(params), params, target_fn=target_fn)
        with pytest.raises(PPLError, match="not like the target"):
            transform.update({"z": grad}, transform.init(params), params, target_fn=target_fn)

    def test_missing_arguments(self):
        transform = target_surrogate(optax.sgd(0.1), 1.0, 2)
        with pytest.raises(PPLError, match="target_fn"):
            transform.update(jnp.ones(12), transform.init(jnp.ones(3)), jnp.ones(3))
        with pytest.raises(PPLError, match="params"):
            transform.update(jnp.ones(12), transform.init(jnp.ones(3)), target_fn=target_fn)
        with pytest.raises(PPLError, match="randomness of the gradient"):
            updated(target_surrogate(optax.sgd(0.1), LineSearch(), 1))
        with pytest.raises(PPLError, match="variance"):
            updated(target_surrogate(optax.sgd(0.1), 1.0, NoiseAware(3)))
        with pytest.raises(PPLError, match="value_fn"):
            curvature_descent().update(jnp.ones(3), curvature_descent().init(jnp.ones(3)), jnp.ones(3))

    def test_a_gradient_that_is_not_finite(self):
        transform = target_surrogate(optax.sgd(0.1), 1.0, 2)
        bad = jnp.ones(12).at[3].set(jnp.nan)
        with pytest.raises(PPLError, match="1 of 12"):
            transform.update(bad, transform.init(jnp.ones(3)), jnp.ones(3), target_fn=target_fn)

    def test_training_stops_where_gradients_are_not_finite(self):
        f = Targeted(target_fn, lambda z: jnp.sum(jnp.sqrt(z - 1e6)))
        with pytest.raises(PPLError, match="finite"):
            ppl.minimize(f, jnp.ones(3), None, target_surrogate(optax.sgd(0.1), 1.0, 2), steps=30, key=jr.key(0))

    def test_targets_that_are_not_deterministic(self):
        """Trap: dropout masks that are new in each inner step; also those of NumPy, under jit."""
        random = np.random.default_rng(0)
        dropped = lambda w: (INPUTS * (random.random((12, 3)) < 0.5)) @ w
        transform = target_surrogate(optax.sgd(0.1), 1.0, 2)
        with pytest.raises(PPLError, match="stale"):
            updated(transform, target_fn=dropped)
        with pytest.raises(PPLError, match="stale"):
            jax.jit(lambda w: updated(transform, w, target_fn=dropped))(jnp.ones(3))
        with pytest.raises(PPLError, match="key"):
            updated(transform, target_fn=lambda w: target_fn(w) * bernoulli(0.5).sample())

    def test_a_fixed_mask_and_custom_derivatives_are_deterministic(self):
        mask = jr.bernoulli(jr.key(0), 0.5, (3,))
        fixed = lambda w: jax.nn.relu((INPUTS * mask) @ w) + jax.nn.softplus(INPUTS @ w)
        updated(target_surrogate(optax.sgd(0.1), 1.0, 2), target_fn=fixed)

    def test_norms_with_other_divergences(self):
        divergence = kl_divergence(gen(lambda z, observed: normal(z, 1.0) @ "x"), {})
        with pytest.raises(PPLError, match="Euclidean"):
            target_surrogate(optax.sgd(0.1), LineSearch(), 1, divergence)

    def test_other_optimizers_and_states(self):
        f = Targeted(target_fn, loss)
        with pytest.raises(PPLError, match="target_surrogate"):
            ppl.minimize(f, jnp.ones(3), None, optax.sgd(0.1), steps=2, key=jr.key(0))
        transform = target_surrogate(optax.sgd(0.1), 1.0, 2)
        with pytest.raises(PPLError, match="no state"):
            ppl.minimize(f, jnp.ones(3), None, transform, steps=2, key=jr.key(0), state=jnp.zeros(()))


class TestTraps:
    def test_means_and_sums(self):
        """The surrogate's two terms have to be reduced alike: else eta is off by the number of examples."""
        per_example = updated(target_surrogate(optax.sgd(0.1), 0.7, 9, Euclidean(per_example=True)))[0]
        whole = updated(target_surrogate(optax.sgd(0.1), 0.7 * 12, 9))[0]
        mixed = updated(target_surrogate(optax.sgd(0.1), 0.7, 9))[0]
        np.testing.assert_allclose(per_example, whole, rtol=1e-6)
        assert np.abs(mixed - whole).max() > 1e-3

    def test_weight_decay_happens_once_in_a_step(self):
        transform = target_surrogate(optax.sgd(0.1), 1.0, 5)
        once = optax.chain(transform, optax.add_decayed_weights(-0.01))
        np.testing.assert_allclose(updated(once)[0], updated(transform)[0] - 0.01, rtol=1e-5)
        inside = target_surrogate(optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1)), 1.0, 5)
        assert np.abs(updated(inside)[0] - updated(once)[0]).max() > 1e-2

    def test_many_steps_follow_a_noisy_gradient_further(self):
        """What a constant eta does: the noise that reaches the parameters grows with the number of inner steps."""
        noise = jr.normal(jr.key(0), (500, 12))

        def spread(steps):
            transform = target_surrogate(optax.sgd(0.02), 2.0, steps)
            params = jnp.ones(3)
            move = lambda g: transform.update(g, transform.init(params), params, target_fn=target_fn)[0]
            return float(jnp.sum(jnp.var(jax.vmap(move)(noise), 0)))

        assert spread(1) < spread(5) < spread(50)
