"""Bad input in everyday use, and how many bad inputs are tested in all: see `test_errors` for those of the language.

Every case is a wrong call. Its error says what is wrong, where, what was expected and got, and what to do; and it comes
before anything of the user's is compiled.
"""

import logging
from collections.abc import Callable

import jax
import jax.numpy as jnp
import jax.random as jr
import pytest
from jax import lax

import ppl
from bench.mistakes import MISTAKES
from estimators import elbo
from ppl import (
    AddressError,
    ControlFlowError,
    Masked,
    PPLError,
    StrategyError,
    SupportError,
    UnsoundGradientError,
    gen,
    guides,
    half_normal,
    multivariate_normal,
    normal,
    poisson,
    uniform,
)
from ppl.guides import onto
from tests import test_errors, test_training

KEY = jr.key(0)


@gen
def model(params, x=1.0):
    z = normal(0.0, 1.0) @ "z"
    s = half_normal(1.0) @ "s"
    normal(z * x, s * jnp.ones(3)) @ "y"


DATA = {"y": jnp.array([0.1, 0.2, 0.3])}


@gen
def guide(params, observed, x=1.0):
    normal(0.0, 1.0) @ "z"
    half_normal(1.0) @ "s"


@gen
def needy(params):
    normal(params["model"]["loc"], 1.0) @ "z"


def of(program, kind="mean_field"):
    """Make a guide of a program without observations."""
    return lambda: getattr(guides, kind)(gen(lambda params: program()), {})


def draws(**options):
    given = {"model": model, "guide": guide, "observed": DATA, "key": KEY, "samples": 2, **options}
    return ppl.predict(
        given["model"], given["guide"], {}, given["observed"], key=given["key"], samples=given["samples"]
    )


def posterior(length=4):
    latents = {"z": jnp.zeros(length), "s": jnp.ones(length)}
    return ppl.Predictions(latents, {"y": jnp.zeros((length, 3))}, {"y": jnp.zeros((length, 3))}, DATA)


def of_a_prior():
    return ppl.Predictions({"z": jnp.zeros(4)}, {"y": jnp.zeros((4, 3))}, None, None)


def sometimes():
    lax.cond(True, lambda: normal() @ "z", lambda: 0.0)


def moving_support():
    uniform(0.0, half_normal(1.0) @ "top") @ "u"


def support_that_a_scan_moves():
    lax.scan(lambda c, _: (uniform(c, c + 1.0) @ "u", None), 0.0, None, length=2)


def pushed(support, base=normal, *shape, **edges):
    """Push a choice onto a support inside a program."""
    return lambda: gen(lambda: onto(support, base(), *shape, **edges) @ "x").simulate(KEY)


def pair():
    return multivariate_normal(jnp.zeros(2), jnp.eye(2))


PARTLY = {"y": Masked(DATA["y"], jnp.array([True, False, True]))}

CASES: dict[str, tuple[Callable, type[PPLError], str]] = {
    # Guides.
    "guide of a function": (lambda: guides.mean_field(lambda params: 0.0, {}), PPLError, "decorate"),
    "guide of a discrete choice": (of(lambda: poisson(3.0) @ "k"), StrategyError, '"k"'),
    "guide of a conditional choice": (of(sometimes), ControlFlowError, '"z"'),
    "guide of a moving support": (of(moving_support), SupportError, '"u"'),
    "guide of a support that a scan moves": (of(support_that_a_scan_moves, "full"), SupportError, '"u"'),
    "guide of a direction": (of(lambda: ppl.projected_normal(jnp.ones(3)) @ "d"), StrategyError, "sphere"),
    "guide of a prior's score": (of(lambda: ppl.score_prior(lambda x: -x, (2,)) @ "d"), StrategyError, "score_prior"),
    "guide of nothing": (lambda: guides.full(model, {**DATA, "z": 0.0, "s": 1.0}), PPLError, "nothing to guess"),
    "guide of partly observed data": (lambda: guides.delta(model, PARTLY), PPLError, "in part"),
    "guide without the model's parameters": (lambda: guides.mean_field(needy, {}), PPLError, "KeyError: 'loc'"),
    "guide without the model's input": (
        lambda: guides.mean_field(gen(lambda params, x: normal(x, 1.0) @ "z"), {}),
        PPLError,
        "0 inputs",
    ),
    "misspelt observation of a guide": (lambda: guides.low_rank(model, {"yy": DATA["y"]}), AddressError, 'mean "y"'),
    "observation of another shape": (lambda: guides.mean_field(model, {"y": jnp.zeros(2)}), AddressError, "(3,)"),
    "scale of 0": (lambda: guides.mean_field(model, DATA, scale=0), PPLError, "positive number"),
    "rank of 0": (lambda: guides.low_rank(model, DATA, rank=0), PPLError, "from 1 to 2"),
    "rank above the number of choices": (lambda: guides.low_rank(model, DATA, rank=3), PPLError, "from 1 to 2"),
    "start that misses a choice": (lambda: guides.full(model, DATA, start={"z": 0.0}), AddressError, '"s" of shape ()'),
    "start of another shape": (
        lambda: guides.full(model, DATA, start={"z": jnp.zeros(2), "s": 1.0}),
        AddressError,
        '"z" of shape (2,)',
    ),
    "unknown support": (pushed("positve"), PPLError, 'mean "positive"'),
    "interval without an edge": (pushed("interval", low=0.0), PPLError, "high="),
    "edge of a support without one": (pushed("positive", low=0.0), PPLError, "leave out"),
    "vector without a shape": (pushed("positive", pair), PPLError, "elementwise"),
    "vector of another length": (pushed("positive", pair, (3,)), PPLError, "length 3"),
    "a simplex of a number": (pushed("simplex"), PPLError, "at least 1 axes"),
    # A guide by hand that does not fit.
    "normal guide of a positive choice": (
        lambda: ppl.grad(elbo(model, gen(lambda p, observed: (normal(p) @ "z", normal(p) @ "s"))))(KEY, 0.1, DATA),
        UnsoundGradientError,
        "half_normal",
    ),
    # Predictions.
    "prediction of a function": (lambda: draws(model=lambda params: 0.0), PPLError, "generative function"),
    "prediction with a function as guide": (lambda: draws(guide=lambda params, observed: 0.0), PPLError, "generative"),
    "prediction with another guide": (lambda: draws(guide=gen(lambda p, o: normal() @ "zz")), AddressError, "rename"),
    "prediction with a guide of data": (
        lambda: draws(guide=gen(lambda p, o: (guide.inline(p, o), normal(jnp.zeros(3)) @ "y"))),
        AddressError,
        '"y"',
    ),
    "prediction of a misspelt observation": (lambda: draws(observed={"yy": DATA["y"]}), AddressError, 'mean "y"'),
    "prediction with an old key": (lambda: draws(key=jr.PRNGKey(0)), PPLError, "jax.random.key"),
    "prediction without draws": (lambda: draws(samples=0), PPLError, "positive int"),
    "prediction with a fraction of draws": (lambda: draws(samples=2.5), PPLError, "2.5"),
    "draws of unequal length": (lambda: draws(guide={"z": jnp.zeros(2), "s": jnp.ones(3)}), PPLError, "leading axis"),
    "draws that miss a choice": (lambda: draws(guide={"z": jnp.zeros(2)}), AddressError, '"s"'),
    "look-up of a misspelt choice": (lambda: posterior()["ss"], AddressError, 'mean "s"'),
}


def needs_arviz(run):
    def case():
        pytest.importorskip("arviz_base")
        run()

    return case


CASES |= {
    "arviz of a dict": (needs_arviz(lambda: ppl.to_arviz({"z": jnp.zeros(3)})), PPLError, "ppl.predict"),
    "arviz of a prior alone": (needs_arviz(lambda: ppl.to_arviz(of_a_prior())), PPLError, "of a prior"),
    "arviz of unequal chains": (needs_arviz(lambda: ppl.to_arviz(posterior(), chains=3)), PPLError, "divisor of 4"),
}


def compiled_names(records) -> set[str]:
    """Return the names of the functions that JAX says it compiled."""
    texts = [record.getMessage() for record in records if "Finished XLA compilation of" in record.getMessage()]
    return {text.split("jit(")[1].split(")")[0] for text in texts if "jit(" in text}


def is_one_operation(name: str) -> bool:
    """Tell whether a compiled function is one operation of JAX on concrete arrays, not a program."""
    return name.startswith("_") or any(hasattr(module, name) for module in (jnp, lax, jr, lax.linalg, jnp.linalg))


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_refused_before_compilation(name, caplog):
    run, kind, says = CASES[name]
    with caplog.at_level(logging.DEBUG, logger="jax"), jax.log_compiles(), pytest.raises(PPLError) as caught:
        run()
    error = caught.value
    assert type(error) is kind, str(error)
    assert says in str(error)
    assert {"where", "expected", "got", "remedy"} <= set(error.details), str(error)
    assert "unknown source" not in str(error)
    assert {compiled for compiled in compiled_names(caplog.records) if not is_one_operation(compiled)} == set()


def test_the_watch_sees_a_compiled_program(caplog):
    with caplog.at_level(logging.DEBUG, logger="jax"), jax.log_compiles():
        jax.jit(lambda a_program: jnp.sin(a_program) + 3.25)(0.5)
    assert not all(map(is_one_operation, compiled_names(caplog.records)))


def test_no_mode_is_found_where_there_is_none():
    with pytest.raises(PPLError, match="no mode") as caught:
        guides.laplace(gen(lambda params: ppl.factor((normal() @ "z") ** 2) @ "f"), {})
    assert {"where", "expected", "got", "remedy"} <= set(caught.value.details)


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
def test_the_mistakes_of_the_bench_are_errors_here(mistake):
    ours, _ = mistake()
    with pytest.raises(PPLError) as caught:
        ours()
    assert {"where", "expected", "got", "remedy"} <= set(caught.value.details)


def marked(test) -> int:
    """Count the cases of a parametrised test."""
    return sum(len(mark.args[1]) for mark in test.pytestmark if mark.name == "parametrize")


def test_how_many_bad_inputs_are_tested():
    """60 were asked for; the language alone has more."""
    counts = {
        "language": len(test_errors.CASES),
        "training": marked(test_training.test_bad_arguments_are_refused_at_once)
        + marked(test_training.test_a_bad_result_of_f_is_refused),
        "everyday use": len(CASES) + 1,
        "beside NumPyro": len(MISTAKES),
    }
    print(counts, sum(counts.values()))
    assert counts["everyday use"] >= 35
    assert sum(counts.values()) >= 180
