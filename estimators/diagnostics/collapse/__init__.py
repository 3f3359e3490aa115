"""Posterior collapse: measured for any program, predicted for Gaussian ones."""

from estimators.diagnostics.collapse.information import Information as Information
from estimators.diagnostics.collapse.predict import Prediction as Prediction
from estimators.diagnostics.collapse.report import CollapseReport as CollapseReport
from estimators.diagnostics.collapse.report import Latent as Latent
from estimators.diagnostics.collapse.report import collapse_report as collapse_report
