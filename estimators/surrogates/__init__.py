"""Surrogates in the space of targets: one dear gradient, many cheap steps."""

from estimators.surrogates.curvature_descent import curvature_descent as curvature_descent
from estimators.surrogates.divergences import Euclidean as Euclidean
from estimators.surrogates.divergences import kl_divergence as kl_divergence
from estimators.surrogates.sizes import AdaGrad as AdaGrad
from estimators.surrogates.sizes import LineSearch as LineSearch
from estimators.surrogates.target_surrogate import NoiseAware as NoiseAware
from estimators.surrogates.target_surrogate import SurrogateState as SurrogateState
from estimators.surrogates.target_surrogate import target_surrogate as target_surrogate
