"""Objectives and gradient strategies, written against the public names of `ppl`."""

from estimators.objectives import elbo as elbo
from estimators.objectives import iwelbo as iwelbo
from estimators.strategies import enum as enum
from estimators.strategies import pathwise as pathwise
from estimators.strategies import reinforce as reinforce
