"""Objectives: stochastic functions of `(params, observed, *inputs)`, to be maximised."""

from estimators.objectives.elbo import elbo as elbo
from estimators.objectives.iwelbo import iwelbo as iwelbo
