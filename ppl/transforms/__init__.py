"""Program transformations: each turns a program into another one, in one file."""

from ppl.transforms.expect import expect as expect
from ppl.transforms.expect import grad as grad
from ppl.transforms.expect import value_and_grad as value_and_grad
from ppl.transforms.run import assess as assess
from ppl.transforms.run import generate as generate
from ppl.transforms.run import simulate as simulate
from ppl.transforms.seed import seed as seed
