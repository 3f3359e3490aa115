"""Eight schools by automatic guides beside NUTS: means and standard deviations with their Monte Carlo errors.

Run `python -m bench.eight_schools`. NUTS is BlackJAX's, on `ppl.log_joint`; a long run of NumPyro's on its own model
(`bench/eight_schools_reference.py`) is shown beside it. Errors are those of drawing, so NUTS and the reference agree
within them; a guide's distance from NUTS is the error of its approximation. Writes `runs/eight_schools.json`.
"""

import json
import platform
from pathlib import Path

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import optax

import ppl
from estimators import elbo
from ppl import gen, half_cauchy, normal

Y = jnp.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
SIGMA = jnp.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
OBSERVED = {"y": Y}
REFERENCE = Path(__file__).parent.parent / "tests" / "reference" / "eight_schools.json"
OUT = Path("runs") / "eight_schools.json"
SEED, CHAINS, DRAWS = 0, 4, 5_000


@gen
def schools(params, sigma):
    """mu ~ N(0, 5), tau ~ half-Cauchy(5), theta = mu + tau raw, y ~ N(theta, sigma)."""
    mu = normal(0.0, 5.0) @ "mu"
    tau = half_cauchy(5.0) @ "tau"
    raw = normal(jnp.zeros(8), 1.0) @ "raw"
    normal(mu + tau * raw, sigma) @ "y"


def quantities(latents) -> dict[str, jax.Array]:
    """Return what is compared."""
    mu, tau, raw = latents["mu"], latents["tau"], latents["raw"]
    return {"mu": mu, "log_tau": jnp.log(tau), "theta": mu[..., None] + tau[..., None] * raw}


def by_guide(kind: str, key) -> dict[str, np.ndarray]:
    """Draw from a fitted automatic guide: arrays (chains, draws, ...)."""
    fit_key, draw_key = jax.random.split(key)
    guide, params = getattr(ppl.guides, kind)(schools, OBSERVED, SIGMA)
    if kind != "laplace":
        objective = lambda params: elbo(schools, guide)(params, OBSERVED, SIGMA)
        optimizer = optax.adam(optax.cosine_decay_schedule(0.02, 5_000))
        params = ppl.maximize(objective, params, None, optimizer, steps=5_000, key=fit_key).params
    draws = ppl.predict(schools, guide, params, OBSERVED, SIGMA, key=draw_key, samples=CHAINS * DRAWS)
    return {name: np.asarray(x).reshape(CHAINS, DRAWS, -1) for name, x in quantities(draws.latents).items()}


def by_nuts(key) -> dict[str, np.ndarray]:
    """Draw by NUTS: arrays (chains, draws, ...)."""
    log_density, constrain = ppl.log_joint(schools, OBSERVED, {}, SIGMA)

    def chain(key):
        warm_key, run_key = jax.random.split(key)
        warmup = blackjax.window_adaptation(blackjax.nuts, log_density, target_acceptance_rate=0.95)
        (state, parameters), _ = warmup.run(warm_key, jnp.zeros(constrain.size), 1_000)
        kernel = blackjax.nuts(log_density, **parameters)

        def step(state, key):
            state, _ = kernel.step(key, state)
            return state, state.position

        _, positions = jax.lax.scan(step, state, jax.random.split(run_key, DRAWS))
        return jax.vmap(lambda x: quantities(constrain(x)))(positions)

    draws = jax.jit(jax.vmap(chain))(jax.random.split(key, CHAINS))
    return {name: np.asarray(x).reshape(CHAINS, DRAWS, -1) for name, x in draws.items()}


def summary(draws: dict[str, np.ndarray]) -> list[tuple[float, float, float]]:
    """Return mean, its Monte Carlo error and standard deviation of every number."""
    rows = []
    for name in ("mu", "log_tau", "theta"):
        x = draws[name]
        effective = np.asarray(blackjax.diagnostics.effective_sample_size(x, chain_axis=0, sample_axis=1))
        deviation = x.std((0, 1))
        rows += zip(x.mean((0, 1)), deviation / np.sqrt(effective), deviation, strict=True)
    return [tuple(map(float, row)) for row in rows]


def main() -> None:
    """Print the table and write the rows."""
    jax.config.update("jax_enable_x64", True)
    keys = jax.random.split(jax.random.key(SEED), 4)
    found = {kind: summary(by_guide(kind, key)) for kind, key in zip(("mean_field", "full"), keys, strict=False)}
    found["NUTS"] = summary(by_nuts(keys[2]))
    reference = json.loads(REFERENCE.read_text())
    names = ["mu", "log_tau", *(f"theta[{i}]" for i in range(8))]
    known = [pair for name in ("mu", "log_tau", "theta") for pair in zip(*_listed(reference[name]), strict=True)]
    header = "".join(f"{kind + ' mean':>18}{'sd':>7}" for kind in found)
    print(f"{'quantity':10}{header}{'NumPyro NUTS mean':>22}")
    for i, name in enumerate(names):
        cells = "".join(f"{rows[i][0]:9.3f} ± {rows[i][1]:.3f}{'':1}{rows[i][2]:7.2f}" for rows in found.values())
        print(f"{name:10}{cells}{known[i][0]:13.3f} ± {known[i][1]:.3f}")
    z = [(ours[0] - mean) / np.hypot(ours[1], error) for ours, (mean, error) in zip(found["NUTS"], known, strict=True)]
    print(f"largest |z| of our NUTS against NumPyro's: {max(map(abs, z)):.2f}")
    versions = {"jax": jax.__version__, "blackjax": blackjax.__version__, "python": platform.python_version()}
    row = {"seed": SEED, "device": jax.default_backend(), "versions": versions, "names": names, **found}
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(row, indent=1) + "\n")


def _listed(entry: dict) -> tuple[list, list]:
    return np.ravel(entry["mean"]).tolist(), np.ravel(entry["error"]).tolist()


if __name__ == "__main__":
    main()
