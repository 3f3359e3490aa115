"""Bayesian mixtures of over-parametrised hypotheses, and what their codes cost."""

from models.universality_lens.program import PROGRAM as PROGRAM
