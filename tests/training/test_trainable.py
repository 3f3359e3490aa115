"""A partition of the parameters: what is not trained has no gradient and no moments, and comes back untouched."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import ppl

KEY = jr.key(0)


class Model(eqx.Module):
    """A frozen body, a head to train, and a leaf that is no array."""

    body: eqx.nn.MLP
    head: jax.Array

    def __init__(self, key):
        self.body = eqx.nn.MLP(2, 3, 4, 1, key=key)
        self.head = jnp.ones(3)

    def __call__(self, x):
        return jnp.dot(self.head, self.body(x))


def only_head(model: Model) -> Model:
    """Make the mask as Equinox's users do."""
    return eqx.tree_at(lambda tree: tree.head, jax.tree.map(lambda _: False, model), True)


def objective(model: Model, batch) -> jax.Array:
    x, y = batch
    noise = ppl.normal(jnp.zeros(len(y)), 0.1).sample()
    return -jnp.mean((jax.vmap(model)(x) + noise - y) ** 2)


@pytest.fixture(scope="module")
def examples():
    x = jr.normal(jr.key(1), (8, 2))
    return x, jnp.sin(x[:, 0])


def fit(examples, model=None, **options):
    model = Model(jr.key(2)) if model is None else model
    options = {"steps": 12, "trainable": only_head} | options
    return ppl.maximize(objective, model, examples, optax.adam(0.1), key=KEY, batch_size=4, chunk=3, **options)


@pytest.mark.parametrize("trainable", [only_head, only_head(Model(jr.key(2)))], ids=["function", "mask"])
def test_the_rest_is_the_very_same(examples, trainable):
    model = Model(jr.key(2))
    found = fit(examples, model, trainable=trainable)
    for new, old in zip(jax.tree.leaves(found.params.body), jax.tree.leaves(model.body), strict=True):
        assert new is old
    assert {leaf.shape for leaf in jax.tree.leaves(found.opt_state)} == {(), (3,)}
    assert (found.params.head != 1).all()


def test_no_gradient_is_made_for_the_rest(examples):
    """The derivative of this identity cannot be computed."""

    @jax.custom_vjp
    def opaque(x):
        return x

    def backwards(_, __):
        raise AssertionError("a gradient for a fixed leaf was asked for")

    opaque.defvjp(lambda x: (x, None), backwards)

    def guarded(model, batch):
        return objective(eqx.tree_at(lambda m: m.body, model, jax.tree.map(_guard(opaque), model.body)), batch)

    run = lambda trainable: ppl.maximize(
        guarded, Model(jr.key(2)), examples, optax.adam(0.1), steps=2, key=KEY, trainable=trainable
    )
    assert np.isfinite(run(only_head).history["value"]).all()
    with pytest.raises(AssertionError, match="fixed leaf"):
        run(None)


def _guard(opaque):
    return lambda leaf: opaque(leaf) if eqx.is_inexact_array(leaf) else leaf


def test_a_resumed_run_is_the_whole_one(examples, tmp_path):
    whole = fit(examples)
    fit(examples, steps=6, checkpoint=tmp_path)
    model = Model(jr.key(2))
    resumed = fit(examples, model, checkpoint=tmp_path, resume=True)
    np.testing.assert_array_equal(resumed.params.head, whole.params.head)
    np.testing.assert_array_equal(resumed.history["value"], whole.history["value"])
    assert all(
        new is old for new, old in zip(jax.tree.leaves(resumed.params.body), jax.tree.leaves(model.body), strict=True)
    )


def test_a_run_with_another_body_cannot_be_resumed(examples, tmp_path):
    fit(examples, steps=6, checkpoint=tmp_path)
    other = eqx.tree_at(lambda m: m.body, Model(jr.key(2)), Model(jr.key(3)).body)
    with pytest.raises(ppl.PPLError, match="fixed leaves"):
        fit(examples, other, checkpoint=tmp_path, resume=True)
    with pytest.raises(ppl.PPLError, match="There is no checkpoint to resume from"):
        fit(examples, trainable=None, checkpoint=tmp_path, resume=True)


def test_a_mask_of_another_structure_is_refused(examples):
    with pytest.raises(ppl.PPLError, match="structure of `params`"):
        fit(examples, trainable=[True, False])
    with pytest.raises(ppl.PPLError, match="nothing to train"):
        fit(examples, trainable=lambda model: jax.tree.map(lambda _: False, model))
