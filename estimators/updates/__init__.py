"""Updates of guides that know more than a gradient: natural gradients, and coordinate ascent."""

from estimators.updates.cavi import Cavi as Cavi
from estimators.updates.cavi import cavi as cavi
from estimators.updates.natural_gradient import fisher_information as fisher_information
from estimators.updates.natural_gradient import natural_gradient as natural_gradient
