"""Reports on programs."""

from ppl.reports.check import Report as Report
from ppl.reports.check import check as check
from ppl.reports.costs import CompiledCosts as CompiledCosts
from ppl.reports.costs import Costs as Costs
from ppl.reports.costs import compiled_costs as compiled_costs
from ppl.reports.costs import costs as costs
from ppl.reports.costs import growth as growth
from ppl.reports.explain import Explanation as Explanation
from ppl.reports.explain import explain as explain
from ppl.reports.gradient_variance import GradientVariance as GradientVariance
from ppl.reports.gradient_variance import gradient_variance as gradient_variance
