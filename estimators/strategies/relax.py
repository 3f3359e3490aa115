"""The score function of a discrete choice with a learned control variate."""

from __future__ import annotations

from estimators.strategies.network import WithNetwork
from estimators.strategies.smoothed import FAMILIES, NOT_DISCRETE, Smoothed


class relax(WithNetwork):  # noqa: N801 - strategies read as words at the choice.
    """Learn the function c of (k(b) - c(z')) d log p(b) + d c(z) - d c(z') (Grathwohl et al. 2018, eq. 9).

    z = logits + noise (logistic for coins, Gumbel for the values of a categorical choice), b = H(z), and z' is drawn
    from z given b. Any cost; unbiased for every differentiable c, whatever its parameters are. One evaluation of the
    costs beside that of the value, and four of c. `params` get the gradient of minus the square of the estimate (with
    respect to the logits), which is that of minus its variance: `ppl.maximize` trains them beside the model.

    Args:
        fn: Maps `params`, the z of one element (a number; for a categorical choice one for each value) and the inputs
            to a number. It closes over constants alone.
        params: A pytree of arrays, an argument of the program (or part of one).
        inputs: Arrays that are known before the choice is made. They are detached.

    Raises:
        StrategyError: The choice is neither bernoulli nor categorical, or `fn` closes over traced arrays or does not
            return a number.

    Example:
        >>> import jax, jax.numpy as jnp, ppl
        >>> from estimators import relax
        >>> control = lambda level, z: level + 21.0 * jax.nn.sigmoid(2.0 * z)
        >>> def cost(args):
        ...     logit, level = args
        ...     return (ppl.bernoulli(logits=logit, grad=relax(control, level)).sample() + 10.0) ** 2
        >>> keys = jax.random.split(jax.random.key(0), 2000)
        >>> of = lambda level: jax.vmap(ppl.grad(cost), (0, None))(keys, (0.0, level))
        >>> untrained, trained = of(0.0), of(100.0)
        >>> bool(abs(trained[0].mean() - 5.25) < 0.5), bool(trained[0].var() < untrained[0].var() / 50)
        (True, True)
        >>> [round(float(part[1].mean()), -1) + 0.0 for part in (untrained, trained)]  # Half the way to the best level.
        [50.0, 0.0]
    """

    def check(self, family) -> str | None:
        """Refuse all but coins and categorical choices."""
        return None if family.name in FAMILIES else NOT_DISCRETE

    def estimate(self, key, d, k):
        """Draw the noise of both z, and return the estimate for it."""
        return self.given(*Smoothed.of(d).uniforms(key, Smoothed.of(d).logits(d)), d, k)

    def given(self, u, v, d, k):
        """Return the estimate of the gradient times the logits, less its square as a function of what is learned."""
        law = Smoothed.of(d)
        logits = law.logits(d)
        gradient = law.gradient(logits, u, v, k, self.control(d))
        return law.along(gradient, logits) - law.summed(gradient**2)
