"""Baselines of `reinforce`, one a file."""

from estimators.strategies.baselines.constant import constant as constant
from estimators.strategies.baselines.learned import learned as learned
from estimators.strategies.baselines.leave_one_out_lanes import leave_one_out_lanes as leave_one_out_lanes
