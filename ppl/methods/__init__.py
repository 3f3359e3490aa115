"""How a stochastic density is estimated: methods of [`marginal`][ppl.marginal] and [`normalize`][ppl.normalize]."""

from ppl.methods.importance import importance as importance
from ppl.methods.quadrature import quadrature as quadrature
from ppl.methods.sir import sir as sir
