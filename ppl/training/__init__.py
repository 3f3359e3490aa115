"""Training: stochastic ascent of an objective in compiled chunks, with progress and checkpoints."""

from ppl.training.ascent import ascend as ascend
from ppl.training.inner import descend as descend
from ppl.training.maximize import maximize as maximize
from ppl.training.maximize import minimize as minimize
from ppl.training.run import Result as Result
from ppl.training.stopping import Plateau as Plateau
from ppl.training.targeted import Targeted as Targeted
