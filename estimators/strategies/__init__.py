"""Gradient strategies: those of the language; each further one is a file written against its public protocol."""

from ppl import enum as enum
from ppl import pathwise as pathwise
from ppl import reinforce as reinforce
