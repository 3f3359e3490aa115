"""Draws of unknowns and of new data, from priors and posteriors."""

from ppl.prediction.arviz import to_arviz as to_arviz
from ppl.prediction.predict import Predictions as Predictions
from ppl.prediction.predict import predict as predict
