"""Eight everyday mistakes, made here and in NumPyro: who says what, and whether training goes on.

Run `python -m bench.mistakes`. Each mistake is written in both languages and fitted for three steps; what happens is
measured, not remembered. Prints a table and writes it to `runs/mistakes.json`.
"""

import json
import platform
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import optax
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal

import ppl
from estimators import elbo

KEY = jax.random.key(0)
OUT = Path("runs") / "mistakes.json"
X = jnp.array([0.5, 1.5, 1.0])


def ours(model, guide, observed):
    """Fit a program of ours for three steps; `guide` None is an autoguide."""
    model = ppl.gen(model)
    if guide is None:
        guide, init = ppl.guides.mean_field(model, observed)
    else:
        guide, init = ppl.gen(guide), {"loc": jnp.array(0.1)}
    objective = lambda params: elbo(model, guide)(params, observed)
    fit = ppl.maximize(objective, init, None, optax.adam(0.1), steps=3, key=KEY, progress=False)
    return -fit.history["value"][-1]


def theirs(model, guide, *args):
    """Fit a program of NumPyro's for three steps."""
    guide = AutoNormal(model) if guide is None else guide
    svi = SVI(model, guide, numpyro.optim.Adam(0.1), Trace_ELBO())
    return svi.run(KEY, 3, *args, progress_bar=False).losses[-1]


# --- The mistakes: (ours, NumPyro's) ------------------------------------------------------------------------------


def model(params):
    """A normal mean with a normal prior."""
    ppl.normal((ppl.normal(0.0, 1.0) @ "z") * jnp.ones(3), 1.0) @ "x"


def their_model(x=X):
    """The same."""
    numpyro.sample("x", dist.Normal(numpyro.sample("z", dist.Normal()) * jnp.ones(3), 1.0), obs=x)


def loc():
    """A parameter of NumPyro."""
    return numpyro.param("loc", 0.1)


def misspelt_choice_in_the_guide():
    wrong = lambda params, observed: ppl.normal(params["loc"], 1.0) @ "zz"
    return (lambda: ours(model, wrong, {"x": X})), (
        lambda: theirs(their_model, lambda x=X: numpyro.sample("zz", dist.Normal(loc())), X)
    )


def guide_with_one_choice_more():
    def wrong(params, observed):
        ppl.normal(params["loc"], 1.0) @ "z"
        ppl.normal(params["loc"], 1.0) @ "w"

    def their_wrong(x=X):
        numpyro.sample("z", dist.Normal(loc()))
        numpyro.sample("w", dist.Normal(loc()))

    return (lambda: ours(model, wrong, {"x": X})), (lambda: theirs(their_model, their_wrong, X))


def one_address_twice():
    def wrong(params):
        ppl.normal(0.0, 1.0) @ "z"
        ppl.normal(ppl.normal(0.0, 1.0) @ "z", 1.0) @ "x"

    def their_wrong(x=X):
        numpyro.sample("z", dist.Normal())
        numpyro.sample("x", dist.Normal(numpyro.sample("z", dist.Normal())), obs=x[0])

    return (lambda: ours(wrong, None, {"x": X[0]})), (lambda: theirs(their_wrong, None, X))


def normal_guide_of_a_positive_choice():
    positive = lambda params: ppl.normal(0.0, (ppl.half_normal(1.0) @ "s") * jnp.ones(3)) @ "x"
    wrong = lambda params, observed: ppl.normal(params["loc"], 1.0) @ "s"

    def their_positive(x=X):
        numpyro.sample("x", dist.Normal(0.0, numpyro.sample("s", dist.HalfNormal()) * jnp.ones(3)), obs=x)

    return (lambda: ours(positive, wrong, {"x": X})), (
        lambda: theirs(their_positive, lambda x=X: numpyro.sample("s", dist.Normal(loc())), X)
    )


def fraction_observed_under_a_coin():
    coins = lambda params: ppl.bernoulli((ppl.beta(2.0, 2.0) @ "p") * jnp.ones(3)) @ "x"

    def their_coins(x=X):
        numpyro.sample("x", dist.Bernoulli(numpyro.sample("p", dist.Beta(2.0, 2.0)) * jnp.ones(3)), obs=x)

    return (lambda: ours(coins, None, {"x": X})), (lambda: theirs(their_coins, None, X))


def parameters_that_do_not_broadcast():
    wrong = lambda params: ppl.normal((ppl.normal(0.0, 1.0) @ "z") * jnp.ones(3), jnp.ones(2)) @ "x"

    def their_wrong(x=X):
        numpyro.sample("x", dist.Normal(numpyro.sample("z", dist.Normal()) * jnp.ones(3), jnp.ones(2)), obs=x)

    return (lambda: ours(wrong, None, {"x": X})), (lambda: theirs(their_wrong, None, X))


def data_of_another_shape():
    """One number where the model makes three: NumPyro counts it once for each."""
    return (lambda: ours(model, None, {"x": X[:1]})), (lambda: theirs(their_model, None, X[:1]))


def discrete_choice_under_an_automatic_guide():
    mixture = lambda params: ppl.normal((ppl.bernoulli(0.3) @ "k") * jnp.ones(3), 1.0) @ "x"

    def their_mixture(x=X):
        numpyro.sample("x", dist.Normal(numpyro.sample("k", dist.Bernoulli(0.3)) * jnp.ones(3)), obs=x)

    return (lambda: ours(mixture, None, {"x": X})), (lambda: theirs(their_mixture, None, X))


MISTAKES = [
    misspelt_choice_in_the_guide,
    guide_with_one_choice_more,
    one_address_twice,
    normal_guide_of_a_positive_choice,
    fraction_observed_under_a_coin,
    parameters_that_do_not_broadcast,
    data_of_another_shape,
    discrete_choice_under_an_automatic_guide,
]


def outcome(run) -> dict[str, str]:
    """Say what a run does: raises, warns and goes on, or goes on silently."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            loss = float(run())
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the outcome
            return {"kind": "error", "type": type(error).__name__, "says": str(error).splitlines()[0][:90]}
    shown = f"loss {loss:.4g} after 3 steps"
    if caught:
        return {"kind": "warning", "type": shown, "says": str(caught[0].message).splitlines()[0][:90]}
    return {"kind": "silent", "type": shown, "says": ""}


def measure() -> list[dict]:
    """Make every mistake in both languages."""
    rows = []
    for mistake in MISTAKES:
        mine, other = mistake()
        rows.append({"mistake": mistake.__name__.replace("_", " "), "ours": outcome(mine), "numpyro": outcome(other)})
    return rows


def main() -> None:
    """Print the table and write the rows."""
    rows = measure()
    print(f"{'mistake':42} {'ours':29} NumPyro {numpyro.__version__}")
    for row in rows:
        cells = [f"{row[who]['kind']}: {row[who]['type']}" for who in ("ours", "numpyro")]
        print(f"{row['mistake']:42} {cells[0]:29} {cells[1]}  {row['numpyro']['says']}")
    for who in ("ours", "numpyro"):
        kinds = [row[who]["kind"] for row in rows]
        print(f"{who}: " + ", ".join(f"{kinds.count(kind)} {kind}" for kind in ("error", "warning", "silent")))
    versions = {"jax": jax.__version__, "numpyro": numpyro.__version__, "python": platform.python_version()}
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(
        json.dumps({"versions": versions, "device": jax.default_backend(), "seed": 0, "rows": rows}, indent=1)
    )


if __name__ == "__main__":
    main()
