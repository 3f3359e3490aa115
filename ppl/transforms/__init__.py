"""Program transformations: each turns a program into another one, in one file."""

from ppl.transforms.exact import Exact as Exact
from ppl.transforms.exact import exact_gradient as exact_gradient
from ppl.transforms.expect import expect as expect
from ppl.transforms.grad import grad as grad
from ppl.transforms.grad import value_and_grad as value_and_grad
from ppl.transforms.run import assess as assess
from ppl.transforms.run import generate as generate
from ppl.transforms.run import simulate as simulate
from ppl.transforms.seed import seed as seed
