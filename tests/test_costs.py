"""The counter: exact counts of small programs worked out by hand, and laws of growth."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax import lax

import ppl
from ppl import PPLError, bernoulli, gen, normal
from ppl.reports import Costs, compiled_costs, costs, growth
from ppl.reports.flops import RANDOM_WEIGHT

N = 8
PRODUCT = 2 * N**3
CELL = N * N
F32 = np.float32


def square(dtype=F32):
    return jax.ShapeDtypeStruct((N, N), dtype)


def product(a, b):
    return a @ b


def repeated(length):
    return lambda a, b: lax.scan(lambda total, _: (total @ b, None), a, None, length)[0]


def nested(outer, inner):
    return lambda a, b: lax.scan(lambda total, _: (repeated(inner)(total, b), None), a, None, outer)[0]


# --- Exact counts ------------------------------------------------------------------------------------------------


def test_a_matrix_product_is_two_m_n_k():
    left, right = jax.ShapeDtypeStruct((3, 5), F32), jax.ShapeDtypeStruct((5, 7), F32)
    found = costs(product)(left, right)
    flops, moved = 2 * 3 * 5 * 7, 4 * (15 + 35 + 21)
    assert found == Costs(flops=flops, matmul_flops=flops, bytes=moved, executed=1, equations=1)


def test_a_batch_of_products_counts_every_one():
    batch = jax.ShapeDtypeStruct((6, N, N), F32)
    assert costs(jax.vmap(product))(batch, batch).flops == 6 * PRODUCT
    assert costs(jax.vmap(product, (0, None)))(batch, square()).matmul_flops == 6 * PRODUCT


@pytest.mark.parametrize("length", [1, 7, 50_000])
def test_a_scan_counts_as_often_as_it_runs_and_its_text_once(length):
    found = costs(repeated(length))(square(), square())
    expected = Costs(length * PRODUCT, length * PRODUCT, bytes=length * 12 * CELL, executed=length + 1, equations=2)
    assert found == expected


def test_nested_scans_multiply():
    found = costs(nested(3, 5))(square(), square())
    assert found.matmul_flops == found.flops == 15 * PRODUCT
    assert (found.equations, found.executed) == (3, 1 + 3 * (1 + 5))


def test_reverse_and_unrolled_scans_count_alike():
    scan = lambda **options: lambda a, b: lax.scan(lambda c, _: (c @ b, None), a, None, 6, **options)[0]
    assert {costs(scan(**options))(square(), square()).flops for options in ({}, {"reverse": True}, {"unroll": 3})} == {
        6 * PRODUCT
    }


def test_fori_loop_with_static_bounds_counts_every_step():
    found = costs(lambda a, b: lax.fori_loop(0, 9, lambda _, c: c @ b, a))(square(), square())
    assert found.matmul_flops == 9 * PRODUCT
    assert found.approximate == ()


def test_an_unbounded_loop_counts_once_and_says_so():
    def halve(a, b):
        return lax.while_loop(lambda c: c.sum() > 1, lambda c: c @ b, a)

    found = costs(halve)(square(), square())
    assert found.flops == PRODUCT + CELL + 1  # the body's product; the condition's sum and comparison
    (note,) = found.approximate
    assert "while loop" in note
    assert "test_costs.py" in note


def test_a_cond_costs_its_dearest_branch_and_has_the_text_of_all():
    branches = [lambda a, b: a + b, product, lambda a, b: (a @ b) @ b]
    switch = lambda i, a, b: lax.switch(i, branches, a, b)
    found = costs(switch)(jnp.asarray(1), square(), square())
    alone = [costs(branch)(square(), square()) for branch in branches]
    outside = found.executed - 1 - 2  # what `switch` does to its index
    assert found.matmul_flops == 2 * PRODUCT
    assert found.equations == outside + 1 + sum(part.equations for part in alone)
    assert 0 <= found.flops - 2 * PRODUCT <= 4


def test_a_cond_in_a_scan_counts_its_dearest_branch_every_time():
    step = lambda b: lambda c, on: (lax.cond(on, lambda c: c @ b, lambda c: c, c), None)
    found = costs(lambda a, b, on: lax.scan(step(b), a, on)[0])(square(), square(), jax.ShapeDtypeStruct((11,), bool))
    assert found.matmul_flops == 11 * PRODUCT


def with_own_tangent(function):
    wrapped = jax.custom_jvp(function)
    wrapped.defjvps(lambda da, out, a, b: da @ b, lambda db, out, a, b: a @ db)
    return wrapped


@pytest.mark.parametrize("wrap", [jax.jit, jax.checkpoint, with_own_tangent])
def test_calls_are_looked_into_and_cost_nothing_themselves(wrap):
    assert costs(wrap(product))(square(), square()) == costs(product)(square(), square())


def test_functions_with_their_own_gradient_are_looked_into():
    ours = jax.custom_vjp(product)
    ours.defvjp(lambda a, b: (a @ b, (a, b)), lambda saved, g: (g @ saved[1].T, saved[0].T @ g))
    total = lambda a, b: ours(a, b).sum()
    assert costs(ours)(square(), square()).flops == PRODUCT
    assert costs(jax.grad(total, (0, 1)))(square(), square()).matmul_flops == 2 * PRODUCT  # the value is not needed
    assert costs(jax.value_and_grad(total, (0, 1)))(square(), square()).matmul_flops == 3 * PRODUCT


@pytest.mark.parametrize(
    ("function", "times"), [(product, 1), (repeated(7), 7), (nested(3, 5), 15)], ids=["product", "scan", "nested"]
)
def test_gradients_take_two_more_products_for_each(function, times):
    loss = lambda a, b: function(a, b).sum()
    found = costs(jax.value_and_grad(loss, (0, 1)))(square(), square())
    assert found.matmul_flops == 3 * times * PRODUCT


def test_checkpointed_gradients_take_the_product_again():
    loss = lambda a, b: jax.checkpoint(lambda a, b: jnp.sin(a @ b))(a, b).sum()
    plain = lambda a, b: jnp.sin(a @ b).sum()
    again = costs(jax.value_and_grad(loss, (0, 1)))(square(), square())
    assert again.matmul_flops == 4 * PRODUCT
    assert costs(jax.value_and_grad(plain, (0, 1)))(square(), square()).matmul_flops == 3 * PRODUCT


def test_vmap_of_a_gradient_of_a_scan_counts_lanes_and_steps():
    gradient = jax.grad(lambda a, b: repeated(7)(a, b).sum(), (0, 1))
    lanes = jax.ShapeDtypeStruct((4, N, N), F32)
    # the last product's value is not needed, but the scan runs it all the same
    assert costs(jax.vmap(gradient))(lanes, lanes).matmul_flops == 4 * 3 * 7 * PRODUCT


def test_elementwise_operations_count_their_results():
    found = costs(lambda a: jnp.exp(a) * 2.0 - a)(square())
    assert (found.flops, found.transcendentals, found.equations) == (3 * CELL, CELL, 3)
    assert found.bytes == 4 * (2 * CELL + (2 * CELL + 1) + 3 * CELL)


def test_reductions_count_their_operand_and_moves_count_nothing():
    assert costs(lambda a: a.sum(0))(square()).flops == CELL
    assert costs(lambda a: jnp.cumsum(a, 0))(square()).flops == CELL
    moved = costs(lambda a: jnp.concatenate([a.T, a[::-1]]))(square())
    assert moved.flops == 0
    assert moved.bytes == 4 * (2 * CELL + 2 * CELL + 4 * CELL)


def test_gathers_move_bytes_and_scattered_sums_count_their_updates():
    rows = jnp.array([0, 3, 3])
    gather = costs(lambda a: lax.gather(a, rows[:, None], _ROWS, (1, N)))(square())
    assert gather.flops == 0
    assert gather.bytes >= 4 * 3 * N
    added = costs(lambda a, u: a.at[rows].add(u, mode="promise_in_bounds", wrap_negative_indices=False))
    assert added(square(), jax.ShapeDtypeStruct((3, N), F32)).flops == 3 * N


_ROWS = lax.GatherDimensionNumbers(offset_dims=(1,), collapsed_slice_dims=(0,), start_index_map=(0,))


def test_a_sort_is_n_log_n():
    assert costs(jnp.sort)(jax.ShapeDtypeStruct((3, 1024), F32)).flops == 3 * 1024 * 10


def test_a_convolution_is_two_for_each_weight_and_result():
    image, kernel = jax.ShapeDtypeStruct((2, 3, 9, 9), F32), jax.ShapeDtypeStruct((5, 3, 4, 4), F32)
    found = costs(lambda x, w: lax.conv(x, w, (1, 1), "VALID"))(image, kernel)
    assert found.matmul_flops == 2 * (2 * 5 * 6 * 6) * (3 * 4 * 4)


def test_random_bits_are_counted_by_words():
    found = costs(lambda key: jr.bits(key, (5, 3), np.uint32))(jr.key(0))
    assert (found.random_words, found.flops) == (15, 15 * RANDOM_WEIGHT)
    assert costs(lambda key: jr.split(key, 4))(jr.key(0)).random_words == 8
    assert costs(lambda key: jr.fold_in(key, 4))(jr.key(0)).random_words == 2


def test_dead_equations_are_left_out_at_every_depth():
    def wasteful(a, b):
        def step(carry, _):
            total, unused = carry
            return (total @ b, unused @ unused), None

        jnp.linalg.inv(a)
        return lax.scan(step, (a, b), None, 5)[0][0]

    assert costs(wasteful)(square(), square()) == costs(repeated(5))(square(), square())


def test_an_operation_without_a_rule_is_named():
    found = costs(lambda key: jr.gamma(key, 1.0, (7,)))(jr.key(0))
    assert any("random_gamma" in note for note in found.approximate)


def test_static_arguments_stay_static():
    assert costs(lambda a, length: repeated(length)(a, a))(square(), 4).flops == 4 * PRODUCT


# --- Our own programs --------------------------------------------------------------------------------------------


def test_a_random_choice_is_refused_with_the_way_out():
    with pytest.raises(PPLError, match="makes a random choice") as caught:
        costs(lambda loc: normal(loc, 1.0).sample())(0.5)
    assert "ppl.expect" in str(caught.value)
    assert costs(ppl.expect(lambda loc: normal(loc, 1.0).sample()))(jr.key(0), 0.5).flops > 0


def test_a_density_counts_as_what_it_stands_for():
    @gen
    def coins(logits):
        bernoulli(logits=logits) @ "x"

    seen = jax.ShapeDtypeStruct((100,), np.int32)
    opaque = costs(lambda logits, x: coins.log_density({"x": x}, logits))
    opened = costs(jax.jit(lambda logits, x: coins.log_density({"x": x}, logits)))
    found = opaque(jax.ShapeDtypeStruct((100,), F32), seen)
    assert found.transcendentals >= 2 * 100  # exp and log1p of the softplus
    assert found == opened(jax.ShapeDtypeStruct((100,), F32), seen)
    assert found.approximate == ()


def _walk(length, memory):
    """Count a random walk under a guide whose steps look back (and stay a loop) or do not (and leave theirs)."""

    @gen
    def model(params):
        def step(z, _):
            z = normal(z, 1.0) @ "z"
            normal(z, jnp.exp(params["noise"])) @ "y"
            return z, None

        lax.scan(step, 0.0, None, length)

    @gen
    def guide(params, observed):
        def step(z, row):
            z = normal(memory * z + row[0] if memory else row[0], jnp.exp(row[1])) @ "z"
            return z, None

        lax.scan(step, 0.0, (params["loc"], params["log_scale"]))

    from estimators import elbo

    rows = jax.ShapeDtypeStruct((length,), F32)
    params = {"noise": jax.ShapeDtypeStruct((), F32), "loc": rows, "log_scale": rows}
    return costs(ppl.value_and_grad(elbo(model, guide)))(jr.key(0), params, {"y": rows})


def test_the_size_of_a_program_does_not_grow_with_its_loops_and_its_costs_do_linearly():
    short, long = _walk(50, 0.5), _walk(50_000, 0.5)
    assert short.equations == long.equations
    assert growth([50, 50_000], [short.executed, long.executed]) == pytest.approx(1, abs=0.01)
    assert growth([50, 50_000], [short.flops, long.flops]) == pytest.approx(1, abs=0.01)


def test_steps_that_do_not_look_back_leave_no_loop():
    short, long = _walk(50, 0.0), _walk(50_000, 0.0)
    assert short.equations == long.equations == long.executed == short.executed
    assert growth([50, 50_000], [short.flops, long.flops]) == pytest.approx(1, abs=0.01)


# --- XLA's own figure, laws of growth ----------------------------------------------------------------------------


def test_the_compiled_module_agrees_where_there_is_no_loop_and_counts_loops_once():
    a = jnp.ones((N, N))
    assert compiled_costs(product)(a, a).flops == PRODUCT
    once, often = compiled_costs(repeated(2))(a, a), compiled_costs(repeated(200))(a, a)
    assert often.flops < 2 * once.flops < 5 * PRODUCT


def test_growth_fits_the_exponent_of_a_power_law():
    sizes = [10, 20, 40, 80]
    assert growth(sizes, [3 * n**1.5 for n in sizes]) == pytest.approx(1.5)
    cubic = [costs(product)(*2 * [jax.ShapeDtypeStruct((n, n), F32)]).flops for n in sizes]
    assert growth(sizes, cubic) == pytest.approx(3)
