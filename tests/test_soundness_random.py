"""500 random compositions of smooth and non-smooth operations: the verdict on each, checked by quadrature.

An accepted one must be unbiased, without exception. Refused ones that are unbiased all the same (a jump that cannot be
reached, branches that meet) are counted: they must stay few.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import ppl
from ppl.analysis.smoothness import smoothness
from ppl.transforms.programs import stage_program
from tests import quadrature

NUM, SEED = 500, 20_240
TOLERANCE = 2e-3

SMOOTH_UNARY = {
    "tanh": jnp.tanh,
    "sin": jnp.sin,
    "sigmoid": jax.nn.sigmoid,
    "relu": jax.nn.relu,
    "elu": jax.nn.elu,
    "softplus": jax.nn.softplus,
    "leaky": jax.nn.leaky_relu,
    "abs": jnp.abs,
    "clip": lambda x: jnp.clip(x, -0.7, 1.1),
    "bump": lambda x: jnp.exp(-(x**2)),
    "log1p": lambda x: jnp.log1p(jnp.square(x)),
    "hypot": lambda x: jnp.sqrt(0.1 + x**2),
    "scaled": lambda x: 1.7 * x - 0.4,
    "reciprocal": lambda x: 1.0 / (0.5 + x**2),
    "interp": lambda x: jnp.interp(x, jnp.array([-1.0, 0.2, 1.0]), jnp.array([0.5, -1.0, 1.0])),
    "softmax": lambda x: jax.nn.softmax(jnp.stack([x, 0.3 - x]), axis=0)[0],
    "middle": lambda x: jnp.sort(jnp.stack([x, 0.3 - x, jnp.zeros_like(x)]), axis=0)[1],
    "norm": lambda x: jnp.linalg.norm(jnp.stack([x, x - 0.5]), axis=0),
    "normal density": lambda x: jnp.exp(ppl.normal(0.2, 0.8).log_prob(x)),
    "density inside": lambda x: jnp.exp(ppl.uniform(-1.0, 2.0).log_prob(jax.nn.sigmoid(x)) + jnp.tanh(x)),
    "jitted": jax.jit(lambda x: x * jnp.cos(x)),
    "checkpointed": jax.checkpoint(lambda x: jnp.sin(x) + x),
    "scanned": lambda x: lax.scan(lambda carry, a: (jnp.tanh(carry + a), None), x, jnp.arange(2.0))[0],
}
SMOOTH_BINARY = {
    "+": jnp.add,
    "-": jnp.subtract,
    "*": lambda x, y: jnp.tanh(x) * y,
    "max": jnp.maximum,
    "min": jnp.minimum,
    "logaddexp": jnp.logaddexp,
    "quotient": lambda x, y: x / (1.0 + y**2),
    "share": lambda x, y: jnp.tanh(x) / (0.05 + jax.nn.softplus(y)),  # It must not underflow to 0: NaN would show.
    "mixed": lambda x, y: jax.nn.sigmoid(x) * x + (1 - jax.nn.sigmoid(x)) * y,
}
JUMPING_UNARY = {
    "floor": lambda x: jnp.floor(2 * x),
    "round": jnp.round,
    "sign": jnp.sign,
    "mod": lambda x: x % 0.8,
    "step": lambda x: jnp.where(x > 0.2, 1.0, -0.5),
    "gate": lambda x: x * (x > -0.3),
    "integer": lambda x: (2 * x).astype(int) * 0.5,
    "inverse": lambda x: jnp.tanh(1 / x),
    "size": lambda x: x / jnp.abs(x),
    "order": lambda x: jnp.argsort(jnp.stack([x, 0.3 - x]), 0)[0] * 1.0,
    "digit": lambda x: jnp.searchsorted(jnp.array([-0.4, 0.6]), x) * 0.7,
    "uniform density": lambda x: jnp.exp(ppl.uniform(-1.0, 0.5).log_prob(x)),
    "moving edge": lambda x: jnp.exp(ppl.uniform(x, x + 1.0).log_prob(0.3)),
    "jitted sign": jax.jit(jnp.sign),
    "scanned round": lambda x: lax.scan(lambda carry, a: (carry + a * jnp.round(carry), None), x, jnp.ones(2))[0],
}
JUMPING_BINARY = {
    "select": lambda x, y: jnp.where(x > 0.1, y, -y),
    "less": lambda x, y: (x < y) * y,
    "ratio": lambda x, y: jnp.tanh(x / y),
    "floor division": lambda x, y: jnp.clip(x // 0.7, -3, 3) + y,
    "angle": lambda x, y: jnp.arctan2(x, y),
}


def random_expression(generator, depth):
    """Return a function of z and its text."""
    if depth == 0:
        constant = round(float(generator.uniform(-1, 1)), 2)
        if generator.random() < 0.15:
            return lambda z: jnp.full_like(z, constant), str(constant)
        return lambda z: z, "z"
    jumps, binary = generator.random() < 0.12, generator.random() < 0.45
    tables = ((SMOOTH_UNARY, SMOOTH_BINARY), (JUMPING_UNARY, JUMPING_BINARY))
    table = tables[jumps][binary]
    name = list(table)[generator.integers(len(table))]
    first, first_text = random_expression(generator, depth - 1)
    if not binary:
        return (lambda z: table[name](first(z))), f"{name}({first_text})"
    second, second_text = random_expression(generator, int(generator.integers(depth)))
    return (lambda z: table[name](first(z), second(z))), f"{name}({first_text}, {second_text})"


def is_refused(function):
    """Return the verdict on the program that applies a function to a normal value."""
    program = stage_program(lambda loc: function(ppl.normal(loc, 1.0).sample()), (0.3,))
    return bool(smoothness(program.staged.body, program.places, [False]).unsound)


def test_random_compositions():
    generator = np.random.default_rng(SEED)
    refused = biased = 0
    accepted_biased, refused_unbiased = [], []
    for number in range(NUM):
        function, text = random_expression(generator, 2 + number % 4)
        refuses, bias = is_refused(function), quadrature.bias(function, locs=(-0.6, 0.9))
        wrong = not bias < TOLERANCE  # NaN is wrong, too.
        refused, biased = refused + refuses, biased + wrong
        if wrong and not refuses:
            accepted_biased.append((text, bias))
        if refuses and not wrong:
            refused_unbiased.append(text)
    share = len(refused_unbiased) / NUM
    print(f"{NUM} programs: {refused} refused, {biased} biased, {len(refused_unbiased)} refused though unbiased")
    print(*refused_unbiased, sep="\n")
    assert accepted_biased == []
    assert min(biased, NUM - refused) > NUM / 5  # Both verdicts are tried often.
    assert share < 0.1
