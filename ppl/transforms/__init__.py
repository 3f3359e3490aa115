"""Program transformations: each turns a program into another one, in one file."""

from ppl.transforms.run import assess as assess
from ppl.transforms.run import generate as generate
from ppl.transforms.run import simulate as simulate
from ppl.transforms.seed import seed as seed
