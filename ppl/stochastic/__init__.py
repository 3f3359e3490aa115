"""Stochastic densities: generative functions whose density is an estimate."""
