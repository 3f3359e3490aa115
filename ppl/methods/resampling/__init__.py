"""Resampling schemes: which particles survive. Each is a random choice of the program, with a gradient strategy."""

from ppl.methods.resampling.multinomial import multinomial as multinomial
from ppl.methods.resampling.protocol import Resampling as Resampling
from ppl.methods.resampling.residual import residual as residual
from ppl.methods.resampling.stratified import stratified as stratified
from ppl.methods.resampling.systematic import systematic as systematic
