"""How a stochastic density is estimated: methods of [`marginal`][ppl.marginal] and [`normalize`][ppl.normalize]."""

from ppl.methods.elimination import exact as exact
from ppl.methods.importance_resampling import sir as sir
from ppl.methods.importance_sampling import importance as importance
from ppl.methods.quadrature_rules import quadrature as quadrature
from ppl.methods.resampling import Resampling as Resampling
from ppl.methods.resampling import multinomial as multinomial
from ppl.methods.resampling import residual as residual
from ppl.methods.resampling import stratified as stratified
from ppl.methods.resampling import systematic as systematic
from ppl.methods.sequential import smc as smc
