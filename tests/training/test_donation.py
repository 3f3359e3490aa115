"""Buffers are used again: a run needs no second copy of what it trains."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

from ppl.training.run import Run


def test_a_chunk_overwrites_its_own_buffers_and_nobody_elses():
    params, state = {"w": jnp.ones(1000)}, {"mean": jnp.zeros(1000)}
    run = Run(
        lambda params, state: (-jnp.sum(params["w"] ** 2), {"mean": 0.5 * state["mean"] + params["w"]}),
        params, None, optax.adam(0.1), 1.0, steps=4, key=jr.key(0), batch_size=None, trainable=None, state=state,
        chunk=2, prefetch=0, mesh=None,
    )  # fmt: skip
    carry = run._carry
    where = {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(carry) if leaf.size > 1}
    result = run.train(None, False, False, None, None)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(carry))
    trained = jax.tree.leaves((result.params, result.opt_state, result.state))
    assert {leaf.unsafe_buffer_pointer() for leaf in trained if leaf.size > 1} == where  # two moments, w and the mean
    assert len(where) == 4
    np.testing.assert_array_equal(params["w"], 1.0)
    np.testing.assert_array_equal(state["mean"], 0.0)
