"""The strategies of the grid, with the kind of choice on which each is run."""

import dataclasses

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

import estimators
import ppl


@dataclasses.dataclass(frozen=True)
class Entry:
    """A strategy of the grid.

    Attributes:
        kind: "coin" or "normal".
        strategy: The strategy.
    """

    kind: str
    strategy: ppl.Strategy

    @property
    def biased(self) -> bool:
        """Whether it says so."""
        return not self.strategy.unbiased


def _affine(e, loc, scale):
    return loc + scale * e


def _standardised(x, loc, scale):
    return (x - loc) / scale


def _level(level, z):
    return level * jax.nn.sigmoid(2.0 * z)


def _bowl(level, x):
    return level * x**2


COINS = {
    "reinforce": estimators.reinforce(),
    "reinforce(constant)": estimators.reinforce(estimators.constant(-1.5)),
    "enum": estimators.enum(),
    "mvd": estimators.mvd(),
    "leave_one_out(2)": estimators.leave_one_out(2),
    "rao_blackwell": estimators.rao_blackwell(),
    "arm": estimators.arm(),
    "disarm": estimators.disarm(),
    "importance": estimators.importance(lambda logits: dist.Bernoulli(logits=0.5 * logits)),
    "rebar": estimators.rebar(),
    "relax": estimators.relax(_level, jnp.array(-1.0)),
    "unordered(2)": estimators.unordered(2),
    "stochastic_perturbation": estimators.stochastic_perturbation(),
    "straight_through": estimators.straight_through(),
    "gumbel_softmax": estimators.gumbel_softmax(0.5),
    "dropped": estimators.dropped(),
}
NORMALS = {
    "pathwise": estimators.pathwise(),
    "reinforce": estimators.reinforce(),
    "mvd": estimators.mvd(),
    "leave_one_out(2)": estimators.leave_one_out(2),
    "importance": estimators.importance(lambda loc, scale: dist.Normal(loc, 1.3 * scale)),
    "lax": estimators.lax(_bowl, jnp.array(-0.5)),
    "rejection": estimators.rejection(_affine, _standardised),
}
STRATEGIES = {
    f"{name}, {kind}": Entry(kind, s) for kind, of in (("coin", COINS), ("normal", NORMALS)) for name, s in of.items()
}
