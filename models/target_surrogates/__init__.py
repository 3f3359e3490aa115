"""Optimisers that make many cheap steps on each dear gradient."""

from models.target_surrogates.program import PROGRAM as PROGRAM
