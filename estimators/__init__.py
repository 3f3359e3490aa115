"""Objectives and gradient strategies, written against the public names of `ppl`."""

from estimators.objectives import diwhvi as diwhvi
from estimators.objectives import elbo as elbo
from estimators.objectives import hvi as hvi
from estimators.objectives import iwelbo as iwelbo
from estimators.objectives import iwhvi as iwhvi
from estimators.objectives import smc_elbo as smc_elbo
from estimators.strategies import arm as arm
from estimators.strategies import constant as constant
from estimators.strategies import disarm as disarm
from estimators.strategies import dropped as dropped
from estimators.strategies import enum as enum
from estimators.strategies import implicit as implicit
from estimators.strategies import importance as importance
from estimators.strategies import learned as learned
from estimators.strategies import leave_one_out as leave_one_out
from estimators.strategies import leave_one_out_lanes as leave_one_out_lanes
from estimators.strategies import mvd as mvd
from estimators.strategies import pathwise as pathwise
from estimators.strategies import rao_blackwell as rao_blackwell
from estimators.strategies import reinforce as reinforce
from ppl.methods import multinomial as multinomial
from ppl.methods import residual as residual
from ppl.methods import stratified as stratified
from ppl.methods import systematic as systematic
from ppl.stochastic.filtering import ess as ess
from ppl.stochastic.particles import log_normaliser as log_normaliser
