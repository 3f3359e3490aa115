"""Objectives and gradient strategies, written against the public names of `ppl`."""

from estimators.objectives import elbo as elbo
from estimators.objectives import iwelbo as iwelbo
from estimators.strategies import constant as constant
from estimators.strategies import enum as enum
from estimators.strategies import implicit as implicit
from estimators.strategies import learned as learned
from estimators.strategies import leave_one_out as leave_one_out
from estimators.strategies import leave_one_out_lanes as leave_one_out_lanes
from estimators.strategies import mvd as mvd
from estimators.strategies import pathwise as pathwise
from estimators.strategies import reinforce as reinforce
