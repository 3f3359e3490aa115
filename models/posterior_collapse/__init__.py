"""When do the latents of an auto-encoder say nothing, and whose fault is it?"""

from models.posterior_collapse.program import PROGRAM as PROGRAM
