"""Attend, infer, repeat: how many digits there are, where, and what they look like."""

from models.air.program import PROGRAM as PROGRAM
