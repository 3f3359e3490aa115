"""Randomness: each choice has noise of its own, which depends on the key, its path, its step, and nothing else."""

import dataclasses
import inspect
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax import lax

import ppl
from ppl import PPLError, bernoulli, gen, normal

KEY = jr.key(7)


@gen
def pair():
    return (normal() @ "x") + (normal() @ "y")


def choices(program) -> dict[str, np.ndarray]:
    """Draw a program's choices, with the mask applied, by path."""
    found = {}
    for path, leaf in jax.tree.leaves_with_path(
        jax.jit(program.simulate)(KEY).choices, is_leaf=ppl.choicemap.is_masked
    ):
        name = "/".join(entry.key for entry in path)
        made = isinstance(leaf, ppl.Masked)
        found[name] = np.asarray(leaf.value)[np.asarray(leaf.mask)] if made else np.asarray(leaf)
    return found


# --- No two draws share their noise ------------------------------------------------------------------------------


def in_scan(body):
    return lambda: lax.scan(lambda c, _: (c + body(), None), 0.0, None, 3)[0]


def in_vmap(body):
    return lambda: jax.vmap(lambda _: body())(jnp.arange(3)).sum()


def in_cond(body):
    return lambda: lax.cond(normal() @ "test" > -9, body, lambda: normal() @ "else")


def in_mapped_cond(body):
    lane = lambda p: lax.cond(p, body, lambda: normal() @ "otherwise")
    return lambda: jax.vmap(lane)(jnp.array([True, False, True])).sum()


def in_two_calls(body):
    @gen
    def inner():
        return body()

    return lambda: (inner() @ "one") + (inner() @ "two")


def in_jit_twice(body):
    compiled = jax.jit(lambda: gen(body)() @ "in")
    return lambda: (gen(compiled)() @ "one") + (gen(compiled)() @ "two")


CONSTRUCTS = [in_scan, in_vmap, in_cond, in_mapped_cond, in_two_calls, in_jit_twice, jax.checkpoint, jax.jit]
NESTED = [(outer, inner) for outer in CONSTRUCTS[:6] for inner in CONSTRUCTS if outer is not inner]


@pytest.mark.x64
@pytest.mark.parametrize(("outer", "inner"), NESTED, ids=lambda construct: construct.__name__)
def test_no_two_sites_steps_or_lanes_share_noise(outer, inner):
    def body():
        return pair.inline() + (normal(jnp.zeros(2)) @ "z").sum()

    drawn = choices(gen(outer(inner(body))))
    values = np.concatenate([np.ravel(leaf) for leaf in drawn.values()])
    assert len(values) >= 5
    assert len(np.unique(values)) == len(values)
    assert len(np.unique(np.round(np.abs(values), 9))) == len(values)


def test_steps_and_lanes_are_uncorrelated():
    def objective():
        steps = lax.scan(lambda c, _: (c, normal().sample()), 0.0, None, 2)[1]
        lanes = jax.vmap(lambda _: normal().sample())(jnp.arange(2))
        return jnp.concatenate([steps, lanes, normal(jnp.zeros(2)).sample(), normal().sample()[None]])

    num = 20_000
    draws = jax.jit(jax.vmap(ppl.seed(objective)))(jr.split(KEY, num))
    correlation = np.corrcoef(np.asarray(draws).T)
    assert np.abs(correlation - np.eye(7)).max() < 4.5 / np.sqrt(num)
    assert np.abs(draws.mean(0)).max() < 4.5 / np.sqrt(num)
    assert np.abs(draws.std(0) - 1).max() < 0.03


# --- The same key gives the same draws ---------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Program:
    """A stochastic function that returns its draws."""

    name: str
    run: Callable

    def __str__(self) -> str:
        return self.name


def noisy(p):
    return normal(p, 1.0).sample() + bernoulli(0.4).sample()


PROGRAMS = [
    Program("plain", noisy),
    Program("batch", lambda p: normal(p * jnp.ones(3), 1.0).sample().sum()),
    Program("scan", lambda p: lax.scan(lambda c, x: (noisy(c * x), c), p, jnp.arange(3.0))[0]),
    Program("vmap", lambda p: jax.vmap(lambda x: noisy(p + x))(jnp.arange(3.0)).sum()),
    Program("cond", lambda p: lax.cond(normal().sample() > 0, noisy, lambda p: p, p)),
    Program("mapped cond", lambda p: jax.vmap(lambda b: lax.cond(b, noisy, lambda p: p, p))(jnp.arange(3) > 0).sum()),
    Program("jit", jax.jit(noisy)),
    Program("checkpoint", jax.checkpoint(noisy)),
    Program("calls", lambda p: (gen(lambda: pair() @ "a")() @ "b") + (pair() @ "c")),
]


@pytest.mark.parametrize("program", PROGRAMS, ids=str)
def test_a_key_gives_the_same_draws_however_it_is_run(program):
    keys, run = jr.split(KEY, 4), ppl.seed(program.run)
    expected = np.array([run(key, 0.3) for key in keys])
    assert len(set(expected.tolist())) > 2
    for other in (
        jax.jit(jax.vmap(run, (0, None))),
        jax.vmap(ppl.seed(jax.jit(program.run)), (0, None)),
        jax.vmap(ppl.seed(jax.checkpoint(program.run)), (0, None)),
        jax.vmap(jax.checkpoint(run), (0, None)),
        jax.vmap(ppl.expect(program.run), (0, None)),
    ):
        np.testing.assert_allclose(other(keys, 0.3), expected, rtol=1e-6, atol=1e-6)
    one = jax.jit(run)
    np.testing.assert_allclose([one(key, 0.3) for key in keys], expected, rtol=1e-6, atol=1e-6)


def test_traces_are_the_same_however_they_are_run():
    program = gen(in_scan(lambda: pair() @ "a"))
    keys = jr.split(KEY, 3)
    several = jax.jit(jax.vmap(program.simulate))(keys)
    for i, key in enumerate(keys):
        one = program.simulate(key)
        jax.tree.map(lambda x, y, i=i: np.testing.assert_allclose(x[i], y, rtol=1e-6), several.choices, one.choices)
        np.testing.assert_allclose(several.log_density[i], one.log_density, rtol=1e-6)


# --- Other choices do not matter ---------------------------------------------------------------------------------


def variants(wrap):
    """Return programs that all make the choice "x", beside different others."""
    return [
        gen(wrap(lambda: normal() @ "x")),
        gen(wrap(lambda: (normal() @ "x") + (normal() @ "later"))),
        gen(wrap(lambda: (bernoulli(0.3) @ "before") + (normal() @ "x"))),
        gen(wrap(lambda: (normal() @ "renamed") + (normal() @ "x") + jnp.sin(normal(jnp.ones(3)) @ "more").sum())),
        gen(wrap(lambda: (normal() @ "x") + (pair() @ "call"))),
    ]


@pytest.mark.parametrize(
    "wrap", [lambda f: f, in_scan, in_vmap, in_two_calls, jax.checkpoint, in_mapped_cond], ids=lambda f: f.__name__
)
def test_adding_or_renaming_a_choice_changes_no_other(wrap):
    first, *others = [choices(program) for program in variants(wrap)]
    for other in others:
        for name in first:
            np.testing.assert_array_equal(other[name], first[name])


def test_an_observed_choice_changes_no_other():
    drawn = pair.simulate(KEY)
    observed, _ = pair.generate(KEY, {"y": 5.0})
    assert observed["x"] == drawn["x"]
    assert observed["y"] == 5.0


def test_draws_depend_on_the_path():
    two = gen(lambda: (pair() @ "a", pair() @ "b"))
    drawn = choices(two)
    assert len(set(np.array(list(drawn.values())).tolist())) == 4
    assert choices(gen(lambda: pair() @ "a"))["a/x"] == drawn["a/x"]


def test_draws_are_fixed_across_processes(run_python):
    """Addresses are hashed by a fixed digest, not by Python's, which differs from process to process."""
    script = """
        import jax, ppl
        print(ppl.gen(lambda: (ppl.normal() @ "x", ppl.normal() @ ("a", "b"))).simulate(jax.random.key(3)).choices)
    """
    assert run_python(script, PYTHONHASHSEED="1") == run_python(script, PYTHONHASHSEED="2")


# --- Keys that are refused, and keys that are not ----------------------------------------------------------------

OLD = jr.PRNGKey(0)
NOT_ONE_KEY = {
    "nothing": (),
    "None": (None,),
    "number": (0,),
    "old style": (OLD,),
    "raw data": (jr.key_data(KEY),),
    "batch": (jr.split(KEY, 3),),
    "batch of one": (jr.split(KEY, 1),),
}
ENTRIES = {
    "seed": lambda *args: ppl.seed(noisy)(*args[:1], *[0.3] * bool(args)),
    "expect": lambda *args: ppl.expect(noisy)(*args[:1], *[0.3] * bool(args)),
    "grad": lambda *args: ppl.grad(lambda p: normal(p).sample())(*args[:1], *[0.3] * bool(args)),
    "simulate": lambda *args: pair.simulate(*args),
    "generate": lambda *args: pair.generate(*args, *[{"x": 0.0}] * bool(args)),
}


@pytest.mark.parametrize("given", NOT_ONE_KEY)
@pytest.mark.parametrize("entry", ENTRIES)
def test_anything_but_one_typed_key_is_refused(entry, given):
    with pytest.raises(PPLError, match="key"):
        ENTRIES[entry](*NOT_ONE_KEY[given])


HIDDEN = {
    "typed": lambda: jr.normal(KEY),
    "made typed": lambda: jr.normal(jr.key(0)),
    "old": lambda: jr.normal(OLD),
    "made old": lambda: jr.normal(jr.PRNGKey(0)),
    "numpy": lambda: jr.normal(np.asarray(OLD)),
    "folded": lambda: jr.normal(jr.fold_in(KEY, 3)),
    "split": lambda: jr.normal(jr.split(OLD)[0]),
}
INSIDE = {
    "plain": lambda f: f,
    "jit": jax.jit,
    "checkpoint": jax.checkpoint,
    "vmap": lambda f: lambda: jax.vmap(lambda x: x + f())(jnp.ones(2)).sum(),
    "scan": lambda f: lambda: lax.scan(lambda c, _: (c + f(), None), 0.0, None, 2)[0],
    "cond": lambda f: lambda: lax.cond(normal().sample() > 0, f, lambda: jnp.zeros(())),
    "while": lambda f: lambda: lax.while_loop(lambda c: c < 1, lambda c: c + f() ** 2 + 1, 0.0),
    "call": lambda f: lambda: gen(lambda: f() + (normal() @ "z"))() @ "a",
}


@pytest.mark.parametrize("body", INSIDE)
@pytest.mark.parametrize("key", HIDDEN)
def test_a_constant_key_inside_is_refused(key, body):
    program = INSIDE[body](HIDDEN[key])
    with pytest.raises(PPLError, match="constant PRNG key"):
        ppl.seed(lambda: program() + normal().sample())(KEY)


def test_a_key_passed_as_an_argument_works():
    draw = ppl.seed(lambda key, x: jr.normal(key) + normal(x).sample())
    assert draw(KEY, jr.key(1), 0.0) != draw(KEY, jr.key(2), 0.0)
    assert jnp.isfinite(draw(KEY, OLD, 0.0))
    steps = lambda keys: lax.scan(lambda c, key: (c + jr.normal(key) + normal().sample(), c), 0.0, keys)[0]
    assert jnp.isfinite(ppl.seed(steps)(KEY, jr.split(KEY, 3)))
    assert jnp.isfinite(ppl.seed(lambda key: lax.cond(True, lambda: jr.normal(key), lambda: 0.0))(KEY, OLD))
    assert jnp.isfinite(jax.jit(lambda key: ppl.seed(lambda: jr.normal(key) + normal().sample())(KEY))(jr.key(1)))


@pytest.mark.parametrize("transform", [ppl.seed, ppl.expect, ppl.grad, ppl.value_and_grad], ids=lambda t: t.__name__)
def test_the_key_is_in_the_signature(transform):
    """Equinox and others bind arguments by signature: it must not be that of the function without the key."""
    run = transform(lambda x: normal(x).sample())
    inspect.signature(run).bind(KEY, 1.0)
    assert np.isfinite(jax.tree.leaves(eqx.filter_jit(run)(KEY, 1.0))).all()
