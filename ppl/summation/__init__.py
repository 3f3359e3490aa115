"""Exact sums over finite auxiliary choices: a program's densities as factors, summed out one choice at a time."""
