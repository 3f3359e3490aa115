"""The support matrix as data: which cells refuse, with which error, and why they must; and as Markdown."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import ppl
from tests import quadrature
from tests.support.checks import is_exact
from tests.support.constructs import CONSTRUCTS, Construct
from tests.support.more_ways import BIASED_WAYS, MORE_WAYS
from tests.support.ways import WAYS, Way


@dataclasses.dataclass(frozen=True)
class Why:
    """Why cells refuse.

    Attributes:
        mark: The footnote.
        error: What they raise.
        text: The reason, with places for the two numbers.
        numbers: Computes what the refused estimator would give and the truth; None where there is nothing to compute.
    """

    mark: str
    error: type[ppl.PPLError]
    text: str
    numbers: Callable[[], tuple[float, float]] | None = None

    def __str__(self) -> str:
        return self.text if self.numbers is None else self.text.format(*map(_rounded, self.numbers()))


def _rounded(number: float) -> str:
    return f"{abs(number) if abs(number) < 5e-5 else number:.4f}"


def over_a_jump() -> tuple[float, float]:
    """Return the means of the pathwise gradient of 1(z > 1/2), z ~ normal(0.37, 1), and of the true one."""
    true, pathwise = quadrature.gradients(lambda z: (z > 0.5) * 1.0 + 0.0 * z, 0.37)
    return pathwise, true


def over_a_moving_edge(theta: float = 0.45) -> tuple[float, float]:
    """Return the mean of the score-function gradient of x**2, x ~ uniform(0, theta), and the true one."""
    nodes, weights = np.polynomial.legendre.leggauss(4)
    x, weights = theta * (1 + nodes) / 2, weights / 2
    score = jax.grad(lambda high: -jnp.log(high))(theta)
    return float(weights @ (x**2 * float(score))), float(
        jax.grad(lambda high: weights @ (high * x / theta) ** 2)(theta)
    )


def lanes_that_share(p: float = 0.45) -> tuple[float, float]:
    """Return the mean of the lanes' estimator of (x + y)**2, two coins of probability p, and the true gradient."""
    prob = lambda x, p: p if x else 1 - p
    score = lambda x: (x - p) / (p * (1 - p))
    wrong = true = 0.0
    for x in (0, 1):
        for y in (0, 1):
            own = other = (x + y) ** 2.0  # The cost charged to one lane is that charged to the other.
            wrong += prob(x, p) * prob(y, p) * ((own - other) * score(x) + (other - own) * score(y))
            true += prob(x, p) * prob(y, p) * (x + y) ** 2 * (score(x) + score(y))
    return wrong, true


def first_order_only(p: float = 0.45) -> tuple[float, float]:
    """Return the mean second derivative of `estimate` for x * y, two coins of probability p, and the true one."""
    prob = lambda x, p: p if x else 1 - p
    outcomes = [(x, y) for x in (0, 1) for y in (0, 1)]
    given = lambda p, x, y: p * (y - 0.0) + p * (x - 0.0)  # p (k(1) - k(0)) for either; the costs have no tangents.
    second = lambda x, y: jax.grad(jax.grad(given))(p, float(x), float(y))
    wrong = sum(prob(x, p) * prob(y, p) * float(second(x, y)) for x, y in outcomes)
    true = jax.hessian(lambda p: sum(prob(x, p) * prob(y, p) * x * y for x, y in outcomes))(p)
    return wrong, float(true)


JUMP = Why(
    "jump",
    ppl.UnsoundGradientError,
    "The derivative of a sampled cost does not see a jump. For 1(z > 1/2), z ~ normal(0.37, 1), the pathwise gradient "
    "has mean {}, the true gradient is {} (quadrature).",
    over_a_jump,
)
EDGE = Why(
    "edge",
    ppl.UnsoundGradientError,
    "A score does not see the support move. For x**2, x ~ uniform(0, theta), E[x**2 d log p] = -theta/3, the true "
    "gradient is 2 theta/3; at theta = 0.45 that is {} against {} (quadrature).",
    over_a_moving_edge,
)
EDGE_AT_ONCE = dataclasses.replace(EDGE, mark="edge, at the choice", error=ppl.StrategyError)
LANES = Why(
    "shared",
    ppl.StrategyError,
    "The cost of another lane is no baseline where lanes share costs, as it depends on this lane's value. For "
    "(x + y)**2, two lanes of coins with p = 0.45, the estimator has mean {}, the true gradient is {} (enumeration).",
    lanes_that_share,
)
SECOND = Why(
    "second order",
    ppl.StrategyError,
    "What `estimate` returns has first derivatives only, as the costs that it is given have no tangents. For x y, two "
    "coins with p = 0.45, its second derivative has mean {}, the true one is {} (enumeration).",
    first_order_only,
)
FINITE = Why(
    "family",
    ppl.StrategyError,
    "The strategy does not apply to the family, and says so at the choice: a support that moves continuously is not "
    "finite (enum, rao_blackwell); the sampler of the uniform distribution is explicit, use `pathwise()` (implicit); "
    "its table of pairs has no entry for it (mvd, stochastic_perturbation); it is for coins, categorical or "
    "gamma choices (arm, disarm, rebar, relax, unordered, rejection, straight_through, gumbel_softmax); its control "
    "variate knows no edge (lax); its weights know none (importance).",
)
OWN_COSTS = Why(
    "cost of a cost",
    ppl.StrategyError,
    "The strategy differentiates the costs of this choice, and these contain what a later choice's strategy estimates "
    "by itself, which has no derivative in this value.",
)
LEARNED = Why(
    "learned",
    ppl.StrategyError,
    "What the strategy learns is handed into a branch on an enumerated choice, where every operand has a value for "
    "each value of that choice.",
)
WHYS = [JUMP, EDGE, EDGE_AT_ONCE, LANES, SECOND, FINITE, OWN_COSTS, LEARNED]

_SCORES = ("reinforce", "reinforce(constant)", "reinforce(leave_one_out_lanes)")
_DIRECT = ("mvd", "leave_one_out", "a user's own")
REFUSALS: dict[tuple[str, str], Why] = {
    **{("discontinuous cost", way): JUMP for way in ("pathwise", "implicit")},
    **{("moving support", way): EDGE for way in _SCORES},
    ("moving support", "leave_one_out"): EDGE_AT_ONCE,
    **{("moving support", way): FINITE for way in ("implicit", "enum", "mvd")},
    **{
        (row, "reinforce(leave_one_out_lanes)"): LANES
        for row in ("vmap, one cost of all lanes", "iwelbo, a log of a mean")
    },
    **{("second derivative", way): SECOND for way in _DIRECT},
    **{("second derivative", str(way)): SECOND for way in MORE_WAYS},
    **{("moving support", str(way)): FINITE for way in [*MORE_WAYS, *BIASED_WAYS]},
    **{("discontinuous cost", way): JUMP for way in ("rebar", "rejection", "straight_through", "gumbel_softmax")},
    **{
        (row, way): OWN_COSTS for row in ("scan, value in the carry", "scan, reverse") for way in ("rebar", "rejection")
    },
    **{("cond on a choice by enum", way): LEARNED for way in ("relax", "lax")},
}


def why(construct: Construct, way: Way) -> Why | None:
    """Return why a cell refuses, or None where it is supported."""
    return REFUSALS.get((str(construct), str(way)))


def cell(construct: Construct, way: Way) -> str:
    """Return what the table shows of a cell."""
    found = why(construct, way)
    if found is not None:
        return f"{found.error.__name__} [{found.mark}]"
    if not way.strategy.unbiased:
        return "biased"
    return "exact" if is_exact(construct, way) else "z"


INTRODUCTION = """# Support matrix: strategy x construct

Every gradient strategy through every construct of the language. Each cell is run by
`tests/statistical/test_support_matrix.py`, and this file is written by `python tools/support_matrix.py`.

- **exact**: the mean of value and derivatives over all outcomes of the estimator's noise equals, to 1e-10 in float64,
  an enumeration of the program in plain Python.
- **z**: the same by sampling, where the noise is not finite: |z| < 4.5, and a bias of 2 % of the gradient's norm would
  show.
- An **error** is raised where a derivative meets the choice, or at the choice; the note says what the estimator would
  have given, or why it does not apply.

- **biased**: a strategy that is biased by name runs, and reports show it as biased; nothing is claimed of its mean.

Pathwise and lax are shown on normal choices, implicit and rejection on gamma, the others on coins (`moving support`: on
uniform choices).
`a user's own` is a class with the one method `estimate`. Cells that refuse may become fewer, never more
(`tests/support/refusing_cells.txt`, and `refusing_cells_of_more.txt` for the second and third table).
"""


TABLES = {
    "## The main strategies": WAYS,
    "## Estimators with noise or values of their own": MORE_WAYS,
    "## Strategies that are biased by name": BIASED_WAYS,
}


def table() -> str:
    """Return the matrix in Markdown."""
    lines = [INTRODUCTION]
    for title, ways in TABLES.items():
        lines += [title, "", "| construct | " + " | ".join(map(str, ways)) + " |", "|---" * (len(ways) + 1) + "|"]
        lines += [f"| {one} | " + " | ".join(cell(one, way) for way in ways) + " |" for one in CONSTRUCTS] + [""]
    lines.pop()
    return "\n".join([*lines, "", "## Notes", "", *(f"- **{one.mark}**: {one}" for one in WHYS), ""])
