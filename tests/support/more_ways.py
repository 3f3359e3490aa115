"""The strategies of the second table of the support matrix: estimators with noise of their own, and biased ones."""

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

import estimators as es
from tests.support.ways import Way


def _proposal(probs):
    return dist.Bernoulli(probs=0.2 + 0.6 * probs)


def _level(level, z):
    return level * jax.nn.sigmoid(2.0 * z)


def _bowl(level, x):
    return level * x**2


LEVEL = jnp.asarray(0.8)


def _coins(name, strategy, dice=None, **properties) -> Way:
    """Make a way whose coins and predicates have one strategy; dice, if it is for coins alone, are by score."""
    return Way(name, strategy, predicate=strategy, dice=dice, **{"is_exact": False, **properties})


DICE = es.reinforce()
MORE_WAYS = [
    _coins("rao_blackwell", es.rao_blackwell(), is_exact=True),
    _coins("arm", es.arm(), DICE),
    _coins("disarm", es.disarm(), DICE),
    _coins("importance", es.importance(_proposal), DICE),
    _coins("relax", es.relax(_level, LEVEL), DICE),
    _coins("unordered", es.unordered(2)),
    _coins("stochastic_perturbation", es.stochastic_perturbation()),
    Way("rebar", es.rebar(), is_exact=False),
    Way("lax", es.lax(_bowl, LEVEL), "normal", is_exact=False),
    Way("rejection", es.rejection(), "gamma", is_exact=False),
]
BIASED_WAYS = [
    Way("straight_through", es.straight_through(), is_exact=False),
    Way("gumbel_softmax", es.gumbel_softmax(0.5), is_exact=False),
]
