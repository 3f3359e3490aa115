"""Truths found without the library, and the tests that compare an estimator with them."""

import math
from collections.abc import Callable

import jax
import jax.random as jr
import numpy as np

STEP = 1e-30  # of the complex step: derivatives without rounding, as long as the law is analytic in theta


class Draws:
    """One path through the tree of outcomes: every draw takes the value that a script says, the first by default."""

    def __init__(self, script: list[int]):
        self.script, self.widths, self.prob = script, [], 1.0

    def __call__(self, probs, values=None):
        """Draw an index (or the value that stands there) with these probabilities."""
        at = len(self.widths)
        self.widths.append(len(probs))
        pick = self.script[at] if at < len(self.script) else 0
        self.prob = self.prob * probs[pick]
        return pick if values is None else values[pick]

    def coin(self, prob):
        """Draw 0 or 1."""
        return self([1 - prob, prob])

    def normal(self, loc, scale=1.0, nodes=5):
        """Draw a node of a Gauss rule: exact for costs of degree below 2 * nodes in the value."""
        points, weights = np.polynomial.hermite_e.hermegauss(nodes)
        return self(weights / weights.sum(), [loc + scale * point for point in points])


def expectation(law: Callable, theta):
    """Sum `law(draw, theta)` over all outcomes of its draws: plain Python, nothing but a recursion."""
    total, script = 0.0, []
    while True:
        draw = Draws(script)
        cost = law(draw, theta)
        total = total + draw.prob * cost
        script = [script[i] if i < len(script) else 0 for i in range(len(draw.widths))]
        while script and script[-1] + 1 == draw.widths[len(script) - 1]:
            script.pop()
        if not script:
            return total
        script[-1] += 1


def enumerate_law(law: Callable, theta) -> tuple[float, np.ndarray]:
    """Return the expectation of a plain-Python law and its gradient, by complex steps in all parameters at once."""
    theta = np.asarray(theta, np.float64)
    stepped = theta[:, None] + 1j * STEP * np.eye(len(theta))
    total = np.broadcast_to(expectation(law, stepped), (len(theta),))
    return float(total[0].real), total.imag / STEP


def assert_unbiased(estimate: Callable, truth, key, z_max=4.5, power=0.02, chunk=2**16, chunks=64) -> None:
    """Compare the mean of `estimate(key)` with the truth, with as many draws as the power asks for.

    The smallest bias that is found reliably, (z_max + 2) * sd / sqrt(n), is printed and must be at most `power` times
    the norm of the truth's last part, the gradient. The first chunk only says how many draws that takes.
    """
    flat = lambda tree: jax.numpy.concatenate([jax.numpy.ravel(leaf) for leaf in jax.tree.leaves(tree)])
    truth, norm = np.asarray(flat(truth)), float(np.linalg.norm(np.ravel(jax.tree.leaves(truth)[-1])))
    draws = jax.jit(jax.vmap(lambda key: flat(estimate(key))))
    moments = jax.jit(lambda key: (lambda x: (x.sum(0), ((x - truth) ** 2).sum(0)))(draws(jr.split(key, chunk))))
    pilot_key, key = jr.split(key)
    _, square = moments(pilot_key)
    worst = math.sqrt(float(np.max(square[-1:] if truth.size == 1 else square[1:])) / chunk)
    needed = min(chunks, max(1, math.ceil(((z_max + 2) * worst / (power * norm)) ** 2 * 1.1 / chunk)))
    sums = [moments(jr.fold_in(key, i)) for i in range(needed)]
    num = needed * chunk
    mean, square = (np.asarray(sum(part), np.float64) / num for part in zip(*sums, strict=True))
    error = np.sqrt(np.maximum(square - (mean - truth) ** 2, 0) / num)
    z = (mean - truth) / np.where(error > 0, error, 1)
    detectable = (z_max + 2) * float(error[-1:] if truth.size == 1 else error[1:].max()) / norm
    print(f"n {num}, z {np.round(z, 2)}, detectable bias {100 * detectable:.2f} % of the gradient's norm {norm:.3g}")
    assert (error[1:] > 0).any(), "the same result for every key"
    assert (np.abs(z) < z_max).all(), f"mean {mean}, truth {truth}, z {z}"
    assert detectable <= power
