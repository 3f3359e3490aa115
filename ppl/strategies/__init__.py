"""Gradient strategies of the language and the protocol that they follow."""

from ppl.strategies.baseline import Baseline as Baseline
from ppl.strategies.baseline import Learned as Learned
from ppl.strategies.enum import enum as enum
from ppl.strategies.pathwise import pathwise as pathwise
from ppl.strategies.protocol import Strategy as Strategy
from ppl.strategies.protocol import as_strategy as as_strategy
from ppl.strategies.reinforce import reinforce as reinforce
from ppl.strategies.relaxation import Logits as Logits
from ppl.strategies.relaxation import Relaxation as Relaxation
