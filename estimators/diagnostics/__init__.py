"""Diagnostics: is a fit to be trusted, is a gradient, and where does the noise come from?"""

from estimators.diagnostics.calibration import Calibration as Calibration
from estimators.diagnostics.calibration import sbc as sbc
from estimators.diagnostics.calibration import vsbc as vsbc
from estimators.diagnostics.codelength import Codelength as Codelength
from estimators.diagnostics.codelength import codelength_bound as codelength_bound
from estimators.diagnostics.collapse import CollapseReport as CollapseReport
from estimators.diagnostics.collapse import collapse_report as collapse_report
from estimators.diagnostics.linear_theory import Hierarchy as Hierarchy
from estimators.diagnostics.linear_theory import LinearOptimum as LinearOptimum
from estimators.diagnostics.linear_theory import linear_hierarchy as linear_hierarchy
from estimators.diagnostics.linear_theory import linear_optimum as linear_optimum
from estimators.diagnostics.linear_theory import residual_moment as residual_moment
from estimators.diagnostics.linear_theory import second_moment as second_moment
from estimators.diagnostics.linear_theory import spectrum as spectrum
from estimators.diagnostics.noise import Bias as Bias
from estimators.diagnostics.noise import SignalToNoise as SignalToNoise
from estimators.diagnostics.noise import bias as bias
from estimators.diagnostics.noise import signal_to_noise as signal_to_noise
from estimators.diagnostics.pareto import generalized_pareto_shape as generalized_pareto_shape
from estimators.diagnostics.pareto import pareto_k as pareto_k
from estimators.diagnostics.sandwich import Sandwich as Sandwich
from estimators.diagnostics.sandwich import sandwich as sandwich
from estimators.diagnostics.verdict import Finding as Finding
from estimators.diagnostics.verdict import Verdict as Verdict
from estimators.diagnostics.verdict import verdict as verdict
