"""Objectives: stochastic functions of `(params, observed, *inputs)`, to be maximised."""

from estimators.objectives.elbo import elbo as elbo
from estimators.objectives.hvi import diwhvi as diwhvi
from estimators.objectives.hvi import hvi as hvi
from estimators.objectives.hvi import iwhvi as iwhvi
from estimators.objectives.iwelbo import iwelbo as iwelbo
from estimators.objectives.smc_elbo import smc_elbo as smc_elbo
