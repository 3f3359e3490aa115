"""The programs of this language that are compared with the floors of the same names.

Each has `objective(**size)`: a stochastic function of `(params, data)`, whose `ppl.value_and_grad` is the estimator.
"""
