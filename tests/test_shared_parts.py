"""What is the same in all lanes of a sum is taken out: the same numbers and derivatives as the program as written."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import ppl
from estimators import elbo
from ppl import gen, laplace, normal
from ppl.jaxprs import restage
from ppl.passes import pull_out_shared
from ppl.passes.shared_parts import LEAST
from ppl.reports import costs

N = LEAST + 44
KEY = jr.key(8)
ROWS = jr.normal(jr.key(1), (N,))


def per_row(function):
    """Add up a function of the rows."""
    return lambda params: jax.vmap(lambda row, loc: function(row, loc, params))(ROWS, params["locs"]).sum()


def of_arrays(function):
    """Apply a function to all rows at once."""
    return lambda params: function(ROWS, params["locs"], params)


COSTS = {
    "one scale": per_row(lambda x, loc, p: normal(loc, p["scale"]).log_prob(x)),
    "a known scale": per_row(lambda x, loc, p: normal(loc, 0.7).log_prob(x)),
    "one location": per_row(lambda x, loc, p: normal(p["scale"], p["scale"]).log_prob(x)),
    "one value": per_row(lambda x, loc, p: normal(loc, p["scale"]).log_prob(0.3)),
    "signs": per_row(
        lambda x, loc, p: -(normal(loc, p["scale"]).log_prob(x) - normal(x, p["other"]).log_prob(loc) - loc**2)
    ),
    "numbers": per_row(lambda x, loc, p: jnp.sin(loc) - p["scale"] + (x * loc - (p["other"] - 2.5))),
    "read twice": per_row(
        lambda x, loc, p: (lambda density: density - jnp.exp(density))(normal(loc, p["scale"]).log_prob(x))
    ),
    "other families": per_row(lambda x, loc, p: laplace(loc, p["scale"]).log_prob(x) - p["scale"]),
    "a scale per row": per_row(lambda x, loc, p: normal(x, jnp.exp(loc)).log_prob(0.1) - p["scale"]),
    "rows of two": of_arrays(
        lambda x, loc, p: (
            normal(loc.reshape(-1, 2), p["scale"]).log_prob(x.reshape(-1, 2)) * jnp.array([1.0, 3.0])
        ).sum()
    ),
    "columns kept": of_arrays(
        lambda x, loc, p: (
            (
                jax.vmap(jax.vmap(lambda x, loc: normal(loc, p["scale"]).log_prob(x)))(
                    jnp.stack([x, x**2], -1), jnp.stack([loc, loc], -1)
                )
                - p["other"]
            ).sum(0)
            * jnp.array([1.0, -3.0])
        ).sum()
    ),
    "a mean": per_row(lambda x, loc, p: normal(loc, p["scale"]).log_prob(x) / N),
    "a column and a row": of_arrays(
        lambda x, loc, p: (jnp.broadcast_to(loc[:2, None], (2, N)) - p["scale"] + x * loc).sum()
    ),
}
PARAMS = {"locs": jnp.cos(jnp.arange(N, dtype=float)), "scale": jnp.asarray(1.3), "other": jnp.asarray(0.4)}


def rewritten(cost):
    """Evaluate what the pass makes of a cost."""
    leaves, tree = jax.tree.flatten(PARAMS)
    body = pull_out_shared(restage(lambda *leaves: [cost(tree.unflatten(leaves))], leaves))

    def run(params):
        env = dict(zip([*body.constvars, *body.invars], [*body.consts, *jax.tree.leaves(params)], strict=True))
        return _evaluate(body, env)[0]

    return body, run


def _evaluate(body, env):
    read = lambda atom: atom.val if hasattr(atom, "val") else env[atom]
    for eqn in body.eqns:
        out = eqn.primitive.bind(*map(read, eqn.invars), **eqn.primitive.get_bind_params(eqn.params))
        env.update(zip(eqn.outvars, out if eqn.primitive.multiple_results else [out], strict=True))
    return [read(var) for var in body.outvars]


@pytest.mark.parametrize("name", COSTS)
def test_values_and_derivatives_are_as_before(name):
    cost = COSTS[name]
    _, run = rewritten(cost)
    value, gradient = jax.value_and_grad(cost)(PARAMS)
    ours, slope = jax.value_and_grad(run)(PARAMS)
    np.testing.assert_allclose(ours, value, rtol=2e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), slope, gradient)
    straight = jax.jvp(run, (PARAMS,), (jax.tree.map(jnp.ones_like, PARAMS),))[1]
    np.testing.assert_allclose(straight, sum(leaf.sum() for leaf in jax.tree.leaves(gradient)), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["one scale", "signs", "numbers", "columns kept", "a mean"])
def test_second_derivatives_are_as_before(name):
    scales = lambda cost: lambda scale: cost({**PARAMS, "scale": scale})
    second = jax.grad(jax.grad(scales(rewritten(COSTS[name])[1])))(1.3)
    np.testing.assert_allclose(second, jax.grad(jax.grad(scales(COSTS[name])))(1.3), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "logs"), {"one scale": 1, "signs": 2, "columns kept": 1, "a scale per row": N, "other families": N}.items()
)
def test_logarithms_of_scales_are_taken_once(name, logs):
    """`laplace` and scales of their own are left as they are."""
    if name == "other families":
        assert "log_density" in [eqn.primitive.name for eqn in rewritten(COSTS[name])[0].eqns]
        return
    assert costs(rewritten(COSTS[name])[1])(PARAMS).transcendentals - (N if name == "a scale per row" else 0) == logs


@pytest.mark.parametrize("name", ["read twice"])
def test_what_is_read_elsewhere_is_left_as_it_is(name):
    leaves, tree = jax.tree.flatten(PARAMS)
    body = restage(lambda *leaves: [COSTS[name](tree.unflatten(leaves))], leaves)
    assert pull_out_shared(body) is body


def test_few_lanes_are_left_as_they_are():
    cost = lambda x, s: jax.vmap(lambda x: normal(0.0, s).log_prob(x))(x).sum()
    body = restage(cost, [jnp.zeros(LEAST - 1), jnp.ones(())])
    assert pull_out_shared(body) is body
    body = restage(cost, [jnp.zeros(LEAST), jnp.ones(())])
    assert pull_out_shared(body) is not body


@pytest.mark.parametrize("scale", [1e-25, 1e-12, 1e12, 1e25])
def test_extreme_scales_neither_overflow_nor_vanish(scale):
    """Squares of errors would; errors in units of the scale do not."""
    params = {**PARAMS, "scale": jnp.asarray(scale)}
    cost = per_row(lambda x, loc, p: normal(p["scale"] * loc, p["scale"]).log_prob(p["scale"] * x))
    (value, gradient), (ours, slope) = (jax.value_and_grad(f)(params) for f in (cost, rewritten(cost)[1]))
    np.testing.assert_allclose(ours, value, rtol=1e-4)
    np.testing.assert_allclose(slope["scale"] * scale, gradient["scale"] * scale, rtol=1e-3)
    assert np.isfinite(slope["locs"]).all()


def test_a_fit_of_rows_is_as_written():
    """The whole way: `expect` beside `seed`, which runs a program as it is written, with the same key."""

    @gen
    def model(params):
        slope = normal(0.0, 2.0) @ "slope"
        jax.vmap(lambda x: normal(slope * x, jnp.exp(params["noise"])) @ "y")(ROWS)

    @gen
    def guide(params, observed):
        normal(params["loc"], jnp.exp(params["log_scale"])) @ "slope"

    params = {"noise": jnp.asarray(-0.2), "loc": jnp.asarray(0.4), "log_scale": jnp.asarray(-1.0)}
    bound = lambda params: elbo(model, guide)(params, {"y": jnp.sin(ROWS)})
    value, gradient = ppl.value_and_grad(bound)(KEY, params)
    written, slope = jax.value_and_grad(lambda params: ppl.seed(bound)(KEY, params))(params)
    np.testing.assert_allclose(value, written, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), gradient, slope)
    assert (
        costs(ppl.value_and_grad(bound))(KEY, params).flops
        < costs(jax.value_and_grad(lambda params: ppl.seed(bound)(KEY, params)))(params).flops
    )


def test_one_observation_of_many_numbers():
    """Its density is added up twice, for the density and for a weight that nobody reads."""
    model = gen(lambda params: normal((normal(0.0, 1.0) @ "z") * params * jnp.ones(N), 0.5) @ "y")
    guide = gen(lambda params, observed: normal(params, 1.0) @ "z")
    bound = lambda params: elbo(model, guide)(params, {"y": ROWS})
    value, gradient = ppl.value_and_grad(bound)(KEY, 0.7)
    written, slope = jax.value_and_grad(lambda params: ppl.seed(bound)(KEY, params))(0.7)
    np.testing.assert_allclose([value, gradient], [written, slope], rtol=1e-5)


def test_what_is_printed_is_kept():
    def cost(x):
        log_probs = jax.vmap(lambda x: normal(0.0, 1.0).log_prob(x))(x)
        jax.debug.print("first {}", 2 * log_probs[:3])
        return log_probs.sum()

    names = [eqn.primitive.name for eqn in pull_out_shared(restage(cost, [ROWS])).eqns]
    assert any("debug" in name for name in names)
    assert "log_density" in names
