"""Guides of a posterior on a ring."""

from models.cone.program import PROGRAM as PROGRAM
