"""Analyses of staged programs: dependence, cost terms, and the plan of an estimator."""

from ppl.analysis.dependence import Dependence as Dependence
from ppl.analysis.plan import Plan as Plan
from ppl.analysis.plan import make_plan as make_plan
