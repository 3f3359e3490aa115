"""Several optimizers for several parts of the parameters."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import ppl
from ppl import normal
from ppl.training import maximize

KEY = jr.key(0)


def params():
    return {"model": {"loc": jnp.array(1.0), "link": jnp.tanh}, "guide": jnp.ones(2), "baseline": jnp.array(0.5)}


def objective(params):
    noise = normal(0.0, 1.0).sample()
    model = -((params["model"]["loc"] - 2.0 + noise) ** 2)
    return model - jnp.sum(params["guide"] ** 2) - (params["baseline"] - noise) ** 2


def train(optimizer, steps=6, **options):
    return maximize(objective, params(), None, optimizer, steps=steps, key=KEY, **options)


def test_each_part_moves_as_under_its_own_optimizer():
    """The gradients of the parts do not depend on each other here, so each part must equal a run with one optimizer."""
    parts = {"model": optax.adam(0.1), "guide": optax.sgd(0.05), "baseline": optax.rmsprop(0.01)}
    together = train(parts)
    for name, optimizer in parts.items():
        alone, start = train(optimizer), params()
        one, other, before = (jax.tree.leaves(of[name])[-1] for of in (together.params, alone.params, start))
        np.testing.assert_allclose(one, other, rtol=1e-6)
        assert (one != before).all()


def test_parts_may_be_nested_and_untrained():
    optimizers = {"model": {"loc": optax.adam(0.1), "link": optax.set_to_zero()}, "guide": optax.sgd(0.1)}
    optimizers["baseline"] = optax.adam(1.0)
    fit = train(optimizers, trainable={"model": True, "guide": True, "baseline": False})
    assert fit.params["baseline"] == 0.5
    assert fit.params["model"]["loc"] != 1.0
    moments = [leaf for leaf in jax.tree.leaves(fit.opt_state) if leaf.dtype != jnp.int32]
    assert {leaf.shape for leaf in moments} == {()}  # adam's, of `loc` alone


def test_state_of_several_optimizers_is_saved(tmp_path):
    optimizers = {"model": optax.adam(0.1), "guide": optax.adam(0.2), "baseline": optax.sgd(0.1)}
    whole = train(optimizers, chunk=2)
    train(optimizers, steps=4, chunk=2, checkpoint=tmp_path)
    resumed = train(optimizers, chunk=2, checkpoint=tmp_path, resume=True)
    assert resumed.params["guide"].tobytes() == whole.params["guide"].tobytes()
    with pytest.raises(ppl.PPLError, match="of other parameters, state or optimizer"):
        train(optimizers | {"guide": optax.sgd(0.1)}, chunk=2, checkpoint=tmp_path, resume=True)


def test_a_part_is_told_the_value():
    plateau = optax.chain(optax.sgd(0.0), optax.contrib.reduce_on_plateau(patience=2))
    fit = train({"model": plateau, "guide": optax.sgd(0.0), "baseline": optax.sgd(0.0)}, steps=20)
    assert optax.tree_utils.tree_get(fit.opt_state, "scale") < 1.0


@pytest.mark.parametrize(
    ("optimizer", "word"),
    [
        ({"model": optax.sgd(1.0), "guide": optax.sgd(1.0)}, r"'model', 'guide', 'baseline'(.|\n)*'model', 'guide'$"),
        (
            {"model": optax.sgd(1.0), "guides": optax.sgd(1.0), "baseline": optax.sgd(1.0)},
            r'(?s)structure of `params`.*did you mean "guides"',
        ),
        (
            {"model": optax.sgd(1.0), "guide": 0.1, "baseline": optax.sgd(1.0)},
            r"`optimizer\['guide'\]` must be an optax",
        ),
        ([optax.sgd(1.0)], "structure of `params`"),
        ({}, "must be an optax transformation"),
    ],
    ids=["missing", "misspelt", "number", "list", "none"],
)
def test_optimizers_that_do_not_fit_are_refused(optimizer, word):
    with pytest.raises(ppl.PPLError, match=word):
        maximize(None, params(), None, optimizer, steps=1, key=KEY)
