"""Speed and variance, beside hand-written JAX and peers: one script for each claim, which prints JSON rows."""
