"""Random programs: nested constructs around random choices, against a plain Python loop over SciPy's densities.

A program is a tree of nodes. `run` evaluates it in the language: each node maps a number to a number and may make
choices. `replay` walks the same tree in plain Python, lane by lane and step by step, reads the choices from a trace at
the indices of the loops around them (outer first), and adds up SciPy's densities: it shares no code with the library.
"""

import dataclasses
import itertools
import math
from typing import Any

import hypothesis
import hypothesis.strategies as hs
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.stats as st
from jax import lax

import ppl
from ppl import Masked, gen

pytestmark = pytest.mark.x64
KEY = jr.key(1)
THRESHOLD = 0.123


@dataclasses.dataclass(frozen=True)
class Node:
    """A choice of a family `kind`, or a construct `kind` of size `size` around other nodes."""

    kind: str
    parts: tuple["Node", ...] = ()
    size: int = 2
    mark: int = 0

    def __repr__(self) -> str:
        sized = f"[{self.size}]" if self.kind in ("scan", "vmap") else ""
        return f"{self.kind}{sized}({', '.join(map(repr, self.parts))})" if self.parts else self.kind


FAMILIES = ("normal", "bernoulli", "categorical", "gamma", "pair")
DISCRETE = ("bernoulli", "categorical")


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


# --- In the language ---------------------------------------------------------------------------------------------


def choose(kind, x):
    if kind == "normal":
        return ppl.normal(0.5 * x, 1.0 + x**2)
    if kind == "bernoulli":
        return ppl.bernoulli(logits=x)
    if kind == "categorical":
        return ppl.categorical(logits=jnp.stack([0.0 * x, x, -0.5 * x]))
    if kind == "gamma":
        return ppl.gamma(1.0 + x**2, 1.5)
    return ppl.normal(jnp.stack([x, -x]), 0.7)


def run(node: Node, x, address: str):
    """Evaluate a node in the language."""
    inner = lambda part, i: lambda y: run(part, y, f"{address}{i}")
    parts = [inner(part, i) for i, part in enumerate(node.parts)]
    if node.kind in FAMILIES:
        return jnp.tanh(x + 0.3 * jnp.sum(choose(node.kind, x) @ address))
    if node.kind == "seq":
        for part in parts:
            x = part(x)
        return x
    if node.kind == "scan":
        step = lambda c, i: (parts[0](c + 0.1 * i), None)
        return lax.scan(step, x, jnp.arange(node.size) * 1.0, reverse=bool(node.mark))[0]
    if node.kind == "loop":
        return lax.fori_loop(0, node.size, lambda i, c: parts[0](c + 0.1 * i), x)
    if node.kind == "vmap":
        return jnp.tanh(jax.vmap(parts[0])(x + 0.4 * jnp.arange(node.size) - 0.3).sum())
    if node.kind == "cond":
        return lax.cond(x > THRESHOLD, parts[0], parts[1], x)
    if node.kind == "maybe":
        return lax.cond(x > THRESHOLD, parts[0], lambda y: -y, x)
    if node.kind == "switch":
        return lax.switch(jnp.int32(x > THRESHOLD) + jnp.int32(x > 0.5), [*parts, lambda y: 0.5 * y], x)
    if node.kind == "same":
        low = lambda y: run(node.parts[0], y - 1.0, f"{address}0")
        return lax.cond(x > THRESHOLD, parts[0], low, x)
    if node.kind == "call":
        return gen(parts[0])(x) @ f"call{address}"
    if node.kind == "inline":
        return gen(parts[0]).inline(x)
    return {"jit": jax.jit, "checkpoint": jax.checkpoint}[node.kind](parts[0])(x)


# --- In plain Python ---------------------------------------------------------------------------------------------


class Replay:
    """Add up SciPy's densities of the choices in a trace, and note which of them are made."""

    def __init__(self, choices: dict):
        self.choices, self.log_density = choices, 0.0
        self.made: dict[tuple[str, ...], set[tuple[int, ...]]] = {}

    def value(self, prefix, address, index):
        leaf: Any = self.choices
        for part in (*prefix, address):
            leaf = leaf[part]
        self.made.setdefault((*prefix, address), set()).add(index)
        return np.asarray(leaf.value if isinstance(leaf, Masked) else leaf)[index]

    def choice(self, kind, x, value):
        if kind == "normal":
            density = st.norm.logpdf(value, 0.5 * x, 1.0 + x**2)
        elif kind == "bernoulli":
            density = math.log(sigmoid(x) if value == 1 else sigmoid(-x))
        elif kind == "categorical":
            weights = np.exp([0.0, x, -0.5 * x])
            density = math.log(weights[value] / weights.sum())
        elif kind == "gamma":
            density = st.gamma.logpdf(value, 1.0 + x**2, scale=1 / 1.5)
        else:
            density = st.norm.logpdf(value, [x, -x], 0.7).sum()
        self.log_density += float(density)

    def run(self, node: Node, x: float, address: str, prefix=(), index=()) -> float:
        inner = lambda i, y, more=(): self.run(node.parts[i], y, f"{address}{i}", prefix, (*index, *more))
        if node.kind in FAMILIES:
            value = self.value(prefix, address, index)
            self.choice(node.kind, x, value)
            return math.tanh(x + 0.3 * float(np.sum(value)))
        if node.kind in ("scan", "loop"):
            order = range(node.size)
            for i in reversed(order) if node.kind == "scan" and node.mark else order:
                x = inner(0, x + 0.1 * i, (i,))
            return x
        if node.kind == "vmap":
            return math.tanh(sum(inner(0, x + 0.4 * i - 0.3, (i,)) for i in range(node.size)))
        if node.kind in ("cond", "maybe", "same"):
            if x > THRESHOLD:
                return inner(0, x)
            return {"cond": lambda: inner(1, x), "maybe": lambda: -x, "same": lambda: inner(0, x - 1.0)}[node.kind]()
        if node.kind == "switch":
            number = int(x > THRESHOLD) + int(x > 0.5)
            return inner(number, x) if number < 2 else 0.5 * x
        if node.kind == "call":
            return self.run(node.parts[0], x, f"{address}0", (*prefix, f"call{address}"), index)
        for i in range(len(node.parts)):
            x = inner(i, x)
        return x


def axes_of(node: Node, address="", axes=(), prefix=(), masked=False) -> dict[tuple[str, ...], tuple]:
    """Return for each path of a program the sizes of the loops around it and whether it may be left out."""
    if node.kind in FAMILIES:
        return {(*prefix, address): (axes, masked)}
    axes = (*axes, node.size) if node.kind in ("scan", "loop", "vmap") else axes
    prefix = (*prefix, f"call{address}") if node.kind == "call" else prefix
    masked = masked or node.kind in ("cond", "maybe", "switch")
    parts = [axes_of(part, f"{address}{i}", axes, prefix, masked) for i, part in enumerate(node.parts)]
    return {path: entry for part in parts for path, entry in part.items()}


# --- The properties ----------------------------------------------------------------------------------------------


def leaves(choices: dict, prefix=()):
    for name, leaf in choices.items():
        yield from leaves(leaf, (*prefix, name)) if isinstance(leaf, dict) else [((*prefix, name), leaf)]


def check(node: Node, seed: int) -> None:
    """Check every property of one program."""
    program = gen(lambda x: run(node, x, "z"))

    @jax.jit
    def evaluate(key, x):
        trace = program.simulate(key, x)
        assessed = lambda x: program.assess(key, trace.choices, x)
        (log_density, retval), pull_back = jax.vjp(assessed, x)
        gradient = pull_back((jnp.ones(()), jnp.zeros(())))[0]
        observed, log_weight = program.generate(key, trace.choices, x)
        return trace, log_density, retval, gradient, observed, log_weight

    x = 0.2
    trace, log_density, retval, gradient, observed, log_weight = evaluate(jr.key(seed), x)
    # simulate, assess and generate agree
    np.testing.assert_allclose(log_density, trace.log_density, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose([log_weight, observed.log_density], [trace.log_density] * 2, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(retval, trace.retval, rtol=1e-12)
    assert np.isfinite(gradient)
    # so does the plain loop
    replay = Replay(trace.choices)
    np.testing.assert_allclose(trace.retval, replay.run(node, x, "z"), rtol=1e-9)
    np.testing.assert_allclose(trace.log_density, replay.log_density, rtol=1e-9, atol=1e-9)
    # outer axes come first; what is not made is masked, and zero
    expected = axes_of(node, "z")
    assert {path for path, _ in leaves(trace.choices)} == set(expected)
    for path, leaf in leaves(trace.choices):
        axes, masked = expected[path]
        value = np.asarray(leaf.value if isinstance(leaf, Masked) else leaf)
        assert value.shape[: len(axes)] == axes
        made = np.zeros(axes, bool)
        for index in replay.made.get(path, ()):
            made[index] = True
        assert made.all() or masked
        assert isinstance(leaf, Masked) == masked
        if masked:
            np.testing.assert_array_equal(leaf.mask, made)
            assert not value[~made].any()


def node(kind, *parts, size=2, mark=0):
    return Node(kind, parts, size, mark)


N, B, C, G, P = (node(kind) for kind in FAMILIES)
KNOWN = [
    node("vmap", node("maybe", node("seq", B, N)), size=3),
    node("vmap", node("scan", node("cond", N, B), size=3)),
    node("scan", node("vmap", node("switch", G, P), size=3), mark=1),
    node("seq", N, node("cond", node("vmap", node("same", N)), node("scan", P, size=3))),
    node("call", node("vmap", node("maybe", node("call", node("scan", node("checkpoint", B)))), size=3)),
    node("vmap", node("same", node("call", node("loop", node("maybe", C)))), size=3),
    node("vmap", node("vmap", node("maybe", node("maybe", node("jit", N))), size=3)),
]


@pytest.mark.parametrize("tree", KNOWN, ids=repr)
def test_known_nestings(tree):
    check(tree, 0)


def trees(depth: int, families=FAMILIES) -> hs.SearchStrategy[Node]:
    """Generate programs of up to so many nested constructs."""
    choice = hs.sampled_from(families).map(Node)
    if not depth:
        return choice
    part = trees(depth - 1, families)
    one = lambda kinds: hs.builds(
        lambda k, p, n, m: node(k, p, size=n, mark=m), kinds, part, hs.integers(1, 3), hs.integers(0, 1)
    )
    two = hs.builds(lambda k, p, q: node(k, p, q), hs.sampled_from(["seq", "cond", "switch"]), part, part)
    loops = one(hs.sampled_from(["scan", "vmap", "loop"]))
    return hs.one_of(loops, loops, two, one(hs.sampled_from(["maybe", "same", "call", "inline", "jit", "checkpoint"])))


FEW = hypothesis.settings(max_examples=8, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))


@FEW
@hypothesis.given(tree=trees(3), seed=hs.integers(0, 99))
def test_random_programs_of_three_levels(tree, seed):
    check(tree, seed)


@FEW
@hypothesis.given(tree=trees(2), seed=hs.integers(0, 99))
def test_random_programs_of_two_levels(tree, seed):
    check(tree, seed)


# --- Finite programs: all probabilities sum to one ---------------------------------------------------------------


def elements(node: Node) -> int:
    return sum(math.prod(axes) for axes, _ in axes_of(node).values())


def all_maps(choices: dict) -> dict:
    """List all choice maps of a finite program: each element any of its values, or idle where it is masked."""
    flat, layout = jax.tree.flatten(choices, is_leaf=lambda leaf: isinstance(leaf, Masked))
    num_values = {"bernoulli": 2, "categorical": 3}
    ranges, sizes = [], []
    for leaf, kind in flat:
        states = num_values[kind] + isinstance(leaf, Masked)
        size = math.prod(np.shape(leaf.value if isinstance(leaf, Masked) else leaf))
        ranges += [range(states)] * size
        sizes.append(size)
    table = np.array(list(itertools.product(*ranges)), np.int32)
    columns = np.split(table, np.cumsum(sizes)[:-1], axis=1)
    filled = []
    for (leaf, kind), column in zip(flat, columns, strict=True):
        masked = isinstance(leaf, Masked)
        column = column.reshape(-1, *np.shape(leaf.value if masked else leaf))
        made = column < num_values[kind]
        filled.append(Masked(np.where(made, column, 0), made) if masked else column)
    return jax.tree.unflatten(layout, filled)


def total_probability(tree: Node) -> float:
    program = gen(lambda x: run(tree, x, "z"))
    shapes = jax.eval_shape(program.simulate, KEY, 0.2).choices
    kinds = {path: kind for path, kind in kinds_of(tree, "z")}
    tagged = {}
    for path, leaf in leaves(shapes):
        place = tagged
        for part in path[:-1]:
            place = place.setdefault(part, {})
        place[path[-1]] = Tagged(leaf, kinds[path])
    maps = all_maps(tagged)
    return float(jnp.exp(jax.jit(jax.vmap(lambda choices: program.log_density(choices, 0.2)))(maps)).sum())


@dataclasses.dataclass
class Tagged:
    """The shape of a choice and its family: a leaf for JAX."""

    leaf: Any
    kind: str

    def __iter__(self):
        return iter((self.leaf, self.kind))


def kinds_of(node: Node, address: str, prefix=()):
    if node.kind in FAMILIES:
        yield (*prefix, address), node.kind
    prefix = (*prefix, f"call{address}") if node.kind == "call" else prefix
    for i, part in enumerate(node.parts):
        yield from kinds_of(part, f"{address}{i}", prefix)


FINITE = [
    node("seq", B, node("cond", C, node("scan", B, size=3)), node("maybe", B)),
    node("vmap", node("maybe", node("seq", B, C)), size=2),
    node("scan", node("vmap", node("same", B), size=2), size=3),
    node("vmap", node("scan", node("switch", B, node("call", C))), size=2),
    node("checkpoint", node("vmap", node("cond", node("jit", C), node("seq", B, B)))),
]


@pytest.mark.parametrize("tree", FINITE, ids=repr)
def test_probabilities_of_known_programs_sum_to_one(tree):
    np.testing.assert_allclose(total_probability(tree), 1.0, rtol=1e-10)


@FEW
@hypothesis.given(tree=trees(2, DISCRETE).filter(lambda tree: elements(tree) <= 6))
def test_probabilities_of_random_programs_sum_to_one(tree):
    np.testing.assert_allclose(total_probability(tree), 1.0, rtol=1e-10)


# --- Moves: update there and back, regenerate, project -------------------------------------------------------------


def check_moves(node: Node, seed: int) -> None:
    """Check the laws of moves between two traces of one program."""
    program = gen(lambda x: run(node, x, "z"))
    first = next("/".join(path) for path in axes_of(node, "z"))

    @jax.jit
    def evaluate(key, x):
        keys = jr.split(key, 4)
        trace, other = program.simulate(keys[0], x), program.simulate(keys[1], x)
        there = program.update(keys[2], trace, other.choices)
        back = program.update(keys[2], there[0], there[2])
        anew, drawn = program.regenerate(keys[3], trace, "*"), program.regenerate(keys[3], trace, first)
        parts = [program.project(t, s) for t in (trace, drawn[0]) for s in ("*", first)]
        return trace, other, there, back, anew, drawn, parts

    trace, other, there, back, anew, drawn, parts = evaluate(jr.key(seed), 0.2)
    same = lambda a, b: jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-10), a.choices, b.choices)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)
    same(there[0], other)
    close(there[1], other.log_density - trace.log_density)
    same(back[0], trace)
    close(back[1], -there[1])
    close(anew[1], 0.0)
    close(parts[0], trace.log_density)
    if not any(isinstance(leaf, Masked) for _, leaf in leaves(trace.choices)):
        close(drawn[1], (parts[2] - parts[3]) - (parts[0] - parts[1]))


@pytest.mark.parametrize("tree", KNOWN, ids=repr)
def test_moves_of_known_nestings(tree):
    check_moves(tree, 0)


@FEW
@hypothesis.given(tree=trees(2), seed=hs.integers(0, 99))
def test_moves_of_random_programs(tree, seed):
    check_moves(tree, seed)
