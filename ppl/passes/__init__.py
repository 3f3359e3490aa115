"""Passes: staged programs become staged programs that mean the same and run faster."""

from ppl.passes.vectorise import vectorise as vectorise
