"""Random finite programs: a description, and its two readings, as JAX with random choices and as plain Python loops."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

import ppl

NUM_PARAMS = 3
KINDS = {"bernoulli": 2, "categorical": 3}


# --- Two readings of one description -----------------------------------------------------------------------------


class Jax:
    """Read a description as a JAX program."""

    sin, tanh = staticmethod(jnp.sin), staticmethod(jnp.tanh)

    def draw(self, kind, strategy, u, lanes=None):
        u = 1.5 * jnp.tanh(u if lanes is None else u + jnp.asarray(lanes))
        grad = getattr(ppl, strategy)()
        if kind == "bernoulli":
            return ppl.bernoulli(logits=u, grad=grad).sample().astype(float)
        logits = jnp.stack([jnp.zeros_like(u), u, -2 * u + 0.1], axis=-1)
        return ppl.categorical(logits=logits, grad=grad).sample().astype(float)

    def sum(self, vector):
        return vector.sum(0)

    def const(self, numbers):
        return jnp.asarray(numbers, float)

    def scan(self, step, init, xs, length, reverse):
        init = [jnp.asarray(x, float) for x in init]
        carry, ys = jax.lax.scan(lambda c, x: step(c, x), init, xs, length, reverse=reverse)
        return carry, ys

    def vmap(self, lane, xs, size):
        return jax.vmap(lane, in_axes=(None if xs is None else 0,), axis_size=size)(xs)

    def switch(self, index, branches, operands):
        index = jnp.asarray(index).astype(int)
        if len(branches) == 2:
            return jax.lax.cond(index > 0, branches[1], branches[0], operands)
        return jax.lax.switch(index, branches, operands)

    def wrap(self, kind, body, operands):
        return {"jit": jax.jit, "checkpoint": jax.checkpoint}[kind](body)(operands)


class Plain:
    """Read a description as plain Python: loops, and an oracle for the draws; trailing axis: complex steps."""

    sin, tanh = np.sin, np.tanh

    def __init__(self, draws):
        self.draws = draws

    def draw(self, kind, strategy, u, lanes=None):
        if lanes is not None:
            return np.stack([self.draw(kind, strategy, u + lane) for lane in lanes])
        u = 1.5 * np.tanh(u)
        logits = [0 * u, u] if kind == "bernoulli" else [0 * u, u, -2 * u + 0.1]
        weights = np.exp(np.stack(logits))
        return self.draws(weights / weights.sum(0)) + 0 * u

    def sum(self, vector):
        return sum(vector)

    def const(self, numbers):
        return [number + np.zeros(NUM_PARAMS, complex) for number in numbers]

    def scan(self, step, init, xs, length, reverse):
        carry, outs = list(init), [None] * length
        for i in reversed(range(length)) if reverse else range(length):
            carry, outs[i] = step(carry, None if xs is None else xs[i])
        return carry, [np.stack([out[k] for out in outs]) for k in range(len(outs[0]))]

    def vmap(self, lane, xs, size):
        outs = [lane(None if xs is None else xs[i]) for i in range(size)]
        return [np.stack([out[k] for out in outs]) for k in range(len(outs[0]))]

    def switch(self, index, branches, operands):
        index = int(round(np.ravel(np.real(index))[0]))
        return branches[min(max(index, 0), len(branches) - 1)](operands)

    def wrap(self, kind, body, operands):
        return body(operands)


def evaluate(block, reading, env, vectors):
    """Run the statements of a block; every one appends to the scalars or to the vectors known."""
    env, vectors = list(env), list(vectors)
    for kind, *args in block.statements:
        STATEMENTS[kind](reading, env, vectors, *args)
    return [expression(reading, env, out) for out in block.outs]


def expression(reading, env, parts):
    name, constant, weights, product = parts
    value = constant + sum(weight * env[i] for i, weight in weights)
    if product is not None:
        i, j, weight = product
        value = value + weight * env[i] * reading.sin(env[j])  # a product, yet no power of a power in loops
    value = value + 0 * env[0]
    return value if name is None else getattr(reading, name)(value)


def _draw(reading, env, vectors, kind, strategy, parts):
    env.append(reading.draw(kind, strategy, expression(reading, env, parts)))


def _batch(reading, env, vectors, kind, strategy, parts, lanes, inner):
    values = reading.draw(kind, strategy, expression(reading, env, parts), lanes)
    vectors.append(values)
    _reduce(reading, env, values, inner)


def _reduce(reading, env, vector, inner):
    """Sum a vector: as it is, a nonlinear function of each entry, or of the sum."""
    if inner == "each":
        env.append(reading.sum(reading.sin(vector * vector + 0.3)))
    else:
        total = reading.sum(vector)
        env.append(total * total if inner == "square" else total)


def _let(reading, env, vectors, parts):
    env.append(expression(reading, env, parts))


def _xs(reading, vectors, xs):
    return None if xs is None else vectors[xs] if isinstance(xs, int) else reading.const(xs)


def _scan(reading, env, vectors, init, xs, length, reverse, block, reductions):
    def step(carry, x):
        scalars = [*env, *carry, *([] if x is None else [x])]
        outs = evaluate(block, reading, scalars, [])
        return outs[: len(carry)], outs[len(carry) :]

    init = [expression(reading, env, parts) for parts in init]
    carry, ys = reading.scan(step, init, _xs(reading, vectors, xs), length, reverse)
    env.extend(carry)
    vectors.extend(ys)
    for vector, inner in zip(ys, reductions, strict=True):
        _reduce(reading, env, vector, inner)


def _vmap(reading, env, vectors, xs, size, block, reductions):
    lane = lambda x: evaluate(block, reading, [*env, *([] if x is None else [x])], [])
    outs = reading.vmap(lane, _xs(reading, vectors, xs), size)
    vectors.extend(outs)
    for vector, inner in zip(outs, reductions, strict=True):
        _reduce(reading, env, vector, inner)


def _switch(reading, env, vectors, index, operands, blocks):
    values = [expression(reading, env, parts) for parts in operands]
    branches = [lambda ops, block=block: evaluate(block, reading, [*env, *ops], vectors) for block in blocks]
    env.extend(reading.switch(env[index], branches, values))


def _wrap(reading, env, vectors, kind, operands, block):
    values = [expression(reading, env, parts) for parts in operands]
    env.extend(reading.wrap(kind, lambda ops: evaluate(block, reading, [*env, *ops], vectors), values))


STATEMENTS = {"draw": _draw, "batch": _batch, "let": _let, "scan": _scan, "vmap": _vmap}
STATEMENTS |= {"switch": _switch, "wrap": _wrap}


# --- The generator -----------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Block:
    statements: list
    outs: list


@dataclasses.dataclass
class Names:
    """What a block knows: one flag per scalar and per vector, whether it holds small whole numbers."""

    scalars: list
    vectors: list

    def copy(self):
        return Names(list(self.scalars), list(self.vectors))


class Generator:
    """Write a random program with at most `2**budget` outcomes."""

    def __init__(self, seed: int, budget: float = 8.0):
        self.rng, self.budget, self.past = np.random.RandomState(seed), budget, 1

    def pick(self, *options):
        return options[self.rng.randint(len(options))]

    def number(self):
        return float(np.round(self.rng.uniform(-1, 1), 2))

    def parts(self, names, size=None, recent=True):
        """Write an expression; the latest scalars are the likeliest."""
        count = len(names.scalars)
        size = self.pick(1, 2, 3) if size is None else size
        chance = np.arange(1, count + 1, dtype=float) ** (2 if recent else 0)
        chosen = self.rng.choice(count, min(size, count), replace=False, p=chance / chance.sum())
        weights = [(int(i), self.number() + 0.5) for i in chosen]
        product = None
        if self.rng.rand() < 0.4:
            i, j = (int(i) for i in self.rng.choice(count, 2, p=chance / chance.sum()))
            product = (i, j, self.number())
        return self.pick(None, None, "sin", "tanh"), self.number(), weights, product

    def afford(self, kind, times):
        cost = times * np.log2(KINDS[kind])
        if cost > self.budget:
            return False
        self.budget -= cost
        return True

    def program(self):
        names = Names([False] * NUM_PARAMS, [])
        block = self.block(names, depth=0, times=1, length=self.rng.randint(2, 4))
        count = len(names.scalars)
        outs = [(None, 0.1, [(i, self.number() + 0.3) for i in range(NUM_PARAMS, count)], None)]
        if self.rng.rand() < 0.5:
            outs.append(self.parts(names))
        return Block(block.statements, outs)

    def block(self, names, depth, times, length):
        statements = []
        for _ in range(length):
            options = [self.draw, self.draw, self.let, self.batch]
            if depth < 3:
                options += [self.scan, self.scan, self.vmap, self.vmap, self.switch, self.switch, self.wrap]
            written = self.pick(*options)(names, depth, times)
            statements += [] if written is None else [written]
        return Block(statements, [])

    def strategy(self):
        return self.pick("enum", "reinforce")

    def draw(self, names, depth, times):
        kind = self.pick("bernoulli", "bernoulli", "categorical")
        if not self.afford(kind, times):
            return None
        parts = self.parts(names)
        names.scalars.append(True)
        return "draw", kind, self.strategy(), parts

    def batch(self, names, depth, times):
        size = self.pick(1, 2)
        if not self.afford("bernoulli", times * size):
            return None
        parts = self.parts(names)
        names.scalars.append(False)
        names.vectors.append((size, True))
        return "batch", "bernoulli", self.strategy(), parts, [self.number() for _ in range(size)], self.reduction()

    def reduction(self):
        return self.pick("sum", "each", "square")

    def let(self, names, depth, times):
        parts = self.parts(names)
        names.scalars.append(False)
        return "let", parts

    def inputs(self, names, size=None):
        """Pick what a loop runs over: numbers, a known vector, or nothing."""
        known = [i for i, (length, _) in enumerate(names.vectors) if size is None or length == size]
        choice = self.pick("numbers", "whole", "vector", "none")
        size = size or self.pick(1, 2, 3)
        if choice == "vector" and known:
            at = self.pick(*known)
            return at, *names.vectors[at]
        if choice == "none":
            return None, size, None
        numbers = [float(self.rng.randint(0, 3)) if choice == "whole" else self.number() for _ in range(size)]
        return numbers, size, choice == "whole"

    def inner(self, names, flags, depth, times):
        """Write the statements of a nested block that knows some more scalars."""
        inside = Names([*names.scalars, *flags], list(names.vectors))
        return inside, self.block(inside, depth + 1, times, self.pick(1, 2, 3)).statements

    def any_out(self, names):
        """Pick a result: a scalar as it is, whole where it is, or an expression."""
        if self.rng.rand() < 0.4:
            at = self.rng.randint(max(0, len(names.scalars) - 3), len(names.scalars))
            return (None, 0.0, [(int(at), 1.0)], None), names.scalars[at]
        return self.parts(names), False

    def scan(self, names, depth, times):
        xs, length, whole = self.inputs(names)
        num_accumulators, num_states = self.pick(1, 1, 2), self.pick(0, 0, 1)
        init = [self.parts(names) for _ in range(num_accumulators)] + [self.parts(names) for _ in range(num_states)]
        start = len(names.scalars)
        flags = [False] * len(init) + ([] if xs is None else [whole])
        plain = Names([*names.scalars, *flags], [])
        inside, statements = self.inner(plain, [], depth, times * length)
        outs = []
        for k in range(num_accumulators):
            name, constant, weights, product = self.parts(inside)
            if name is None or self.rng.rand() < 0.5:
                outs.append((None, constant, [(start + k, 1.0), *weights], product))
            else:
                statements.append(("let", (name, constant, weights, product)))
                inside.scalars.append(False)
                outs.append((None, 0.0, [(start + k, 1.0), (len(inside.scalars) - 1, 0.7)], None))
        outs += [self.any_out(inside)[0] for _ in range(num_states)]
        ys = [self.any_out(inside) for _ in range(self.pick(0, 1))] or [self.any_out(inside)]
        names.scalars += [False] * (len(init) + len(ys))
        names.vectors += [(length, flag) for _, flag in ys]
        block = Block(statements, outs + [parts for parts, _ in ys])
        return "scan", init, xs, length, bool(self.rng.rand() < 0.3), block, [self.reduction() for _ in ys]

    def vmap(self, names, depth, times):
        xs, size, whole = self.inputs(names)
        plain = Names(list(names.scalars), [])
        inside, statements = self.inner(plain, [] if xs is None else [whole], depth, times * size)
        outs = [self.any_out(inside) for _ in range(self.pick(1, 2))]
        names.scalars += [False] * len(outs)
        names.vectors += [(size, flag) for _, flag in outs]
        return "vmap", xs, size, Block(statements, [parts for parts, _ in outs]), [self.reduction() for _ in outs]

    def switch(self, names, depth, times):
        known = [i for i, whole in enumerate(names.scalars) if whole]
        if not known:
            return None
        operands = [self.parts(names) for _ in range(self.pick(1, 2))]
        num_outs, blocks = self.pick(1, 2), []
        for _ in range(self.pick(2, 2, 3)):
            inside, statements = self.inner(names, [False] * len(operands), depth, times)
            blocks.append(Block(statements, [self.any_out(inside)[0] for _ in range(num_outs)]))
        names.scalars += [False] * num_outs
        return "switch", self.pick(*known), operands, blocks

    def wrap(self, names, depth, times):
        operands = [self.parts(names)]
        inside, statements = self.inner(names, [False], depth, times)
        outs = [self.any_out(inside) for _ in range(self.pick(1, 2))]
        names.scalars += [flag for _, flag in outs]
        return "wrap", self.pick("jit", "checkpoint"), operands, Block(statements, [parts for parts, _ in outs])


def as_jax(block):
    """Return the description as a stochastic function of theta."""
    return lambda theta: sum(evaluate(block, Jax(), [theta[i] for i in range(NUM_PARAMS)], []))


def as_law(block):
    """Return the description as a plain-Python law."""
    return lambda draw, theta: sum(evaluate(block, Plain(draw), [theta[i] for i in range(NUM_PARAMS)], []))
