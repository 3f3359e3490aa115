"""The score function of a continuous choice with a learned control variate."""

from __future__ import annotations

import jax
from jax import lax as jax_lax

from estimators.strategies.network import WithNetwork


class lax(WithNetwork):  # noqa: N801 - strategies read as words at the choice.
    """Learn the function c of (k(x) - c(x)) d log p(x) + d c(x(noise)) (Grathwohl et al. 2018, eq. 6).

    Any cost, also discontinuous ones; unbiased for every differentiable c, whatever its parameters are. One evaluation
    of the costs beside that of the value, and three of c. `params` get the gradient of minus the square of the estimate
    (with respect to the parameters of the choice): `ppl.maximize` trains them beside the model.

    Args:
        fn: Maps `params`, one value and the inputs to a number. It closes over constants alone.
        params: A pytree of arrays, an argument of the program (or part of one).
        inputs: Arrays that are known before the choice is made. They are detached.

    Raises:
        StrategyError: The choice is discrete, its sampler has no derivative, or its support moves with its parameters;
            or `fn` closes over traced arrays or does not return a number.

    Example:
        >>> import jax, ppl
        >>> from estimators import lax
        >>> def cost(args):
        ...     loc, level = args
        ...     x = ppl.normal(loc, 1.0, grad=lax(lambda level, x: level * jax.nn.sigmoid(2 * x), level)).sample()
        ...     return 10.0 * (x > 0)
        >>> keys = jax.random.split(jax.random.key(0), 2000)
        >>> of = lambda level: jax.vmap(ppl.grad(cost), (0, None))(keys, (0.5, level))[0]
        >>> [bool(abs(of(level).mean() - 3.52) < 0.5) for level in (0.0, 10.0)]
        [True, True]
        >>> bool(of(10.0).var() < of(0.0).var() / 2)
        True
    """

    def check(self, family) -> str | None:
        """Refuse discrete families, and supports that move."""
        if family.discrete or not family.reparameterised:
            return "its sampler has no derivative"
        return "its support moves with its parameters" if family.support.moving else None

    def estimate(self, key, d, k):
        """Return the gradient's estimate times the parameters, less its square as a function of what is learned."""
        control, params = self.control(d), d.spread_params()
        fixed = jax_lax.stop_gradient(params)
        x = d.with_params(**fixed).sample(key)
        costs, log_prob = jax_lax.stop_gradient((k(x), d.log_prob(x)))

        def surrogate(params):
            moved = d.with_params(**params)
            score = moved.log_prob(x) - log_prob  # 0, with the score as its derivative
            return ((costs - control(x)) * score + control(moved.sample(key))).sum()

        gradients = jax.grad(surrogate)(fixed)
        summed = lambda x: x.sum(tuple(range(len(d.shape), x.ndim)))
        along = sum(summed(jax_lax.stop_gradient(g) * params[name]) for name, g in gradients.items())
        return along - sum(summed(g**2) for g in gradients.values())
