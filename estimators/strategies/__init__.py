"""Gradient strategies: those of the language; each further one is a file written against its public protocol."""

from estimators.strategies.arm import arm as arm
from estimators.strategies.baselines import constant as constant
from estimators.strategies.baselines import learned as learned
from estimators.strategies.baselines import leave_one_out_lanes as leave_one_out_lanes
from estimators.strategies.disarm import disarm as disarm
from estimators.strategies.dropped import dropped as dropped
from estimators.strategies.gumbel_softmax import gumbel_softmax as gumbel_softmax
from estimators.strategies.implicit import implicit as implicit
from estimators.strategies.importance import importance as importance
from estimators.strategies.lax import lax as lax
from estimators.strategies.leave_one_out import leave_one_out as leave_one_out
from estimators.strategies.mvd import mvd as mvd
from estimators.strategies.rao_blackwell import rao_blackwell as rao_blackwell
from estimators.strategies.rebar import rebar as rebar
from estimators.strategies.rejection import rejection as rejection
from estimators.strategies.relax import relax as relax
from estimators.strategies.stochastic_perturbation import stochastic_perturbation as stochastic_perturbation
from estimators.strategies.straight_through import straight_through as straight_through
from estimators.strategies.unordered import unordered as unordered
from ppl import enum as enum
from ppl import pathwise as pathwise
from ppl import reinforce as reinforce
