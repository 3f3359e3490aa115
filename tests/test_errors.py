"""Bad input: each is refused by the right error, which names the choice and the user's line and says what to do.

Every case is a function that does something wrong; `# <-` marks the line that the message must point to.
"""

import dataclasses
import inspect
import re
import traceback
from collections.abc import Callable

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax import lax

import ppl
from estimators import elbo, iwelbo
from ppl import (
    AddressError,
    ControlFlowError,
    Masked,
    PPLError,
    StrategyError,
    SupportError,
    UnsoundGradientError,
    bernoulli,
    categorical,
    enum,
    gamma,
    gen,
    multivariate_normal,
    normal,
    pathwise,
    poisson,
    reinforce,
    uniform,
)

KEY, OLD_KEY = jr.key(0), jr.PRNGKey(0)


@dataclasses.dataclass(frozen=True)
class Bad:
    """A wrong program: the error it must raise, what the message says, and the bug that still keeps it from that."""

    run: Callable
    error: type[PPLError]
    says: tuple[str, ...]
    bug: str
    through_jax: bool

    def __str__(self) -> str:
        return self.run.__name__

    def line(self) -> str | None:
        """Return `file:line` of the marked line."""
        lines, start = inspect.getsourcelines(self.run)
        marked = [start + i for i, line in enumerate(lines) if line.rstrip().endswith("# <-")]
        return f"{__file__}:{marked[0]}" if marked else None


CASES: list[Bad] = []


def bad(error: type[PPLError], *says: str, bug: str = "", through_jax: bool = False) -> Callable:
    """Add a case; `through_jax` where a function of JAX is the outermost call and adds its note to any error."""

    def add(run: Callable) -> Callable:
        CASES.append(Bad(run, error, says, bug, through_jax))
        return run

    return add


@gen
def model(loc=0.0):
    z = normal(loc, 1.0) @ "latent"
    return normal(z, 1.0) @ "seen"


@gen
def coin(p=0.3):
    return bernoulli(p) @ "side"


def toss(p):
    return bernoulli(p).sample() * 2.0


# --- Keys --------------------------------------------------------------------------------------------------------


@bad(PPLError, "needs a PRNG key", "jax.random.key")
def expect_without_key():
    ppl.expect(toss)()  # <-


@bad(PPLError, "needs a PRNG key", "float")
def seed_without_key():
    ppl.seed(toss)(0.3)  # <-


@bad(PPLError, "needs a PRNG key")
def grad_without_key():
    ppl.grad(toss)(0.3)  # <-


@bad(PPLError, "needs a PRNG key")
def simulate_without_key():
    model.simulate()  # <-


@bad(PPLError, "needs a PRNG key")
def assess_without_key():
    coin.assess({"side": 1})  # <-


@bad(PPLError, "uint32", "jax.random.key")
def old_style_key():
    model.simulate(OLD_KEY)  # <-


@bad(PPLError, "shape (3,)", "jax.vmap")
def batch_of_keys():
    model.simulate(jr.split(KEY, 3))  # <-


@bad(PPLError, "outside any transformation", "'normal'", "ppl.seed")
def choice_outside_any_transformation():
    normal(0.0, 1.0).sample()  # <-


@bad(PPLError, "outside any transformation", "'z'", "ppl.seed")
def addressed_choice_outside_any_transformation():
    normal(0.0, 1.0) @ "z"  # <-


@bad(PPLError, "outside any transformation", "'a'", "ppl.seed")
def call_outside_any_transformation():
    model(0.0) @ "a"  # <-


@bad(PPLError, "outside any transformation", "'normal'", "ppl.seed", through_jax=True)
def choice_under_plain_jit():
    jax.jit(lambda: normal(0.0, 1.0).sample())()  # <-


@bad(PPLError, "outside any transformation", "'normal'", "ppl.seed", through_jax=True)
def choice_under_plain_scan():
    lax.scan(lambda c, _: (c + normal(0.0, 1.0).sample(), None), 0.0, None, 2)  # <-


# --- Addresses ---------------------------------------------------------------------------------------------------


@bad(AddressError, '"z"', "rename")
def duplicate_address():
    @gen
    def program():
        normal() @ "z"
        normal() @ "z"  # <-

    program.simulate(KEY)


@bad(
    AddressError,
    '"z"',
    "rename",
)
def duplicate_address_of_a_scan_and_a_choice():
    @gen
    def program():
        lax.scan(lambda c, _: (normal() @ "z", None), 0.0, None, 2)
        normal() @ "z"  # <-

    program.log_density({"z": jnp.zeros(2)})


@bad(AddressError, '"z"')
def duplicate_address_in_one_branch_of_a_mapped_cond():
    @gen
    def program():
        twice = lambda: (normal() @ "z") + (normal() @ "z")  # <-
        jax.vmap(lambda p: lax.cond(p, twice, lambda: normal() @ "y"))(jnp.array([True, False]))

    program.simulate(KEY)


@bad(AddressError, '"a/latent"')
def two_calls_under_one_address():
    @gen
    def program():
        inner = gen(lambda: normal() @ "latent")  # <-
        inner() @ "a"
        inner() @ "a"

    program.simulate(KEY)


@bad(AddressError, '"a"')
def choice_under_the_address_of_a_call():
    @gen
    def program():
        coin() @ "a"
        normal() @ "a"  # <-

    program.simulate(KEY)


@bad(AddressError, '"a"')
def call_under_the_address_of_a_choice():
    @gen
    def program():
        normal() @ "a"  # <-
        coin() @ "a"

    program.simulate(KEY)


@bad(AddressError, '"seen"', 'choices at "latent", "seen"', 'values at "latent"')
def missing_address():
    gen(lambda: normal() @ "seen")  # not this line
    two = gen(lambda: (normal() @ "latent", normal() @ "seen"))  # <-
    two.log_density({"latent": 0.0})


@bad(AddressError, '"sub/z"', "<lambda>")
def missing_address_in_a_call():
    inner = gen(lambda: normal() @ "z")  # <-
    gen(lambda: inner() @ "sub").log_density({"sub": {}})


@bad(AddressError, '"other"', '"latent", "seen"')
def unknown_address():
    model.log_density({"latent": 0.0, "seen": 0.0, "other": 1.0})


@bad(AddressError, 'did you mean "latent"')
def misspelt_address():
    two = gen(lambda: (normal() @ "latent", normal() @ "seen"))  # <-
    two.log_density({"laten": 0.0, "seen": 0.0})


@bad(AddressError, 'no choice at "sene"', 'did you mean "seen"')
def misspelt_observation():
    model.generate(KEY, {"sene": 0.0})


@bad(AddressError, 'no choice at "sene"', 'did you mean "seen"')
def misspelt_look_up_in_a_trace():
    model.simulate(KEY)["sene"]


@bad(AddressError, '"z"', "expected: shape ()", "got: shape (2,)")
def wrong_shape():
    one = gen(lambda: normal() @ "z")  # <-
    one.log_density({"z": jnp.zeros(2)})


@bad(AddressError, '"z"', "expected: shape (3, 2)", "got: shape (2, 3)")
def lanes_in_the_wrong_order():
    step = lambda c, _: (c, jax.vmap(lambda x: normal(x) @ "z")(jnp.zeros(2)))  # <-
    gen(lambda: lax.scan(step, 0.0, None, 3)[1]).log_density({"z": jnp.zeros((2, 3))})


@bad(AddressError, '"z"', "mask")
def mask_of_the_wrong_shape():
    one = gen(lambda: normal() @ "z")  # <-
    one.log_density({"z": Masked(0.0, jnp.ones(2, bool))})


@bad(AddressError, '"z"', "str")
def value_that_is_no_array():
    one = gen(lambda: normal() @ "z")  # <-
    one.log_density({"z": "hello"})


@bad(AddressError, "nested dict", "float")
def choices_that_are_no_dict():
    model.log_density(3.0)


@bad(AddressError, '"a/b"', "once")
def value_given_twice():
    model.log_density({"a/b": 1.0, "a": {"b": 2.0}})


@bad(AddressError, '"a"', "once")
def overlapping_merge():
    ppl.merge({"a": 1.0}, {"a": 2.0})


@bad(AddressError, "'a/b'", '("group", "z")')
def slash_in_an_address():
    gen(lambda: normal() @ "a/b").simulate(KEY)  # <-


@bad(AddressError, "got: 3")
def address_that_is_no_string():
    gen(lambda: normal() @ 3).simulate(KEY)  # <-


@bad(AddressError, "got: ''")
def empty_address_of_a_call():
    gen(lambda: model() @ "").simulate(KEY)  # <-


@bad(AddressError, '"z"', "[2]", "different addresses")
def branches_of_different_shape():
    @gen
    def program():
        lax.cond(True, lambda: (normal(jnp.zeros(2)) @ "z").sum(), lambda: normal() @ "z")  # <-

    program.simulate(KEY)


@bad(AddressError, '"z"')
def lanes_of_branches_of_different_shape():
    @gen
    def program():
        shapes = lambda p: lax.cond(p, lambda: (normal(jnp.zeros(2)) @ "z").sum(), lambda: normal() @ "z")  # <-
        jax.vmap(shapes)(jnp.array([True, False]))

    program.simulate(KEY)


@bad(AddressError, '"z"')
def lanes_of_branches_of_different_dtype():
    @gen
    def program():
        dtypes = lambda p: lax.cond(p, lambda: (bernoulli(0.3) @ "z") * 1.0, lambda: normal() @ "z")  # <-
        jax.vmap(dtypes)(jnp.array([True, False]))

    program.simulate(KEY)


# --- Forgotten addresses -----------------------------------------------------------------------------------------


@bad(AddressError, "`forgetful`", "normal(...)", '@ "')
def choice_never_addressed():
    @gen
    def forgetful():
        normal(0.0, 1.0)  # <-

    forgetful.simulate(KEY)


@bad(AddressError, "normal(...)", ".sample()")
def choice_never_addressed_in_an_objective():
    ppl.expect(lambda: normal(0.0, 1.0) and 1.0)(KEY)  # <-


@bad(AddressError, "normal(...)")
def choice_returned_without_address():
    gen(lambda: normal(0.0, 1.0)).simulate(KEY)  # <-


@bad(AddressError, "model(...)", '@ "')
def call_never_addressed():
    gen(lambda: model() and 0.0).simulate(KEY)  # <-


@bad(AddressError, "normal(...)")
def choice_never_addressed_under_vmap():
    gen(lambda: jax.vmap(lambda x: (normal(x), x)[1])(jnp.ones(2))).simulate(KEY)  # <-


@bad(AddressError, "model(...)")
def call_never_addressed_in_a_scan():
    gen(lambda: lax.scan(lambda c, _: ((model(c), c)[1], None), 0.0, None, 2)).simulate(KEY)  # <-


@bad(AddressError, "normal(...)")
def choice_never_addressed_in_a_branch():
    gen(lambda: lax.cond(True, lambda: (normal(), 1.0)[1], lambda: 0.0)).simulate(KEY)  # <-


@bad(AddressError, "normal(...)", '@ "')
def choice_used_as_a_number():
    gen(lambda: normal(0.0, 1.0) + 1.0).simulate(KEY)  # <-


@bad(AddressError, "model(...)", '@ "')
def call_given_to_a_function_of_jax():
    gen(lambda: jnp.sin(model())).simulate(KEY)  # <-


@bad(AddressError, "normal(...)", '@ "')
def choice_returned_by_a_lane():
    gen(lambda: jax.vmap(lambda x: normal(x, 1.0))(jnp.ones(2))).simulate(KEY)  # <-


@bad(AddressError, "normal(...)", '@ "')
def choice_carried_by_a_scan():
    gen(lambda: lax.scan(lambda c, _: (normal(c, 1.0), None), 0.0, None, 2)).simulate(KEY)  # <-


@bad(AddressError, "'normal'", ".sample()", '@ "')
def anonymous_choice_in_a_trace():
    gen(lambda: normal(0.0, 1.0).sample()).simulate(KEY)  # <-


# --- Strategies --------------------------------------------------------------------------------------------------

MISSING = ("'bernoulli'", "enum()", "reinforce()")


@bad(StrategyError, *MISSING)
def discrete_choice_under_ppl_grad():
    ppl.grad(lambda p: bernoulli(p).sample() * 2.0)(KEY, 0.3)  # <-


@bad(StrategyError, *MISSING, through_jax=True)
def discrete_choice_under_jax_grad():
    jax.grad(ppl.expect(lambda p: bernoulli(p).sample() * 2.0), argnums=1)(KEY, 0.3)  # <-


@bad(StrategyError, *MISSING, "ppl.expect", through_jax=True)
def discrete_choice_under_seed():
    jax.grad(ppl.seed(lambda p: bernoulli(p).sample() * 2.0), argnums=1)(KEY, 0.3)  # <-


@bad(StrategyError, "'normal'", "ppl.expect", through_jax=True)
def score_function_choice_under_seed():
    jax.grad(ppl.seed(lambda p: normal(p, grad=reinforce()).sample()), argnums=1)(KEY, 0.3)  # <-


@bad(StrategyError, *MISSING, through_jax=True)
def discrete_choice_compiled_and_then_differentiated():
    jax.grad(jax.jit(ppl.expect(lambda p: bernoulli(p).sample() * 2.0)), argnums=1)(KEY, 0.3)  # <-


@bad(StrategyError, *MISSING)
def discrete_choice_in_a_scan():
    step = lambda p: lambda c, _: (c + bernoulli(p).sample(), None)  # <-
    ppl.grad(lambda p: lax.scan(step(p), 0.0, None, 2)[0])(KEY, 0.3)


@bad(StrategyError, *MISSING)
def discrete_choice_in_jit():
    ppl.grad(jax.jit(lambda p: bernoulli(p).sample() * 2.0))(KEY, 0.3)  # <-


@bad(StrategyError, *MISSING)
def discrete_choice_under_vmap():
    ppl.grad(lambda p: jax.vmap(lambda q: bernoulli(q).sample() * 2.0)(p * jnp.ones(2)).sum())(KEY, 0.3)  # <-


@bad(StrategyError, *MISSING)
def discrete_choice_in_a_checkpoint():
    ppl.grad(jax.checkpoint(lambda p: bernoulli(p).sample() * 2.0))(KEY, 0.3)  # <-


@bad(StrategyError, *MISSING)
def discrete_choice_in_a_branch():
    ppl.grad(lambda p: lax.cond(p > 0.2, lambda p: bernoulli(p).sample() * 2.0, lambda p: p, p))(KEY, 0.3)  # <-


@bad(StrategyError, "'a/side'", *MISSING[1:])
def discrete_choice_in_a_call():
    inner = gen(lambda p: bernoulli(p) @ "side")  # <-
    ppl.grad(lambda p: (inner(p) @ "a") * 2.0)(KEY, 0.3)


@bad(StrategyError, "`enum`", "`normal`", "pathwise()", "reinforce()")
def enumeration_of_a_line():
    normal(0.0, 1.0, grad=enum())  # <-


@bad(StrategyError, "`enum`", "`poisson`")
def enumeration_of_all_counts():
    poisson(1.0, grad=enum)  # <-


@bad(StrategyError, "`pathwise`", "`bernoulli`", "enum()")
def pathwise_of_a_coin():
    bernoulli(0.3, grad=pathwise())  # <-


@bad(StrategyError, "'enum'", "reinforce()")
def strategy_as_a_string():
    bernoulli(0.3, grad="enum")  # <-


@bad(StrategyError, "'bernoulli'", "65536", "reinforce()")
def too_many_joint_values_of_one_choice():
    ppl.expect(lambda: bernoulli(0.3 * jnp.ones(17), grad=enum()).sample().prod() * 1.0)(KEY)  # <-


@bad(StrategyError, "17 enumerated choices", "65536")
def too_many_joint_values_of_one_cost():
    coins = lambda: [bernoulli(0.3, grad=enum()).sample() for _ in range(17)]  # <-
    ppl.expect(lambda: jnp.prod(jnp.stack(coins())) * 1.0)(KEY)


@bad(StrategyError, "'bernoulli'", "reinforce()")
def too_many_histories_in_a_scan():
    step = lambda c, _: (c * bernoulli(0.3, grad=enum()).sample(), None)  # <-
    ppl.expect(lambda: lax.scan(step, 1.0, None, 17)[0])(KEY)


@bad(UnsoundGradientError, "'uniform'", "pathwise()")
def score_function_where_the_support_moves():
    ppl.grad(lambda p: uniform(0.0, p, grad=reinforce()).sample())(KEY, 1.0)  # <-


@bad(StrategyError, "'normal'", "finite")
def exact_gradient_of_continuous_noise():
    ppl.exact_gradient(lambda p: normal(p).sample())(1.0)  # <-


# --- Constructs without meaning ----------------------------------------------------------------------------------


@bad(ControlFlowError, "'z'", "`while`", "static")
def choice_in_an_unbounded_loop():
    gen(lambda: lax.while_loop(lambda c: c < 1, lambda c: c + (normal() @ "z") ** 2, 0.0)).simulate(KEY)  # <-


@bad(ControlFlowError, "'normal'", "`while`")
def choice_in_the_condition_of_a_loop():
    ppl.seed(lambda: lax.while_loop(lambda c: c < normal().sample(), lambda c: c + 1, 0.0))(KEY)  # <-


@bad(ControlFlowError, "'normal'", "`while`", "static bounds")
def choice_in_a_loop_with_traced_bounds():
    total = lambda n: lax.fori_loop(0, n, lambda i, c: c + normal().sample(), 0.0)  # <-
    ppl.expect(total)(KEY, jnp.asarray(3))


@bad(ControlFlowError, "'normal'", "custom_vjp", "outside")
def choice_in_a_custom_vjp():
    noisy = jax.custom_vjp(lambda x: x * normal().sample())  # <-
    noisy.defvjp(lambda x: (noisy(x), x), lambda x, g: (g,))
    ppl.seed(noisy)(KEY, 1.0)


@bad(ControlFlowError, "'normal'", "custom_jvp", "outside")
def choice_in_a_custom_jvp():
    noisy = jax.custom_jvp(lambda x: x * normal().sample())  # <-
    noisy.defjvp(lambda primals, tangents: (noisy(*primals), tangents[0]))
    ppl.grad(noisy)(KEY, 1.0)


DERIVATIVES = {
    "grad": jax.grad,
    "jvp": lambda f: lambda p: jax.jvp(f, (p,), (1.0,))[1],
    "linearize": lambda f: lambda p: jax.linearize(f, p)[0],
    "vjp": lambda f: lambda p: jax.vjp(f, p)[1](1.0)[0],
}
AROUND = {
    "plain": lambda f: f,
    "jit": jax.jit,
    "checkpoint": jax.checkpoint,
    "scan": lambda f: lambda p: lax.scan(lambda c, _: (c + f(p), None), 0.0, None, 2)[0],
    "cond": lambda f: lambda p: lax.cond(p > 0.2, f, lambda q: q, p),
    "call": lambda f: lambda p: gen(lambda q: normal(q) @ "normal")(p) @ "a",
}


def add_derivative_inside(derivative, around):
    def case():
        noisy = lambda p: normal(p, 1.0).sample() ** 2
        ppl.seed(DERIVATIVES[derivative](AROUND[around](noisy)))(KEY, 0.3)

    case.__name__ = f"{derivative}_inside_around_{around}"
    error = StrategyError if around == "plain" else ControlFlowError
    bad(error, "derivative", "a" if around == "call" else "'normal'", __file__, "ppl.grad")(case)


for _derivative in DERIVATIVES:
    for _around in AROUND:
        add_derivative_inside(_derivative, _around)


# --- Values ------------------------------------------------------------------------------------------------------


@bad(SupportError, '"side"', "0.5", "integers")
def fraction_under_a_discrete_choice():
    flip = gen(lambda: bernoulli(0.3) @ "side")  # <-
    flip.log_density({"side": 0.5})


@bad(
    SupportError,
    '"side"',
    "nan",
)
def nan_under_a_discrete_choice():
    flip = gen(lambda: bernoulli(0.3) @ "side")  # <-
    flip.generate(KEY, {"side": np.nan})


@bad(PPLError, "`toss_as_integer`", "int32", "float")
def expectation_of_an_integer():
    def toss_as_integer():
        return bernoulli(0.3).sample()

    ppl.expect(toss_as_integer)(KEY)


@bad(PPLError, "bool")
def expectation_of_a_boolean():
    ppl.expect(lambda: normal().sample() > 0)(KEY)


@bad(PPLError, "key<fry>")
def expectation_of_a_key():
    ppl.expect(lambda key: key)(KEY, KEY)


@bad(PPLError, "None")
def expectation_of_nothing():
    ppl.expect(lambda: None)(KEY)


@bad(PPLError, "pair", "(value, aux)")
def has_aux_without_a_pair():
    ppl.grad(lambda p: normal(p).sample(), has_aux=True)(KEY, 0.3)


@bad(PPLError, "has_aux=True")
def aux_without_has_aux():
    ppl.grad(lambda p: (normal(p).sample(), "aux"))(KEY, 0.3)


@bad(PPLError, "no argument 1")
def argument_that_is_not_there():
    ppl.grad(lambda p: normal(p).sample(), argnums=1)(KEY, 0.3)  # <-


@bad(PPLError, "probs, logits", "`bernoulli`")
def both_alternatives():
    bernoulli(0.3, logits=0.1)  # <-


@bad(PPLError, "none of them", "`categorical`")
def neither_alternative():
    categorical()  # <-


@bad(PPLError, "`probs`", "shape ()")
def scalar_probabilities():
    categorical(0.3)  # <-


@bad(PPLError, "loc (3,)", "scale (2,)")
def parameters_that_do_not_broadcast():
    normal(jnp.zeros(3), jnp.ones(2))  # <-


@bad(PPLError, "loc (3,)", "(2, 2)")
def parameters_of_different_events():
    multivariate_normal(jnp.zeros(3), jnp.eye(2))  # <-


@bad(PPLError, "(3, 2)")
def covariance_that_is_not_square():
    multivariate_normal(jnp.zeros(3), jnp.ones((3, 2)))  # <-


@bad(PPLError, "`normal`", "loc")
def parameter_that_is_no_number():
    normal("zero", 1.0)  # <-


@bad(PPLError, "`gamma`", "concentration")
def missing_parameter():
    gamma()  # <-


# --- Generative functions and functions --------------------------------------------------------------------------


@bad(PPLError, "`simulate`", "@gen")
def simulate_of_a_function():
    ppl.simulate(toss)  # <-


@bad(PPLError, "`assess`", "@gen")
def assess_of_a_function():
    ppl.assess(toss)  # <-


@bad(PPLError, "`generate`", "@gen")
def generate_of_a_call():
    ppl.generate(model())  # <-


@bad(PPLError, "`gen`", "@gen")
def gen_of_a_number():
    gen(3)  # <-


@bad(PPLError, "`expect`", "function")
def expectation_of_a_call():
    ppl.expect(model())  # <-


@bad(PPLError, "`seed`", "function")
def seed_of_a_number():
    ppl.seed(3)  # <-


@bad(PPLError, "`elbo`", "@gen")
def elbo_of_a_function():
    elbo(lambda params: 0.0, model)  # <-


# --- Objectives --------------------------------------------------------------------------------------------------


@gen
def guide(params, observed):
    normal(params, 1.0) @ "latent"


@bad(PPLError, "`iwelbo`", "got: 0")
def no_particles():
    iwelbo(model, guide, particles=0)  # <-


@bad(PPLError, "`iwelbo`", "2.5")
def fractional_particles():
    iwelbo(model, guide, particles=2.5)  # <-


@bad(AddressError, '"latent"', '"latent", "seen"', '"latnet", "seen"', 'did you mean "latent"')
def guide_that_misses_an_address():
    joint = gen(lambda params: normal(normal() @ "latent") @ "seen")  # <-
    other = gen(lambda params, observed: normal(params) @ "latnet")
    ppl.expect(elbo(joint, other))(KEY, 0.3, {"seen": 1.0})


@bad(AddressError, '"extra"', '"latent", "seen"', '"latent", "extra", "seen"')
def guide_with_an_extra_address():
    wide = gen(lambda params, observed: (normal(params) @ "latent", normal() @ "extra"))
    ppl.expect(elbo(model, wide))(KEY, 0.3, {"seen": 1.0})


@bad(AddressError, '"seen"', "once")
def guide_that_makes_an_observed_choice():
    overlapping = gen(lambda params, observed: (normal(params) @ "latent", normal() @ "seen"))
    ppl.expect(elbo(model, overlapping))(KEY, 0.3, {"seen": 1.0})


# --- Captured keys -----------------------------------------------------------------------------------------------

CAPTURED = ("constant PRNG key", "argument")


@bad(PPLError, *CAPTURED)
def captured_key():
    ppl.seed(lambda: jr.normal(KEY))(KEY)  # <-


@bad(PPLError, *CAPTURED)
def key_made_inside():
    ppl.seed(lambda: jr.normal(jr.key(0)))(KEY)  # <-


@bad(PPLError, *CAPTURED)
def captured_old_style_key():
    ppl.expect(lambda: jr.normal(OLD_KEY))(KEY)  # <-


@bad(PPLError, *CAPTURED)
def captured_key_in_a_generative_call():
    inner = gen(lambda: jr.normal(KEY) + (normal() @ "z"))  # <-
    gen(lambda: inner() @ "a").log_density({"a": {"z": 0.0}})


# --- Values ------------------------------------------------------------------------------------------------------


@bad(SupportError, "complex", "imaginary part")
def complex_value_under_a_real_choice():
    real = gen(lambda: normal(0.0, 1.0) @ "z")  # <-
    real.log_density({"z": 1.0 + 2.0j})


@bad(PPLError, "no value to choose from", "at least one category")
def categorical_without_categories():
    gen(lambda: categorical(jnp.zeros(0)) @ "k").simulate(KEY)  # <-


# --- The battery -------------------------------------------------------------------------------------------------


def frames(error: BaseException) -> list[str]:
    """Return the frames of a traceback that are not the user's: all but those of this file and of `estimators`."""
    listed = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in listed if frame.filename != __file__ and "/estimators/" not in frame.filename]
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in own]


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=str(case), marks=pytest.mark.xfail(reason=case.bug, strict=True) if case.bug else ())
        for case in CASES
    ],
)
def test_bad_input_is_refused(case):
    with pytest.raises(PPLError) as caught:
        case.run()
    error, text = caught.value, str(caught.value)
    assert type(error) is case.error
    assert [part for part in case.says if part not in text] == [], text
    assert case.line() is None or re.search(rf"{re.escape(case.line())}(?!\d)", text), f"{case.line()}\n{text}"
    assert error.details.get("remedy"), text
    assert [frame for frame in frames(error) if not (case.through_jax and frame.endswith(" guarded"))] == []
    assert error.__suppress_context__ or error.__context__ is None
    assert case.through_jax or not (error.__cause__ or getattr(error, "__notes__", None))


@pytest.mark.parametrize("run", [slash_in_an_address, seed_without_key, missing_address], ids=lambda run: run.__name__)
def test_not_even_the_guard_shows_in_a_traceback(run):
    with pytest.raises(PPLError) as caught:
        run()
    assert frames(caught.value) == []


def test_the_table_is_large_and_its_names_are_unique():
    assert len({str(case) for case in CASES}) == len(CASES) >= 25


@pytest.mark.parametrize("error", [AddressError, ControlFlowError, StrategyError, SupportError, UnsoundGradientError])
def test_errors_are_also_pythons(error):
    assert issubclass(error, PPLError)
    assert issubclass(error, KeyError if error is AddressError else ValueError)
    assert str(error("what", where="here", remedy="do")) == "what\n  where: here\n  remedy: do"


# --- What must not be refused ------------------------------------------------------------------------------------

VALUE_ONLY = {
    "plain": toss,
    "jit": jax.jit(toss),
    "checkpoint": jax.checkpoint(toss),
    "vmap": lambda p: jax.vmap(toss)(p * jnp.ones(2)).sum(),
    "scan": lambda p: lax.scan(lambda c, _: (c + toss(p), None), 0.0, None, 2)[0],
    "cond": lambda p: lax.cond(p > 0.2, toss, lambda q: q, p),
    "call": lambda p: (coin(p) @ "a") * 2.0,
}


@pytest.mark.parametrize("name", VALUE_ONLY)
def test_values_of_discrete_choices_need_no_strategy(name):
    for run in (ppl.expect(VALUE_ONLY[name]), ppl.seed(VALUE_ONLY[name])):
        assert jnp.isfinite(run(KEY, 0.3))
        tangent = jax.jvp(lambda x, run=run: run(KEY, 0.3) * x, (2.0,), (1.0,))[1]
        assert jnp.isfinite(tangent)  # a derivative that does not meet the choice


@pytest.mark.parametrize("side", [True, 1, 1.0, np.True_, np.uint8(1), np.float32(1), np.array(1), Masked(1, True)])
def test_discrete_choices_take_any_integral_value(side):
    assert coin.log_density({"side": side}) == coin.log_density({"side": 1})


def test_a_traced_fraction_has_density_zero():
    density = jax.jit(lambda side: coin.log_density({"side": side}))
    assert density(0.5) == -jnp.inf
    np.testing.assert_allclose(density(1.0), np.log(0.3), rtol=1e-6)
    assert coin.log_density({"side": 2}) == -jnp.inf
