"""Program transformations: each turns a program into another one, in one file."""

from ppl.transforms.assess import assess as assess
from ppl.transforms.derive import condition as condition
from ppl.transforms.derive import scale as scale
from ppl.transforms.derive import with_grad as with_grad
from ppl.transforms.exact import Exact as Exact
from ppl.transforms.exact import exact_gradient as exact_gradient
from ppl.transforms.expect import expect as expect
from ppl.transforms.generate import generate as generate
from ppl.transforms.grad import grad as grad
from ppl.transforms.grad import hessian as hessian
from ppl.transforms.grad import jvp as jvp
from ppl.transforms.grad import value_and_grad as value_and_grad
from ppl.transforms.log_joint import log_joint as log_joint
from ppl.transforms.marginal import marginal as marginal
from ppl.transforms.normalize import normalize as normalize
from ppl.transforms.particle_gibbs import particle_gibbs as particle_gibbs
from ppl.transforms.seed import seed as seed
from ppl.transforms.simulate import simulate as simulate
from ppl.transforms.update import project as project
from ppl.transforms.update import regenerate as regenerate
from ppl.transforms.update import update as update
