"""`explain` and `gradient_variance`: what they say of small programs, beside what is known of these in other ways."""

import math
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax import lax

import ppl
from estimators import constant, elbo, leave_one_out, leave_one_out_lanes, mvd
from ppl import bernoulli, categorical, enum, explain, gen, gradient_variance, normal, pathwise, poisson, reinforce
from ppl.reports.grouping import grouped, pattern, span
from ppl.reports.tables import WIDTH, as_text

HERE = Path(__file__).name


def charges(term):
    return [(charge.address, charge.how, charge.by) for charge in term.charges]


def only(items):
    (item,) = items
    return item


# --- Choices and terms -------------------------------------------------------------------------------------------


@gen
def model(params):
    flip = bernoulli(0.3) @ "flip"
    normal(jnp.exp(2.0 * flip), 1.0) @ "x"


@gen
def guide(params, observed):
    bernoulli(logits=params, grad=reinforce()) @ "flip"


def test_an_elbo_of_one_coin_is_one_term():
    report = explain(elbo(model, guide))(0.5, {"x": 1.0})
    row, term = only(report.choices), only(report.terms)
    assert (row.address, row.distribution, row.shape, row.axes) == ("flip", "bernoulli(logits)", (), ())
    assert (row.strategy, row.handling, row.evaluations, row.unbiased) == (
        "reinforce",
        "charged with its score",
        0,
        True,
    )
    assert term.what == 'log p("flip") + log p("x") - log p("flip")'
    assert charges(term) == [("flip", "", "score")]
    assert report.ok
    assert report.summary == "1 choice (1 reinforce); 1 cost term; no problems"


def test_the_line_of_a_term_is_that_of_the_users_model():
    marked = next(
        i for i, line in enumerate(Path(__file__).read_text().splitlines(), 1) if line.endswith("# this line")
    )

    @gen
    def cubed(params):
        z = normal(0.0, 1.0) @ "z"
        return z**3  # this line

    def objective(params, observed):
        z, w = (normal(params, 1.0, grad=reinforce()).sample() for _ in range(2))
        return ppl.assess(cubed)({"z": z}, params)[1] - w**2

    cube, square = explain(objective)(0.5, {}).terms
    assert (cube.what, square.what) == ("`power`", "- `power`")
    assert Path(cube.source).name == f"{HERE}:{marked}"
    assert cube.source != square.source


def test_lanes_are_said_as_lanes():
    def plate(p):
        x = jax.vmap(lambda _: normal(p, 1.0, grad=reinforce()).sample())(jnp.arange(100))
        return jnp.sum(x**2) + jnp.sum(jnp.cumsum(x) ** 2) + x.sum() ** 2 + jnp.exp(p)

    report = explain(plate)(0.3)
    assert only(report.choices).axes == ("100 lanes",)
    assert [(term.shape, charges(term)) for term in report.terms] == [
        ((100,), [("normal", "lane by lane", "score")]),
        ((100,), [("normal", "up to this lane", "score")]),
        ((), [("normal", "all lanes", "score")]),
        ((), []),
    ]
    assert "not charged: no randomness in it" in str(report)


def test_a_batch_is_lanes_too():
    report = explain(lambda p: (bernoulli(p * jnp.ones((2, 3)), grad=enum()).sample() - 0.4).sum())(0.3)
    row, term = only(report.choices), only(report.terms)
    assert (row.shape, row.axes) == ((2, 3), ("batch of 2 x 3",))
    assert row.handling == "summed over 2 values lane by lane"
    assert charges(term) == [("bernoulli", "lane by lane", "enumerate")]
    assert report.evaluations == term.evaluations == 12


def walk(length, reverse=False):
    def program(p):
        def step(carry, _):
            x, total = carry
            x = x + normal(p, 1.0, grad=reinforce()).sample()
            y = normal(p, 1.0, grad=reinforce()).sample()
            return (x, total + jnp.exp(-x)), y**2

        (x, total), ys = lax.scan(step, (0.0, 0.0), None, length, reverse=reverse)
        return total - ys.sum() + x**2

    return program


def test_steps_of_a_scan():
    report = explain(walk(50))(0.3)
    assert [row.axes for row in report.choices] == [("T = 50 steps",)] * 2
    assert [(term.what, term.steps, charges(term)) for term in report.terms] == [
        ("`exp`", (50,), [("normal", "steps up to this one", "score")]),
        ("- `power`", (50,), [("normal", "this step only", "score")]),
        ("`power`", (), [("normal", "all steps", "score")]),
    ]


def test_a_model_that_is_a_scan_is_charged_with_the_steps_of_its_guide():
    def transition(params):
        def step(z, _):
            z = normal(params * z, 1.0) @ "z"
            normal(z, 0.5) @ "x"
            return z, None

        lax.scan(step, 0.0, None, 6)

    def proposal(params, observed):
        lax.scan(lambda z, x: (normal(params * z + x, 1.0, grad=reinforce()) @ "z", None), 0.0, observed["x"])

    own, joint = explain(elbo(gen(transition), gen(proposal)))(0.3, {"x": jnp.ones(6)}).terms
    assert (own.what, own.steps, charges(own)) == ('- log p("z")', (6,), [("z", "steps up to this one", "score")])
    assert joint.what in ('`scan` of log p("z"), log p("x")', '`scan` of log p("x"), log p("z")')
    assert (joint.shape, charges(joint)) == ((6,), [("z", "steps up to this one", "score")])


def test_steps_of_a_reverse_scan():
    first = explain(walk(5, reverse=True))(0.3).terms[0]
    assert charges(first) == [("normal", "steps from this one on", "score")]


def test_a_scan_with_lanes_says_both():
    def program(p):
        def step(total, _):
            x = jax.vmap(lambda i: normal(p * i, 1.0, grad=reinforce()).sample())(jnp.arange(3.0))
            return total + jnp.sum(x**2), None

        return lax.scan(step, 0.0, None, 4)[0]

    report = explain(program)(0.3)
    assert only(report.choices).axes == ("T = 4 steps", "3 lanes")
    assert charges(only(report.terms)) == [("normal", "lane by lane, this step only", "score")]


def test_nested_calls_have_full_paths_and_pathwise_choices_are_not_charged():
    @gen
    def inner(p):
        return normal(p, 1.0) @ "z"

    def outer(p):
        trace = ppl.simulate(gen(lambda p: inner(p) @ "deep"))(p)
        return trace["deep", "z"] ** 2 - trace.log_density

    report = explain(outer)(0.5)
    assert only(report.choices).address == "deep/z"
    assert only(report.choices).handling == "reparameterised"
    term = only(report.terms)
    assert (term.what, term.charges, term.through) == ('`power` - log p("deep/z")', (), ("deep/z",))
    assert "not charged: through deep/z" in str(report)


def test_fourteen_coins_take_28_evaluations():
    report = explain(lambda p: sum((bernoulli(p, grad=enum()).sample() - 0.1 * i) ** 2 for i in range(14)))(0.3)
    assert report.evaluations == 28
    assert (len(report.choices), len(report.terms)) == (14, 14)
    assert "14 choices (14 enum); 14 cost terms; 28 evaluations" in report.summary
    assert len(str(report).splitlines()) == 8


def test_joint_enumeration_counts_states():
    report = explain(lambda p: bernoulli(p * jnp.ones(5), grad=enum()).sample().sum() ** 2.0)(0.3)
    assert only(report.choices).handling == ("summed jointly over 32 states, its lanes one by one until they are mixed")
    assert report.evaluations == 32
    assert charges(only(report.terms)) == [("bernoulli", "all lanes", "enumerate")]


def chain(p):
    def step(carry, y):
        z, total = carry
        z = categorical(jnp.array([[p, 0.5, 0.5 - p]] * 3)[z], grad=enum()).sample()
        return (z, total + (z - y) ** 2), None

    return lax.scan(step, (0, 0.0), jnp.arange(20.0))[0][1]


def test_a_chain_is_summed_by_messages():
    report = explain(chain)(0.2)
    assert only(report.choices).handling == "summed over 3 values, by messages along a chain"
    assert report.evaluations == 20 * 3 * 3
    assert report.ok


def counted(length):
    def program(p):
        step = lambda x, _: (x + 1.0 * bernoulli(p, grad=enum()).sample(), None)
        return lax.scan(step, 0.0, None, length)[0] ** 2

    return program


def test_a_scan_that_is_written_out_says_its_histories():
    report = explain(counted(5))(0.3)
    assert only(report.choices).handling == "summed over 2 values; its scan is written out: 32 histories"
    assert report.evaluations == 32
    assert report.ok


def test_baselines_and_direct_strategies():
    ones = jnp.ones(3)

    def program(p):
        a = bernoulli(p * ones, grad=reinforce(leave_one_out_lanes())).sample()
        b = bernoulli(p, grad=reinforce(constant(2.0))).sample()
        c = poisson(p, grad=mvd()).sample()
        d = bernoulli(p * ones, grad=leave_one_out(4)).sample()
        e = bernoulli(p, grad=mvd()).sample()
        return a.sum() * 1.0 + b + c**2.0 + d.sum() ** 2.0 + 3.0 * e

    report = explain(program)(0.3)
    assert [row.baseline for row in report.choices[:3]] == ["leave_one_out_lanes()", "constant(value=2.0)", None]
    assert [row.evaluations for row in report.choices] == [0, 0, 2, 12, 2]
    assert report.choices[0].handling == "charged with its score, less a baseline from one more reverse pass"
    assert [charge.by for term in report.terms for charge in term.charges] == ["score"] * 2 + ["direct"] * 3
    assert "16 further runs of the program" in report.summary


def test_choices_in_branches():
    def program(p):
        taken = bernoulli(p, grad=enum()).sample()
        draw = lambda strategy, scale: lambda: normal(p, scale, grad=strategy).sample()
        return lax.cond(taken == 1, draw(pathwise(), 1.0), draw(reinforce(), 2.0)) ** 2

    report = explain(program)(0.3)
    assert sorted(row.axes for row in report.choices) == [(), ("in branch 1 of 2",), ("in branch 2 of 2",)]
    found = charges(only(report.terms))
    assert found == [("bernoulli", "", "enumerate"), ("normal", "", "score")]
    assert only(report.terms).states == 2


# --- Problems ----------------------------------------------------------------------------------------------------


def test_all_refused_derivatives_are_listed_and_none_is_raised():
    def program(p):
        a = bernoulli(p).sample()
        b = ppl.uniform(0.0, p, grad=reinforce()).sample()
        return a + b**2

    report = explain(program)(0.3)
    assert not report.ok
    assert [text.splitlines()[0] for text in report.problems] == [
        "A derivative reaches the parameters of bernoulli 'bernoulli', which has no strategy.",
        "The support of uniform 'uniform' moves with its parameters, which a score function cannot see.",
    ]
    assert f"{HERE}:" in report.problems[0]
    assert [term.left_out for term in report.terms] == [(), ("bernoulli",)]
    assert "not charged: no strategy: bernoulli" in str(report)
    with pytest.raises(ppl.StrategyError):  # Collecting errors is over when the report is made.
        ppl.grad(program)(jr.key(0), 0.3)


def test_a_refusal_in_a_scan_is_found_once_and_still_raised_afterwards():
    def program(p):
        def step(total, _):
            return total + bernoulli(p).sample() * 1.0, None

        return lax.scan(step, 0.0, None, 3)[0]

    for _ in range(2):
        assert "has no strategy" in only(explain(program)(0.3).problems)
        with pytest.raises(ppl.StrategyError, match="has no strategy"):
            ppl.grad(program)(jr.key(0), 0.3)


def test_a_choice_that_no_derivative_reaches_is_no_problem():
    assert explain(lambda p: p * bernoulli(0.3).sample())(0.5).ok
    assert explain(lambda p, q: p * bernoulli(q).sample())(0.5, 0.3).ok
    assert not explain(lambda p, q: p * bernoulli(q).sample(), argnums=1)(0.5, 0.3).ok


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (counted(50), "reaches later steps of its scan"),
        (lambda p: bernoulli(p * jnp.ones(30), grad=enum()).sample().sum() ** 2.0, "too many joint values"),
        (lambda p: lax.while_loop(lambda x: x < 1, lambda x: x + normal(p, 1.0).sample(), 0.0), "inside `while`"),
        (lambda p: bernoulli(p, grad=enum()).sample(), "no expectation with a derivative"),
    ],
)
def test_what_expect_refuses_is_a_problem(program, words):
    report = explain(program)(0.3)
    assert words in only(report.problems)
    assert words in str(report)
    assert report.summary.endswith("1 problem")
    with pytest.raises(ppl.PPLError, match=words):
        ppl.grad(program)(jr.key(0), 0.3)


def test_biased_strategies_show():
    class guess(pathwise):  # noqa: N801
        unbiased = False

    report = explain(lambda p: normal(p, 1.0, grad=guess()).sample() ** 2)(0.3)
    assert report.biased == ("normal",)
    assert "guess (biased)" in str(report)
    assert "biased by normal" in report.summary


def test_programs_without_arguments_and_with_auxiliary_results():
    report = explain(lambda: normal(0.0, 1.0).sample() ** 2)()
    assert report.ok
    assert "no derivative is looked at" in only(report.notes)
    report = explain(lambda p: (normal(p, 1.0, grad=reinforce()).sample() ** 2, p + 1), has_aux=True)(0.3)
    assert (report.ok, len(report.terms)) == (True, 1)
    assert "does not return a pair" in only(explain(lambda p: normal(p, 1.0).sample(), has_aux=True)(0.3).problems)


# --- Nothing runs ------------------------------------------------------------------------------------------------


def test_explain_does_not_run_the_program():
    def never(x):
        raise AssertionError("this ran")

    def program(p):
        step = lambda total, _: (total + normal(p, 1.0, grad=reinforce()).sample() ** 2, None)
        total = lax.scan(step, 0.0, None, 10**9)[0]
        return total + jax.pure_callback(never, jax.ShapeDtypeStruct((), jnp.result_type(float)), lax.stop_gradient(p))

    started = time.perf_counter()
    report = explain(program)(0.3)
    assert time.perf_counter() - started < 20
    assert only(report.choices).axes == (f"T = {10**9} steps",)
    assert report.terms[0].evaluations == 10**9


# --- Text and HTML -----------------------------------------------------------------------------------------------


def hundred(p):
    @gen
    def body(p):
        return sum((normal(p, 1.0, grad=reinforce()) @ f"z{i}") ** 2 for i in range(100))

    return body.inline(p)


def test_equal_rows_are_grouped():
    report = explain(gen(hundred))(0.3)
    text = str(report)
    assert "z0 ... z99 (100 choices)" in text
    assert "`power` (100 terms)" in text
    assert "z0 ... z99, one each" in text
    together = explain(lambda p: sum(normal(p, 1.0, grad=reinforce()).sample() for _ in range(9)) ** 2)(0.3)
    assert "normal ... normal (9 choices)" in str(together)
    shared = explain(lambda p: (lambda x: sum(jnp.sin(i * x) ** 3 for i in range(9)))(_one(p)))
    text = str(shared(0.3))
    assert "(9 terms)" in text
    assert "one each" not in text
    assert len(text.splitlines()) == 8
    assert len(report.choices) == len(report.terms) == 100


def _one(p):
    return normal(p, 1.0, grad=reinforce()).sample()


def test_grouping_keeps_what_differs_apart():
    assert grouped(["a1", "b", "a2", "a3", "a4"], pattern) == [["a1", "a2", "a3", "a4"], ["b"]]
    assert grouped(["a1", "b", "a2"], pattern) == [["a1"], ["b"], ["a2"]]
    assert span(["z0"]) == "z0"
    assert span(["z0", "z1", "z2"]) == "z0 ... z2"


def test_wide_tables_wrap_between_words():
    words = "word " * 60
    text = as_text(["first", "second", "none"], [[words, words, ""], ["short", "b" * 30, ""]])
    assert max(map(len, text.splitlines())) <= WIDTH
    assert "none" not in text
    assert text.split().count("word") == 120
    assert "b" * 30 in text


def test_html_is_well_formed_and_says_the_same():
    def program(p):
        return bernoulli(p).sample() * 2.0 + (normal(p, 1.0) @ "<a & b>") ** 2

    report = explain(program)(0.3)
    tree = ElementTree.fromstring(report._repr_html_())
    cells = ["".join(cell.itertext()) for cell in tree.iter("td")]
    assert "<a & b>" in cells
    assert "drawn; no derivative may reach its parameters" in cells
    assert any("has no strategy" in "".join(node.itertext()) for node in tree.iter("pre"))
    measured = gradient_variance(lambda p: normal(p, 1.0).sample() ** 2)(jr.key(0), 0.3, samples=10)
    cells = ["".join(cell.itertext()) for cell in ElementTree.fromstring(measured._repr_html_()).iter("td")]
    assert cells[:2] == ["normal", "pathwise"]


# --- The variance ------------------------------------------------------------------------------------------------

P = jnp.array([0.3, 0.6])


@gen
def two(p):
    a = bernoulli(p[0], grad=reinforce()) @ "a"
    b = bernoulli(p[1], grad=reinforce()) @ "b"
    return (a + 2.0 * b - 0.45) ** 2 + jnp.exp(b)


def two_by_hand(outcome):
    """The gradient of one run, for values of the coins; exp(b) is not charged to a."""
    (a, b), p = outcome, np.asarray(P)
    joint = (a + 2 * b - 0.45) ** 2
    return np.array(
        [joint * (a - p[0]) / (p[0] * (1 - p[0])), (joint + math.exp(b)) * (b - p[1]) / (p[1] * (1 - p[1]))]
    )


def anova(gradient, probs):
    """Return the variance and, of each of two coins, total and own share: by summing over all outcomes."""
    grid = np.array([[gradient((a, b)) for b in (0, 1)] for a in (0, 1)])
    weights = [np.array([1 - q, q]) for q in probs]
    mean = np.einsum("a,b,abi->i", *weights, grid)
    total = np.einsum("a,b,ab->", *weights, ((grid - mean) ** 2).sum(-1))
    given_a, given_b = np.einsum("b,abi->ai", weights[1], grid), np.einsum("a,abi->bi", weights[0], grid)
    of_a = weights[0] @ ((given_a - mean) ** 2).sum(-1) / total
    of_b = weights[1] @ ((given_b - mean) ** 2).sum(-1) / total
    return total, [(1 - of_b, of_a), (1 - of_a, of_b)]


def close(estimate, truth, z_max=4.5):
    return abs(estimate.value - truth) <= z_max * estimate.error + 1e-6 * (1 + abs(truth))


@pytest.fixture(scope="module")
def measured_two():
    extra = {"*": [mvd, leave_one_out(3)], "b": [reinforce(constant(3.0))]}
    return gradient_variance(two, alternatives=extra)(jr.key(1), P, samples=6000)


def test_the_variance_is_the_exact_one(measured_two):
    exact = ppl.exact_gradient(two)(P).variance
    assert close(measured_two.variance, float(exact.sum()))
    assert measured_two.variance.error < 0.03 * float(exact.sum())
    np.testing.assert_allclose(measured_two.elementwise, exact, rtol=0.1)


def test_shares_are_those_of_an_exact_analysis_of_variance(measured_two):
    total, parts = anova(two_by_hand, np.asarray(P))
    np.testing.assert_allclose(total, float(ppl.exact_gradient(two)(P).variance.sum()), rtol=1e-5)
    for row, (all_of_it, own) in zip(measured_two.shares, parts, strict=True):
        assert close(row.total, all_of_it)
        assert close(row.own, own)
        assert all_of_it - own > 5 * (row.total.error + row.own.error)  # The coins interact: the two shares differ.
        assert row.total.error < 0.02


def test_other_strategies_are_those_of_with_grad(measured_two):
    tables = {"enum": enum(), "mvd": mvd(), "reinforce(baseline=constant(value=3.0))": reinforce(constant(3.0))}
    now = float(ppl.exact_gradient(two)(P).variance.sum())
    seen = set()
    for row, other in [(share, other) for share in measured_two.shares for other in share.alternatives]:
        assert other.refused is None
        assert other.doubt is None
        if other.strategy in tables:
            changed = ppl.with_grad(two, {row.address: tables[other.strategy]})
            truth = _exact_variance(changed)
            if truth is not None:
                assert close(other.variance, truth)
                assert close(other.ratio, truth / now)
                seen.add((row.address, other.strategy))
    assert {("a", "enum"), ("b", "enum"), ("b", "reinforce(baseline=constant(value=3.0))")} <= seen


def _exact_variance(program):
    try:
        return float(ppl.exact_gradient(program)(P).variance.sum())
    except ppl.StrategyError:
        return None  # The oracle lists every draw once; a direct strategy draws again.


def test_enumerating_a_choice_takes_its_total_share_away(measured_two):
    for row in measured_two.shares:
        by_enum = next(other for other in row.alternatives if other.strategy == "enum")
        spread = math.hypot(by_enum.ratio.error, row.total.error)
        assert abs(by_enum.ratio.value - (1 - row.total.value)) < 4.5 * spread


def test_shares_of_noises_that_add_up():
    def program(p):
        a, b = bernoulli(p, grad=reinforce()).sample(), bernoulli(p, grad=reinforce()).sample()
        return (a - 0.45) ** 2 + 3 * (b + 1.0) ** 2

    p = 0.4
    score = lambda x: (x - p) / (p * (1 - p))
    spread = lambda cost: (
        sum(q * (cost(x) * score(x)) ** 2 for x, q in ((0, 1 - p), (1, p)))
        - (sum(q * cost(x) * score(x) for x, q in ((0, 1 - p), (1, p))) ** 2)
    )
    parts = np.array([spread(lambda x: (x - 0.45) ** 2), spread(lambda x: 3 * (x + 1) ** 2)])
    report = gradient_variance(program)(jr.key(2), p, samples=6000)
    assert close(report.variance, parts.sum())
    for row, part in zip(report.shares, parts / parts.sum(), strict=True):
        assert close(row.total, part)
        assert close(row.own, part)


def test_choices_without_noise_have_no_share():
    report = gradient_variance(lambda p: bernoulli(p, grad=enum()).sample() * normal(p, 1.0).sample() ** 2)(
        jr.key(0), 0.3, samples=400
    )
    coin, draw = report.shares
    assert (coin.total.value, coin.own.value) == (0, 0)
    assert (draw.total.value, draw.own.value) == pytest.approx((1, 1))


@pytest.mark.parametrize("strategy", [mvd(), leave_one_out(3), reinforce(constant(1.0))], ids=str)
def test_the_noise_of_other_strategies_is_theirs(strategy):
    def program(p):
        x = poisson(p, grad=strategy).sample()
        return x**2.0 + bernoulli(0.5).sample() * p

    count, coin = gradient_variance(program)(jr.key(8), 0.7, samples=3000).shares
    # The coin adds 1 or 0 to the gradient, whatever the other does: its two shares are one.
    assert abs(coin.total.value - coin.own.value) < 4.5 * math.hypot(coin.total.error, coin.own.error)
    assert 0 < coin.total.value < count.total.value
    assert abs(count.total.value + coin.total.value - 1) < 4.5 * math.hypot(count.total.error, coin.total.error)


def test_no_noise_at_all():
    report = gradient_variance(lambda p: bernoulli(p, grad=enum()).sample() * p)(jr.key(0), 0.3, samples=10)
    assert (report.variance.value, report.variance.error) == (0, 0)
    assert only(report.shares[0].alternatives).ratio is None
    assert only(report.shares[0].alternatives).variance.value > 0


def test_scans_lanes_and_elements():
    """Each of 3 x 2 coins is charged with its own cost: the variance is a sum, and one group makes all of it."""

    def program(p):
        def step(total, w):
            b = jax.vmap(lambda i: bernoulli(p[i], grad=reinforce()).sample())(jnp.arange(2))
            return total + w * jnp.sum((b - 0.45) ** 2), None

        return lax.scan(step, 0.0, jnp.array([1.0, 2.0, 3.0]))[0]

    report = gradient_variance(program)(jr.key(3), P, samples=3000)
    exact = ppl.exact_gradient(program)(P).variance
    assert close(report.variance, float(exact.sum()))
    assert report.elementwise.shape == (2,)
    assert only(report.shares).total.value == pytest.approx(1)


def test_a_written_out_scan_keeps_its_groups():
    def program(p):
        step = lambda x, _: (x + bernoulli(p, grad=enum()).sample() * normal(p, 1.0, grad=pathwise()).sample(), None)
        return lax.scan(step, 0.0, None, 3)[0] ** 2

    report = gradient_variance(program)(jr.key(4), 0.3, samples=200)
    assert [row.strategy for row in report.shares] == ["enum", "pathwise"]
    assert report.shares[0].total.value == 0
    assert report.shares[1].own.value == pytest.approx(1)


def test_refusals_are_shown_with_their_reason():
    def program(p):
        a = bernoulli(p, grad=enum()).sample()
        b = bernoulli(0.2 + 0.5 * a, grad=reinforce()).sample()
        return (a + b) ** 2.0 + normal(p, 1.0).sample()

    tried = {"bernoulli": [leave_one_out(3), pathwise()]}
    report = gradient_variance(program, alternatives=tried)(jr.key(5), 0.3, samples=20)
    refused = {other.strategy: other.refused for other in report.shares[1].alternatives}
    assert refused["leave_one_out(samples=3)"] is None
    assert refused["pathwise"] == "a discrete value has no derivative"
    assert refused["enum"] is None
    assert "refused: a discrete value has no derivative" in " ".join(str(report).split())


def test_a_strategy_that_changes_the_mean_is_doubted():
    """The pathwise gradient of a step function is 0; that of the expectation is the density at the step."""

    def program(p):
        return (normal(p, 1.0, grad=reinforce()).sample() > 0).astype(float)

    other = only(only(gradient_variance(program)(jr.key(6), 0.5, samples=4000).shares).alternatives)
    assert other.strategy == "pathwise"
    assert other.refused is not None or "biased here" in other.doubt


def test_a_large_enumeration_is_not_tried():
    def program(p):
        return bernoulli(p * jnp.ones(12), grad=reinforce()).sample().sum() ** 2.0

    other = only(only(gradient_variance(program)(jr.key(7), 0.5, samples=10).shares).alternatives)
    assert other.strategy == "enum"
    assert "joint values" in other.refused


def test_misuse_is_refused():
    cost = lambda p: normal(p, 1.0).sample()
    with pytest.raises(ppl.PPLError, match="needs samples"):
        gradient_variance(cost)(jr.key(0), 0.3, samples=1)
    with pytest.raises(ppl.AddressError):
        gradient_variance(cost, alternatives={"z": [enum()]})(jr.key(0), 0.3)
    with pytest.raises(ppl.PPLError, match="does not return a scalar"):
        gradient_variance(lambda p: normal(p, 1.0).sample() * jnp.ones(2))(jr.key(0), 0.3)
    with pytest.raises(ppl.PPLError, match="PRNG key"):
        gradient_variance(cost)(0.3)


def test_the_same_key_gives_the_same_report():
    reports = [gradient_variance(two)(jr.key(seed), P, samples=50) for seed in (0, 0, 1)]
    values = [report.variance.value for report in reports]
    assert values[0] == values[1] != values[2]
