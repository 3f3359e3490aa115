"""Stochastic differential equations driven by noise with memory."""

from models.fractional_sde.program import PROGRAM as PROGRAM
