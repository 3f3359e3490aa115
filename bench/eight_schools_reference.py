"""Long NumPyro NUTS run on eight schools; writes the means that `tests/test_nuts.py` compares with.

Run `python bench/eight_schools_reference.py`: four chains of 25,000 draws each, non-centred, in float64.
"""

import json
import platform
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.diagnostics import effective_sample_size, gelman_rubin
from numpyro.infer import MCMC, NUTS

Y = [28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0]
SIGMA = [15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]
SEED, CHAINS, DRAWS = 0, 4, 25_000
OUT = Path(__file__).parent.parent / "tests" / "reference" / "eight_schools.json"


def schools():
    """mu ~ N(0, 5), tau ~ half-Cauchy(5), theta ~ N(mu, tau), y ~ N(theta, sigma)."""
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    raw = numpyro.sample("raw", dist.Normal(jnp.zeros(8), 1.0))
    theta = numpyro.deterministic("theta", mu + tau * raw)
    numpyro.sample("y", dist.Normal(theta, jnp.array(SIGMA)), obs=jnp.array(Y))


def main():
    """Run and write the reference."""
    jax.config.update("jax_enable_x64", True)
    kernel = NUTS(schools, target_accept_prob=0.95)
    mcmc = MCMC(kernel, num_warmup=2_000, num_samples=DRAWS, num_chains=CHAINS, chain_method="sequential")
    mcmc.run(jax.random.key(SEED))
    draws = mcmc.get_samples(group_by_chain=True)
    rows = {}
    for name, x in {"mu": draws["mu"], "log_tau": np.log(draws["tau"]), "theta": draws["theta"]}.items():
        x = np.asarray(x)
        error = x.std((0, 1)) / np.sqrt(effective_sample_size(x))
        rows[name] = {"mean": x.mean((0, 1)).tolist(), "error": error.tolist(), "r_hat": gelman_rubin(x).tolist()}
    versions = {"jax": jax.__version__, "numpyro": numpyro.__version__, "python": platform.python_version()}
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps({"seed": SEED, "versions": versions, "draws": CHAINS * DRAWS, **rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
